"""How far a student's predictions are from its teacher's, on samples that no update learns from."""

from __future__ import annotations

import torch

from secateur.distilling import terms
from secateur.distilling.checkpoints import reshard
from secateur.distilling.samples import Distillation, draw_batch
from secateur.distilling.update import Training, ask_teacher, autocast
from secateur.pipeline.examples import answer

FIRST, BATCHES = 2**40, 4  # number of the first sample, which no update reaches; and how many batches count (ours)


@torch.no_grad()
def distance(distillation: Distillation, now: Training) -> float:
    """The mean square error to the teacher's predictions, over all processes.

    The pictures are those that are learnt from; their noise and timesteps are not.
    """
    size, device, errors = distillation.settings.batch_size, now.accelerator.device, []
    for start in range(FIRST, FIRST + BATCHES * size, size):
        mine = range(start, start + size)[now.accelerator.process_index :: now.accelerator.num_processes]
        question = draw_batch(distillation, mine).question.to(device, torch.float32)
        target, _ = ask_teacher(distillation, now, question)
        with autocast(distillation):
            prediction = answer(now.model, question)
        errors.append(terms.output(prediction.float(), target))
    reshard(now.model)
    return now.accelerator.reduce(torch.stack(errors).mean(), "mean").item()
