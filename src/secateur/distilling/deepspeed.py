"""DeepSpeed's ZeRO, stages 1 and 2, through accelerate: its configuration, and its optimizer's state by parameter.

Weights stay whole and float32 in every process, the optimizer is cut up, and half precision is torch's autocast. So terms,
averages and checkpoints are those of any other training, and a checkpoint goes on under any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.distilling.settings import PRECISIONS, DistilSettings

STAGES = (1, 2)
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, one value a weight


def used(accelerator: Any) -> bool:
    """Whether DeepSpeed trains."""
    return getattr(accelerator, "distributed_type", None) == "DEEPSPEED"


def check_config(accelerator: Any, mixed_precision: str) -> None:
    """Raises ValueError if a configuration of DeepSpeed, or the precision of the settings, does not work here."""
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage not in STAGES:
        raise ValueError(
            f"DeepSpeed's zero_stage is {stage}, and stages 1 and 2 work here: give 2, or FSDP 2 to cut up the weights too"
        )
    if accelerator.mixed_precision != "no":
        raise ValueError(
            f"accelerate's mixed_precision is {accelerator.mixed_precision!r}, by which DeepSpeed would round the student's "
            "weights: set it to 'no' there, and give --mixed-precision to Secateur"
        )
    if mixed_precision == "fp16":
        raise ValueError("DeepSpeed scales gradients of fp16 in a way that no checkpoint here holds: give bf16")


def configure(accelerator: Any, settings: DistilSettings) -> None:
    """Put what the engine must know of the settings into its configuration, before anything is prepared."""
    dtype = PRECISIONS[settings.mixed_precision]
    accelerator.state.deepspeed_plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": settings.batch_size // accelerator.num_processes,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.clip or 0.0,
        "torch_autocast": {"enabled": dtype is not torch.float32, "dtype": str(dtype).removeprefix("torch.")},
    }


def gather_state(optimizer: Any, student: nn.Module) -> dict[int, dict[str, Tensor]]:
    """AdamW's state by the number of the parameter, whole, as `torch.optim.AdamW.state_dict` has it; empty before a step."""
    from deepspeed.utils import safe_get_full_optimizer_state as whole  # pyright: ignore[reportMissingImports]

    if not (parts := list(optimizer.optimizer.optimizer.state.values())):  # of each flat part that this process has
        return {}
    step = parts[0]["step"]
    return {i: {"step": step.clone()} | {m: whole(p, m) for m in MOMENTS} for i, p in enumerate(student.parameters())}


def put_state(optimizer: Any, student: nn.Module, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Put the student's weights, as they are, and AdamW's state by the number of the parameter into the engine's optimizer."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state  # pyright: ignore[reportMissingImports]

    zero = optimizer.optimizer
    for group in zero.optimizer.param_groups:
        for flat in group["params"]:
            zeros = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            zero.optimizer.state[flat] = {"step": state[0]["step"].clone()} | zeros
    zero._lazy_init_hp_params_optimizer_state()  # by no public name: its first step would do that
    for i, p in enumerate(student.parameters()):
        safe_set_full_fp32_param(p, p.detach())
        for moment in MOMENTS:
            safe_set_full_optimizer_state(p, state[i][moment].to(p.device), moment)


def release(engine: Any, student: nn.Module) -> None:
    """Take what the engine left on the student away; each parameter gets memory of its own again."""
    engine.destroy()
    for p in student.parameters():
        p.data = p.data.clone()  # it was part of one flat tensor
        vars(p).clear()
