"""Plan: which layers are removed for good and how, as an artifact that a person can read, diff and mail. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import artifact
from secateur.artifact import TEXT, Form, document_of, frozen
from secateur.files import read_json

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs

# In place of a removed layer stands its input; or the hidden stream of it, if a skip was joined to that; or its 1×1 shortcut.
IDENTITY, DROP_SKIP, KEEP_SHORTCUT = REMOVALS = ("identity", "drop_skip", "keep_shortcut")
FORM = Form(
    noun="plan",
    number=1,
    fields={"denoiser": TEXT, "made": (dict,), "layers": (dict,)},
    ordered="layers",
    texts=("layers",),
)


@dataclass(frozen=True)
class Plan:
    """Layers of a teacher that its student lacks, and how that came about.

    layers: names of the layers removed, each of another part of the net. removals: how each goes, "identity" (y = x),
    "drop_skip" (y = the hidden stream in x, without the skip joined to it) or "keep_shortcut" (y = its 1×1 shortcut of x).
    denoiser: the teacher's class name. made: how it was made, any JSON.
    """

    layers: tuple[str, ...]
    removals: tuple[str, ...]
    denoiser: str
    made: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "made", frozen(self.made))
        check_layers(self)

    def items(self) -> Iterator[tuple[str, str]]:
        """Each layer with how it goes."""
        return zip(self.layers, self.removals, strict=True)

    def document(self) -> dict[str, Any]:
        """Its JSON document, format 1, as `save` writes it."""
        return document_of({"denoiser": self.denoiser, "made": self.made, "layers": dict(self.items())}, FORM)

    def save(self, path: str | Path) -> None:
        """Write it to a file; a reader sees the old file or the new one, never half of it."""
        artifact.save(self.document(), path)

    @staticmethod
    def load(path: str | Path, *, edited: bool = False) -> Plan:
        """The plan in a file; edited=True takes one changed by hand.

        Raises FileNotFoundError or ValueError, one sentence with the file's name.
        """
        return artifact.load(path, FORM, plan_from, edited=edited)

    def __reduce__(self):  # what is frozen in `made` cannot be pickled or copied as it is
        return plan_from, (self.document(),)

    def __str__(self) -> str:
        width = max(map(len, self.layers))
        lines = (f"{layer:<{width}}  {removal}" for layer, removal in self.items())
        return "\n".join((f"{self.denoiser}: {len(self.layers)} layers go", *lines))


def check_layers(plan: Plan) -> None:
    """Raises ValueError if the layers, or the ways in which they are removed, make no sense."""
    layers, removals = plan.layers, plan.removals
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"found {len(layers)} layers, {len(set(layers))} of them different: name one or more, each once")
    if len(removals) != len(layers):
        raise ValueError(f"found {len(layers)} layers but {len(removals)} removals: give one for each layer")
    if wrong := set(removals) - set(REMOVALS):
        raise ValueError(f"found removal {', '.join(sorted(map(repr, wrong)))}: use {', '.join(map(repr, REMOVALS))}")
    if inner := [layer for layer in layers if any(layer.startswith(f"{outer}.") for outer in layers)]:
        raise ValueError(f"{inner[0]} is in a layer that goes anyway: name the outer one alone")


def plan_from(document: Mapping[str, Any]) -> Plan:
    """The plan of a JSON document."""
    layers = document["layers"]
    return Plan(tuple(layers), tuple(layers.values()), denoiser=document["denoiser"], made=document["made"])


def is_plan(path: str | Path) -> bool:
    """Whether a file holds what can only be meant for a plan; `load` says what is wrong with it."""
    try:
        document = read_json(Path(path), "artifact")
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "layers" in document and "grid" not in document


def of_teacher(pipe: str, costs: Macs) -> float | None:
    """The fraction of its teacher's MACs that a student's call takes, by the plan in its folder; None without one."""
    from secateur.pipeline import pipes

    folder = pipes.locate(pipe)
    path = folder / "plan.json" if folder else None
    teacher = Plan.load(path).made.get("teacher") if path and path.is_file() else None
    return costs.call() / teacher["macs_linear"] if teacher else None
