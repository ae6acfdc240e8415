"""Trajectories of tiny pipes."""

from __future__ import annotations

import numpy as np
import torch

from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.apply import apply
from tiny_pipes import draw

T = 8


def recorded(pipe, call, calls: int = T) -> Trajectory:
    """The dense trajectory of a pipeline that takes embeddings, read off its scheduler."""
    from secateur.denoiser.patch import intercept

    tape = []

    def step(original, output, t, sample, *args, **kwargs):
        out = original(output, t, sample, *args, **kwargs)
        tape.append((float(t), output.clone(), sample.clone(), out[0].clone()))
        return out

    handle = intercept(pipe.scheduler, "step", step)
    draw(pipe, call | {"num_inference_steps": calls})
    handle.remove()
    times, outputs, before, after = zip(*tape, strict=True)
    batch = len(after[-1])
    latents = torch.stack([*before, after[-1]])
    return Trajectory(("",) * batch, tuple(range(batch)), times, latents, torch.stack(outputs), np.zeros((batch, 1, 1, 3)), {})


def after(pipe, call, schedule, calls: int = T) -> list[torch.Tensor]:
    """The latents after each of the scheduler's steps under a schedule."""
    with apply(pipe, schedule, fold=False):
        return list(recorded(pipe, call, calls).latents[1:])


def conditions_of(pipe, trajectory):
    """What the denoiser is told beside latents and timestep."""
    if not isinstance(trajectory.conditions[0], str):
        return {"class_labels": torch.tensor(trajectory.conditions)}
    tokens = pipe.tokenizer(list(trajectory.conditions), padding="max_length", max_length=8, return_tensors="pt").input_ids
    return {"encoder_hidden_states": pipe.text_encoder(tokens)[0]}
