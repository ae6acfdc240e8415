"""Where the zoo's weights and pictures lie: in a package of their own, secateur-zoo, which the small wheel does not hold."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def home() -> Path:
    """The folder of the package secateur-zoo. Raises ModuleNotFoundError if it is not installed."""
    spec = find_spec("secateur_zoo")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the zoo's weights are a package of their own, which is not here: pip install secateur-zoo")
    return Path(spec.origin).parent
