"""Names of solvers in the records: older records name the library's solvers by their spacing."""

import re

from published import EVERY_SOLVER


def library(name: str) -> str:
    """The name of a solver, or of a row of plain steps, as the library has it ("UniPC, Karras" is "UniPC Karras")."""
    default = re.sub(r"^(DDIM), trailing\b|^([^,]+), linspace\b", r"\1\2", name)
    return re.sub(r"^([^,]+), (leading|trailing|Karras)\b", r"\1 \2", default)


def is_published(group: str) -> bool:
    """Whether a group of a front is a published sampler that no scheduler of diffusers is."""
    return group.startswith(("GITS", "iPNDM", "Align Your Steps"))


def is_plain(group: str) -> bool:
    """Whether a group of a front is plain steps of a stock solver."""
    return library(group) in EVERY_SOLVER
