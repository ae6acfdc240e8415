"""U-Nets without some of their layers, as models that diffusers saves and loads by themselves.

A transformer that lost blocks is described by its stock configuration. A U-Net is not, so its class here carries the plan in
the configuration. Importing secateur is enough for `DiffusionPipeline.from_pretrained` to find that class; diffusers itself is
imported when it is first asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

STUDENT = "StudentUNet"


def __getattr__(name: str) -> Any:
    """StudentUNet, and what diffusers looks for beside it to know how to load it."""
    if name == STUDENT:
        return student_class()
    if name == "ModelMixin":
        from diffusers import ModelMixin

        return ModelMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
            given = sum(name.endswith("to_k_ip.weight") for name in state["ip_adapter"])
            if given != there:
                raise ValueError(
                    f"the IP-Adapter is of {given} attentions and this student has {there}, so that its weights would land on "
                    "others: use one that was made for the student"
                )
        UNet2DConditionModel._load_ip_adapter_weights(self, state_dicts, **options)

    wanted = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    ours = inspect.Parameter("removed", inspect.Parameter.KEYWORD_ONLY, default=None)
    init.__signature__ = inspect.Signature([*wanted, ours])  # type: ignore[attr-defined]  # diffusers reads its keys here
    own = {"__init__": init, "forward": forward, "_load_ip_adapter_weights": load_ip_adapter, "__module__": __name__}
    return type(STUDENT, (UNet2DConditionModel,), own | {"__doc__": student_class.__doc__})


def cut(unet: UNet2DConditionModel, removed: Mapping[str, str]) -> None:
    """A dense U-Net that was just built loses these layers."""
    from secateur.pruning.surgery import replacement

    for layer, how in removed.items():
        parent, _, name = layer.rpartition(".")
        setattr(unet.get_submodule(parent), name, replacement(unet.get_submodule(layer), how))
    unet.register_to_config(removed=dict(removed))


def as_student(unet: Any, removed: Mapping[str, str]) -> UNet2DConditionModel:
    """The same U-Net, which lacks these layers already beside what its configuration says, as one that can be saved."""
    known = dict(unet.config.get("removed") or {})
    outer = {layer: how for layer, how in known.items() if not any(layer.startswith(f"{new}.") for new in removed)}
    unet.__class__ = student_class()  # the same attributes: it differs in how it is built
    unet.register_to_config(removed={**outer, **removed})
    return unet
