# Two commands do everything on a fresh machine: `make demo` and `make test`. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check lint types prose tables zoo results clean

demo: .venv/installed  ## the main job, on the zoo: a table here, a page in secateur-demo/
	$(BIN)/secateur demo --out secateur-demo

test: .venv/installed  ## every test that needs no GPU and no network, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: lint types prose tables test  ## what .ci/run runs

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright

prose: .venv/installed  ## how long the sentences of README and docs are
	$(BIN)/python checks/sentences.py

tables: .venv/installed  ## whether README and docs say what results/ does
	$(BIN)/python benchmarks/pages.py --check

.venv/installed: pyproject.toml install_torch.py
	$(PYTHON) -m venv .venv
	$(BIN)/python install_torch.py
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

zoo: .venv/installed  ## train the zoo again from nothing (hours on a CPU, minutes on a GPU); resumes
	$(BIN)/python -m pip install -q tokenizers
	$(BIN)/python zoo_training/judge.py
	$(BIN)/python zoo_training/autoencoder.py
	$(BIN)/python zoo_training/emoji_sd.py
	$(BIN)/python zoo_training/emoji_dit.py

results: .venv/installed  ## measure every number of the README again
	$(BIN)/secateur demo --out results/demo --images 64
	$(BIN)/python benchmarks/zoo.py 128
	$(BIN)/python benchmarks/runtime.py --size 32 --dtype bfloat16 --repeats 5
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/paper_macs.py
	$(BIN)/python benchmarks/additivity.py --sets 40 --images 4
	$(BIN)/python benchmarks/fullsize.py
	for pipe in emoji-sd emoji-dit; do \
		$(BIN)/python benchmarks/front.py $$pipe --images 128 && \
		$(BIN)/python benchmarks/front.py $$pipe --images 128 --time && \
		$(BIN)/python benchmarks/front_figure.py $$pipe && \
		$(BIN)/python benchmarks/depth.py $$pipe --samples 32 --images 32 || exit 1; \
	done
	$(BIN)/python benchmarks/ablations.py --seeds 2
	$(BIN)/python benchmarks/ablations_figure.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/grids.py
	$(BIN)/python benchmarks/search_cost.py
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/recovery.py emoji-dit --updates 800 --examples 4096
	$(BIN)/python benchmarks/recovery.py emoji-sd --updates 240 --examples 2048
	$(BIN)/python benchmarks/recovery.py emoji-sd --cost macs --updates 240 --examples 2048
	for run in "emoji-dit --updates 800" "emoji-sd --updates 240"; do \
		$(BIN)/python benchmarks/product.py $$run && $(BIN)/python benchmarks/product.py $${run%% *} --time || exit 1; \
	done
	$(BIN)/python benchmarks/fullsize_depth.py sd15
	$(BIN)/python benchmarks/fullsize_depth.py sdxl
	$(BIN)/python benchmarks/pages.py

clean:
	rm -rf .venv secateur-demo
