"""The studies, each module with its STUDIES; `python benchmarks/run.py` measures what one has not measured."""

from importlib import import_module

NAMES = ("front", "searching", "carried", "depth", "recovery", "product", "full_size", "gpu", "zoo", "schedulers", "families")
STUDIES = tuple(study for name in NAMES for study in import_module(f"studies.{name}").STUDIES)
