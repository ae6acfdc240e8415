"""U-Nets without some of their layers, as models that diffusers saves and loads by themselves.

A transformer that lost blocks is described by its stock configuration. A U-Net is not, so its class here carries the plan in
the configuration. After `import secateur`, `DiffusionPipeline.from_pretrained` finds that class. diffusers itself is imported
when the class is first used.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from secateur.denoiser.families import FAMILIES
from secateur.pipeline.pipes import STUDENT
from secateur.pruning.plan import DROP_SKIP, KEEP_SHORTCUT

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

COPYING = ("from_unet", "from_unet2d")  # of ControlNets and of AnimateDiff


class Passage(nn.Module):
    """Stands in for a removed layer: gives the first `width` channels of its input, or all. nested: in a tuple."""

    def __init__(self, width: int | None = None, *, nested: bool = False):
        super().__init__()
        self.width, self.nested = width, nested

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        y = x if self.width is None else x[:, : self.width]
        return (y,) if self.nested else y


class Shortcut(nn.Module):
    """Stands in for a removed resnet that changes the width: its 1×1 convolution. scale: by which resnets divide their sum."""

    def __init__(self, conv_shortcut: nn.Module, *, out_channels: int, scale: float):
        super().__init__()
        self.conv_shortcut, self.out_channels, self.scale = conv_shortcut, out_channels, scale

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.conv_shortcut(x) / self.scale


def replacement(module: Any, how: str) -> nn.Module:
    """The module that stands in for this one in a U-Net."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    if how == KEEP_SHORTCUT:
        shortcut = deepcopy(module.conv_shortcut)
        new: nn.Module = Shortcut(shortcut, out_channels=module.out_channels, scale=module.output_scale_factor)
    else:  # The blocks of a U-Net ask a Transformer2DModel for return_dict=False.
        new = Passage(module.out_channels if how == DROP_SKIP else None, nested=isinstance(module, Transformer2DModel))
    new.register_state_dict_pre_hook(refuse_copying)
    return new


def refuse_copying(*_: Any) -> None:
    """Raises ValueError if diffusers reads a student's weights to copy them into a model that has every layer."""
    frame = sys._getframe()
    while frame := frame.f_back:
        if (name := frame.f_code.co_name) in COPYING:
            raise ValueError(
                f"{frame.f_locals['cls'].__name__}.{name} copies the weights of a whole U-Net, and this student lacks layers: "
                "give it the teacher's U-Net; a ControlNet of the teacher fits a student that kept its samplers"
            )


class Stock(type):
    """The class of a class that equals its base, as which diffusers' `from_pipe` then takes it."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__base__

    def __hash__(cls) -> int:
        return hash(cls.__base__)


@cache
def student_class() -> type[UNet2DConditionModel]:
    """A U-Net whose configuration says which layers it lacks and how each went: `removed`, layer → removal, as in a Plan."""
    from diffusers import UNet2DConditionModel

    def init(self, removed: Mapping[str, str] | None = None, **config: Any) -> None:
        UNet2DConditionModel.__init__(self, **config)
        cut(self, removed or {})

    @wraps(UNet2DConditionModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return UNet2DConditionModel.forward(self, *args, **kwargs)
        except RuntimeError as error:
            if kwargs.get("down_block_additional_residuals") is None or "size of tensor" not in str(error):
                raise
            raise ValueError(
                "what the ControlNet or T2I-Adapter adds is of other sizes than this student's, some of whose samplers went: "
                "use a student that keeps them all"
            ) from error

    def load_ip_adapter(self, state_dicts: Any, **options: Any) -> None:
        there = sum(name.endswith("attn2.processor") for name in self.attn_processors)
        for state in state_dicts if isinstance(state_dicts, list) else [state_dicts]:
            count = sum(name.endswith("to_k_ip.weight") for name in state["ip_adapter"])
            if count != there:
                raise ValueError(
                    f"the IP-Adapter is of {count} attentions and this student has {there}, so that its weights would land on "
                    "others: use one that was made for the student"
                )
        UNet2DConditionModel._load_ip_adapter_weights(self, state_dicts, **options)

    def from_single_file(cls, *_: Any, **__: Any) -> None:
        raise ValueError(
            "from_single_file reads the files of whole U-Nets: save the student by save_pretrained, and load its folder by "
            "secateur.StudentUNet.from_pretrained"
        )

    parameters = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    ours = inspect.Parameter("removed", inspect.Parameter.KEYWORD_ONLY, default=None)
    init.__signature__ = inspect.Signature([*parameters, ours])  # type: ignore[attr-defined]  # diffusers reads its keys here
    own = {"__init__": init, "forward": forward, "_load_ip_adapter_weights": load_ip_adapter, "__module__": "secateur"}
    own |= {"from_single_file": classmethod(from_single_file), "__doc__": student_class.__doc__}
    return Stock(STUDENT, (UNet2DConditionModel,), own)


def cut(unet: UNet2DConditionModel, removed: Mapping[str, str]) -> None:
    """A dense U-Net that was just built loses these layers."""
    for layer, how in removed.items():
        parent, _, name = layer.rpartition(".")
        setattr(unet.get_submodule(parent), name, replacement(unet.get_submodule(layer), how))
    unet.register_to_config(removed=dict(removed))


def as_student(unet: Any, removed: Mapping[str, str]) -> UNet2DConditionModel:
    """The same U-Net as a class that diffusers can save; it lacks these layers beside those in its configuration."""
    before = dict(unet.config.get("removed") or {})
    outer = {layer: how for layer, how in before.items() if not any(layer.startswith(f"{new}.") for new in removed)}
    unet.__class__ = student_class()  # the same attributes: it differs in how it is built
    unet.register_to_config(removed={**outer, **removed})
    return unet


FAMILIES[STUDENT] = replace(FAMILIES["UNet2DConditionModel"], cls=student_class)
