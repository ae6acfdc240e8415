# Two commands do everything on a fresh machine: `make demo` and `make test`; `make quick` is for working. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: demo quick test test-all check lint types prose tables docs docs-serve studio-test zoo results gpu clean

demo: .venv/installed  ## the main job, on the zoo: a table here, a page in secateur-demo/
	$(BIN)/secateur demo --out secateur-demo

quick: .venv/installed  ## about a minute: laws, arithmetic, tiny networks; no command, no other process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -k "not law_11 and not two_writers" \
		tests/test_*.py tests/checks tests/denoiser tests/schedule

test: .venv/installed  ## every test that needs no GPU and no network, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=15

test-all: .venv/installed  ## the slow ones too: killed and launched processes of every job
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=15 -m "not gpu and not network and not browser"

studio-test: .venv/installed  ## a click-through of the studio in Chromium; Debian: apt-get install chromium
	$(BIN)/python -m pip install -q 'playwright>=1.50'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/studio

check: lint types prose tables docs test  ## what .ci/run runs

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright

prose: .venv/installed  ## how long the sentences of README and docs are
	$(BIN)/python checks/sentences.py

tables: .venv/installed  ## whether README and docs say what results/ does
	$(BIN)/python benchmarks/pages.py --check

docs: .venv/installed  ## the docs site in site/; a broken link, a warning or a public name without a line in the reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: .venv/installed  ## the docs site on 127.0.0.1:8000, built again at every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

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
	$(BIN)/python zoo_training/decoder.py

results: .venv/installed  ## measure every number of the pages again; resumes
	$(BIN)/secateur demo --out results/demo --images 64
	for study in zoo schedulers runtime cache paper-macs fullsize fullsize-depth ablations carried search-cost milliseconds; do \
		$(BIN)/python benchmarks/run.py $$study || exit 1; \
	done
	for pipe in emoji-sd emoji-dit; do \
		for study in front timing depth; do $(BIN)/python benchmarks/run.py $$study $$pipe || exit 1; done; \
	done
	for run in "emoji-dit --updates 800 --examples 4096" "emoji-sd --updates 240 --examples 2048" \
		"emoji-sd --cost macs --updates 240 --examples 2048"; do \
		$(BIN)/python benchmarks/run.py recovery $$run || exit 1; \
	done
	for run in "emoji-dit --updates 800" "emoji-sd --updates 240"; do \
		for study in product product-times; do $(BIN)/python benchmarks/run.py $$study $$run || exit 1; done; \
	done
	$(BIN)/python benchmarks/picture.py
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python benchmarks/pages.py

gpu: .venv/installed  ## what only a GPU can say, for MINUTES of it; resumes. REHEARSE=1: tiny networks on a CPU, a minute
	$(if $(REHEARSE),OMP_NUM_THREADS=1) $(BIN)/python benchmarks/run.py gpu --minutes $(or $(MINUTES),8) \
		$(if $(REHEARSE),--rehearse 1 --results out)

clean:
	rm -rf .venv secateur-demo site
