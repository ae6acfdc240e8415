"""Pipelines by name: of the zoo, in a local folder, or on the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import zoo
from secateur.pipeline.solvers import DPM, FIRST_ORDER, PLAIN, UNIPC, begun
from secateur.schedule.apply import DENOISERS
from secateur.schedule.schedule import Schedule, scheduler_signature

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {  # at their stock spacings: class of diffusers, options
    "DDIM": ("DDIMScheduler", TRAILING),
    "DDIM leading": ("DDIMScheduler", {"timestep_spacing": "leading"}),
    "DPM-Solver++": (DPM, LINSPACE),
    "DPM-Solver++ trailing": (DPM, TRAILING),
    "DPM-Solver++ Karras": (DPM, LINSPACE | {"use_karras_sigmas": True}),
    "UniPC": (UNIPC, LINSPACE),
    "UniPC trailing": (UNIPC, TRAILING),
    "UniPC Karras": (UNIPC, LINSPACE | {"use_karras_sigmas": True}),
}


def load(source: str, *, dtype: str = "float32") -> DiffusionPipeline:
    """The pipeline `source`: a name of the zoo, a local folder in diffusers' format, or a Hub id such as "owner/name".

    dtype: "float32", "bfloat16" or "float16". FileNotFoundError or ValueError, in a sentence, where there is none.
    """
    import torch
    from diffusers import DiffusionPipeline

    folder = locate(source)
    return DiffusionPipeline.from_pretrained(folder or source, dtype=getattr(torch, dtype))


def locate(source: str) -> Path | None:
    """The folder of a local pipeline or one of the zoo's; None for an id to be looked up on the Hub."""
    if source in zoo.NAMES:
        return zoo.folder(source)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise FileNotFoundError(
                f"{source} is no diffusers pipeline: it has no model_index.json; give the pipeline's folder"
            )
        return path
    owner, slash, name = source.partition("/")
    if slash and owner and name and "/" not in name and not source.startswith((".", "~")):
        return None
    if slash:
        raise FileNotFoundError(f"there is no folder {source}: give a pipeline's folder, a Hub id, or {' or '.join(zoo.NAMES)}")
    raise ValueError(f"the zoo has no pipeline {source!r}: choose {' or '.join(zoo.NAMES)}, a folder, or a Hub id owner/name")


def save(pipe: DiffusionPipeline, folder: str | Path, *, beside: Mapping[str, Any] | None = None) -> None:
    """Write a pipeline's folder; until all of it is there, what was there before stays. OSError where there is no room.

    What a killed saving left behind is cleared away, and the folder that it had put aside is put back.
    beside: artifacts to save in the folder too, by the names of their files.
    """
    from safetensors import SafetensorError

    out = Path(folder)
    part, old = (out.with_name(f".{out.name}.{word}") for word in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    if old.exists() and not out.exists():
        old.replace(out)  # the only one there is
    shutil.rmtree(old, ignore_errors=True)
    try:
        pipe.save_pretrained(part)
        for name, artifact in (beside or {}).items():
            artifact.save(part / name)
        if out.exists():
            out.replace(old)
        part.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{out} cannot be written ({error}), and is as it was: make room, and run the same command") from error
    finally:
        if old.exists() and not out.exists():
            old.replace(out)
        shutil.rmtree(part, ignore_errors=True)


def denoiser_config(source: str) -> dict[str, Any]:
    """The configuration of a pipeline's denoiser, read without loading any weights; also of the full-size names of `macs`."""
    from secateur.denoiser import macs

    if source in macs.denoiser_names():
        return macs.denoiser_config(source)
    folder = locate(source)
    index = json.loads(_file(source, folder, "model_index.json").read_text())
    found = [name for name in DENOISERS if index.get(name, [None])[0] is not None]
    if not found:
        raise ValueError(f"{source} has neither a unet nor a transformer among its components: give a diffusion pipeline")
    return json.loads(_file(source, folder, f"{found[0]}/config.json").read_text())


def _file(source: str, folder: Path | None, name: str) -> Path:
    if folder is not None:
        return folder / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, name))


def calls(pipe: DiffusionPipeline, steps: int) -> int:
    """How often `steps` steps of the pipe's scheduler call its denoiser: PNDM makes one more, Heun about twice as many."""
    return len(begun(pipe.scheduler, steps).timesteps)


def scheduler_of(source: str) -> Any:
    """A pipeline's scheduler, read without loading any weights."""
    folder = locate(source)
    name = json.loads(_file(source, folder, "model_index.json").read_text())["scheduler"][1]
    return scheduler_class(name).from_config(json.loads(_file(source, folder, "scheduler/scheduler_config.json").read_text()))


def scheduler_class(name: str) -> Any:
    """The class of diffusers' scheduler of this name; ValueError where there is none."""
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "set_timesteps"):
        raise ValueError(f"diffusers has no scheduler {name!r}: give a class such as DPMSolverMultistepScheduler")
    return kind


def scheduler_like(scheduler: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """A scheduler of the class `name`, configured like another one but for `options`; see `scheduled`."""
    kind = scheduler_class(name) if name else type(scheduler)
    return kind.from_config(scheduler.config, **{**PLAIN.get(name or "", {}), **options})


def scheduler_for(scheduler: Any, schedule: Schedule | None) -> tuple[str | None, Mapping[str, Any]]:
    """Class and options that `scheduled` makes a schedule's scheduler of, also a folded one's; None for the one at hand."""
    if schedule is None or (schedule.scheduler, schedule.scheduler_hash) == scheduler_signature(scheduler):
        return None, {}
    name, wanted = schedule.scheduler, schedule.scheduler_hash
    known = FIRST_ORDER.values() if name == DPM else ()
    fits = (options for options in known if scheduler_signature(scheduler_like(scheduler, name, options))[1] == wanted)
    return name, next(fits, {})


@contextmanager
def scheduled(pipe: DiffusionPipeline, name: str | None, options: Mapping[str, Any]) -> Iterator[None]:
    """`pipe` with diffusers' scheduler class `name`, configured like its own but for `options`; its own again afterwards.

    DPM-Solver++ and UniPC by their names begin as `PLAIN` has them, however the pipe's own is set.
    """
    before = pipe.scheduler
    pipe.scheduler = scheduler_like(before, name, options)
    try:
        yield
    finally:
        pipe.scheduler = before
