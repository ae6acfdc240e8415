"""Checkpoints: a training in a file, which goes on from it exactly."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from secateur import checkpoint
from secateur.distilling import deepspeed
from secateur.distilling.samples import Distillation, draw_batch
from secateur.distilling.update import AFRESH, Training, autocast
from secateur.pipeline.examples import answer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from secateur.distilling.settings import DistilSettings

FILE, NOUN = "distil.safetensors", "distillation"
STATED = ("number", "scales", "raw", "normalized", "total", "untaught", "taught")


def save_checkpoint(now: Training, student: nn.Module, folder: Path, *, arguments: Mapping[str, Any]) -> None:
    """Write a training into its folder, see `checkpoint.write`; every process calls this, and the main one writes."""
    tensors = gather_tensors(now, student)
    if now.accelerator.is_main_process:
        scaler = getattr(now.accelerator, "scaler", None)  # of fp16
        stated = {name: getattr(now, name) for name in STATED} | {"scaler": scaler.state_dict() if scaler is not None else {}}
        checkpoint.write(tensors, folder / FILE, stated=stated, arguments=arguments)


@torch.no_grad()
def check_student(now: Training, distillation: Distillation) -> None:
    """Raises ValueError, in all processes, if the last update left weights or predictions that are not finite.

    Too large an update leaves finite weights that predict NaN, so the student predicts that update's samples once more.
    """
    s, device = distillation.settings, now.accelerator.device
    last = range(now.number * s.samples - s.batch_size, now.number * s.samples)
    query = draw_batch(distillation, last[now.accelerator.process_index :: now.accelerator.num_processes]).question
    with autocast(distillation):
        prediction = answer(now.model, query.to(device, torch.float32))
    reshard(now.model)
    sound = torch.stack([x.isfinite().all() for x in (prediction, *map(local, distillation.student.parameters()))]).all()
    if now.accelerator.reduce(sound.float(), "mean").item() < 1:
        raise ValueError(f"update {now.number} left a student that answers NaN or infinity, which is not saved: {AFRESH}")


def load_checkpoint(now: Training, student: nn.Module, folder: Path, *, arguments: Mapping[str, Any]) -> None:
    """Put the training saved in a folder, if any, into this one. Raises ValueError if it is damaged or another one's."""
    if not (folder / FILE).exists():
        return
    stated, tensors = checkpoint.read(folder / FILE, noun=NOUN, arguments=arguments)
    put_tensors(now, student, tensors)
    for name in STATED:
        setattr(now, name, stated.get(name))  # older files lack the last two
    if stated["scaler"] and now.accelerator.scaler is not None:
        now.accelerator.scaler.load_state_dict(stated["scaler"])


def check_settings(folder: Path, settings: DistilSettings) -> None:
    """Raises ValueError, before any model is loaded, if a training saved in a folder cannot go on with these settings."""
    if not (folder / FILE).exists():
        return
    with checkpoint.opened(folder / FILE, noun=NOUN) as (_, entry):
        pass
    ours = settings.lasting()
    theirs = {name: value for name, value in entry["arguments"].items() if name in ours}
    checkpoint.check_arguments({**entry, "arguments": theirs}, folder, noun=NOUN, arguments=ours)


def gather_tensors(now: Training, student: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a training by name, whole even if processes hold parts of it."""
    names = [name for name, _ in student.named_parameters()]
    state = (
        deepspeed.gather_state(now.optimizer, student)
        if deepspeed.used(now.accelerator)
        else now.optimizer.state_dict()["state"]
    )
    moments = {f"optimizer.{part}.{names[i]}": x for i, parts in state.items() for part, x in parts.items()}
    weights = {f"student.{name}": p for name, p in student.named_parameters()}
    return {name: whole(x) for name, x in (weights | moments | {f"averaged.{n}": x for n, x in now.averaged.items()}).items()}


def put_tensors(now: Training, student: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `gather_tensors` back."""
    parameters, state = dict(student.named_parameters()), defaultdict(dict)
    places = {name: i for i, name in enumerate(parameters)}
    with torch.no_grad():
        for key, x in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "optimizer":
                part, name = name.split(".", 1)
                state[places[name]][part] = spread_like(x, parameters[name])
            else:
                target = parameters[name] if kind == "student" else now.averaged[name]
                target.copy_(spread_like(x, target))
    if deepspeed.used(now.accelerator):
        return deepspeed.put_state(now.optimizer, student, state)
    groups = now.optimizer.state_dict()["param_groups"]
    now.optimizer.load_state_dict({"state": dict(state), "param_groups": groups})


def whole(x: Tensor) -> Tensor:
    """A whole tensor, gathered if processes hold parts of it."""
    return x.full_tensor() if is_spread(x) else x


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return x.to_local() if is_spread(x) else x


def reshard(model: nn.Module) -> None:
    """Let FSDP 2 give back the weights that it gathered for a forward, which only a backward would make it do by itself."""
    for module in model.modules():
        if callable(again := getattr(module, "reshard", None)):
            again()


def is_spread(x: Any) -> TypeGuard[DTensor]:
    """Whether processes hold parts of a tensor; without them there is no need for a module that is slow to import."""
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def spread_like(x: Tensor, target: Tensor) -> Tensor:
    """A whole tensor spread over processes as the target is; a count of steps stays as it is."""
    if is_spread(target) and x.ndim:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(x.to(target.device), target.device_mesh, target.placements)
    return x
