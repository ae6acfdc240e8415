"""A student's folder on the Hub: pushed with a card that says what it keeps of its teacher, and pulled whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from secateur import hub
from secateur.denoiser import macs
from secateur.denoiser.families import meta_twin
from secateur.pipeline import pipes
from secateur.pruning.plan import Plan
from secateur.pruning.surgery import parameters

PLAN = "plan.json"


def push_student(folder: str | Path, repo: str, *, base: str | None = None, private: bool = False) -> str:
    """The owner/name@commit at which a student's folder now is on the Hugging Face Hub, with a card.

    folder: as `secateur prune` and `secateur distil` write it. repo: "owner/name", made if there is none. base: the Hub id of
    its teacher, unless the folder's plan says it. Raises ValueError or OSError, one sentence, if something is wrong.
    """
    folder = Path(folder)
    plan = check(folder)
    base = pipes.base_of(base, plan.made)
    text = hub.heading(base, library="diffusers", relation="finetune") + card(folder, plan, base, repo)
    paths = sorted({path for kind in hub.FILES for path in folder.rglob(kind) if not path.name.startswith(".")})
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return hub.put(repo, {**files, hub.README: text.encode()}, private=private)


def pull_student(name: str, out: str | Path) -> str:
    """The owner/name@commit of a student that is now in a new folder, whose plan says it too; see `push_student`.

    Raises ValueError or OSError, one sentence, if it cannot be had or is damaged; then the folder is not there.
    """
    out = Path(out)
    taken = hub.take_all(name, hub.FILES)
    plan = hub.load(taken, check)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(taken.path, part)
        plan.save(part / PLAN)  # which says from where
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return taken.source


def is_student(name: str) -> bool:
    """Whether a repository on the Hub holds a student. False as well if it is not there."""
    try:
        return bool(hub.take(name, PLAN))
    except FileNotFoundError:
        return False


def check(folder: Path) -> Plan:
    """The plan of a student's folder. Raises ValueError or OSError if a part of it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    plan = Plan.load(folder / PLAN)
    pipes.denoiser_config(str(folder))
    for path in folder.rglob("*.safetensors"):
        try:
            safe_open(path, framework="np").__enter__().keys()
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}): take the original") from error
    return plan


def card(folder: Path, plan: Plan, base: str, repo: str) -> str:
    """The card below its heading: what the student keeps, and how it is loaded."""
    twin, teacher = meta_twin(config := pipes.denoiser_config(str(folder))), plan.made.get("teacher", {})
    costs = macs.count(config)
    sizes = {
        "parameters": ("parameters", parameters(twin), 1e6, "M"),
        "macs_linear": ("MACs of a call", costs.call(), 1e9, "G"),
        "macs_attention": ("the same with attention", costs.call(attention=True), 1e9, "G"),
    }
    rows = []
    for key, (name, left, unit, letter) in sizes.items():
        whole = teacher.get(key)
        dense, kept = (f"{whole / unit:,.2f} {letter}", f" ({left / whole:.1%})") if whole else ("not stated", "")
        rows.append(f"| {name} | {dense} | {left / unit:,.2f} {letter}{kept} |")
    return f"""
# {base} without {len(plan.layers)} of its layers

A student of Secateur: the denoiser of {base} lost the layers that `plan.json` names.

| | {base} | this student |
|---|---:|---:|
{chr(10).join(rows)}

MACs are multiply-accumulates of one sample.

```python
import secateur

pipe = secateur.load_pipe("{repo}")
```

Made by `{plan.made.get("command", "secateur prune")}`.
"""
