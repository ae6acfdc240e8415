"""Names of solvers and of held calls in the records: older records name the library's solvers by their spacing."""

from __future__ import annotations

from secateur.measuring.variants import EVEN as EVEN
from secateur.pipeline.schedulers import SOLVERS

RECORDED = {  # the library's name → that of older records
    "DDIM": "DDIM, trailing",
    "DDIM leading": "DDIM, leading",
    "DPM-Solver++": "DPM-Solver++, linspace",
    "DPM-Solver++ trailing": "DPM-Solver++, trailing",
    "DPM-Solver++ Karras": "DPM-Solver++, Karras",
    "UniPC": "UniPC, linspace",
    "UniPC trailing": "UniPC, trailing",
    "UniPC Karras": "UniPC, Karras",
}
LIBRARY = {recorded: name for name, recorded in RECORDED.items()}
PLAIN = (*SOLVERS, *LIBRARY)


def library(name: str) -> str:
    """The name of a solver, or of a row of plain steps, as the library has it."""
    solver, _, steps = name.rpartition(", ")
    return LIBRARY.get(name) or (f"{LIBRARY[solver]}, {steps}" if solver in LIBRARY else name)
