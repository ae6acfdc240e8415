"""One row of data per denoiser class: what counts as a block and what one call needs. Architectures differ only here.

Your own denoiser becomes known by one more row:

    FAMILIES["MyNet"] = Family(granularities={"layer": ("layers.*",)}, reuse="residual", inputs=my_inputs)

Its `my_inputs(config, *, batch, size, tokens)` returns the keyword arguments of one forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Size = int | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The facts about a denoiser class that tracing cannot tell.

    granularities: name → patterns of module names; `*` stays within one component; the first granularity is the default.
    reuse: "output" or "residual", which a block that does not run reuses.
    depths: name of each list of blocks → the configuration's key for its length; empty if the configuration has none.
    reads: path of a module in the first block that the denoiser itself reads.
    cls: returns the class if it is not diffusers' own, so that a configuration is enough to build it.
    inputs: `inputs(config, *, batch, size, tokens)` → keyword arguments of one forward, on the default device;
    size and tokens are None if the caller leaves them to the denoiser's configuration.
    """

    granularities: Mapping[str, tuple[str, ...]]
    reuse: str
    depths: Mapping[str, str] = field(default_factory=dict)
    reads: str | None = None
    cls: Callable[[], type[nn.Module]] | None = None
    inputs: Callable[..., dict[str, Any]]


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def indices(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


def sides(size: Size) -> tuple[int, ...]:
    """Height and width of a latent given as one side or as a tuple."""
    return (size, size) if isinstance(size, int) else tuple(size)


def unet_class(config: Mapping, batch: int) -> dict[str, Tensor]:
    """A U-Net's class condition, by its `class_embed_type`; empty if it takes no class."""
    kind = config["class_embed_type"]
    if kind is None and config["num_class_embeds"] is None:
        return {}
    if kind in (None, "timestep"):
        return {"class_labels": indices(batch)}
    projected = config["projection_class_embeddings_input_dim"]
    return {"class_labels": zeros(batch, 4 * config["block_out_channels"][0] if kind == "identity" else projected)}


def unet_added(config: Mapping, batch: int, *, text: int, cross: int, image: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """The added conditions of SDXL (pooled text and six numbers about the picture) and of Kandinsky 2.1 and 2.2 (an image)."""
    kinds = {config["addition_embed_type"], config["encoder_hid_dim_type"]}
    added = {}
    if "text_time" in kinds:
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        added |= {"text_embeds": zeros(batch, pooled), "time_ids": zeros(batch, 6)}
    if "image_hint" in kinds:  # the picture that a hint is of has eight times the latent's sides
        added |= {"image_embeds": zeros(batch, text), "hint": zeros(batch, 3, *(8 * side for side in image))}
    if kinds & {"image", "image_proj"}:
        added |= {"image_embeds": zeros(batch, text)}
    if kinds & {"text_image", "text_image_proj"}:
        added |= {"text_embeds": zeros(batch, cross), "image_embeds": zeros(batch, cross)}
    return {"added_cond_kwargs": added} if added else {}


def unet_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """U-Nets of Stable Diffusion 1, 2 and XL: 77 text tokens."""
    cross, image = config["cross_attention_dim"], sides(size or config["sample_size"] or 64)
    own = not isinstance(cross, int) and len(set(map(str, cross))) > 1  # AudioLDM's, which attends to itself instead of text
    cross = cross if isinstance(cross, int) else cross[0]
    text = config["encoder_hid_dim"] or cross
    guidance = config["time_cond_proj_dim"]  # LCM's
    hint = 4 * (config["addition_embed_type"] == "image_hint")  # channels that the net itself makes of the hint
    return {
        "sample": zeros(batch, config["in_channels"] - hint, *image),
        "timestep": zeros(batch),
        "encoder_hidden_states": None if own else zeros(batch, tokens or 77, text),
        **({"timestep_cond": zeros(batch, guidance)} if guidance else {}),
        **unet_class(config, batch),
        **unet_added(config, batch, text=text, cross=cross, image=image),
    }


def dit_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """DiT: a class label instead of text, so `tokens` is ignored."""
    return {
        "hidden_states": zeros(batch, config["in_channels"], *sides(size or config["sample_size"])),
        "timestep": indices(batch),
        "class_labels": indices(batch),
    }


def pixart_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """PixArt-α and Σ: 120 tokens of T5 by default (Σ takes 300); resolution and aspect ratio if the net reads them."""
    reads_resolution = config["use_additional_conditions"]
    if reads_resolution is None:
        reads_resolution = config["sample_size"] == 128
    return {
        "hidden_states": zeros(batch, config["in_channels"], *sides(size or config["sample_size"])),
        "encoder_hidden_states": zeros(batch, tokens or 120, config["caption_channels"] or config["cross_attention_dim"]),
        "timestep": indices(batch),
        "added_cond_kwargs": {
            "resolution": zeros(batch, 2) if reads_resolution else None,
            "aspect_ratio": zeros(batch, 1) if reads_resolution else None,
        },
    }


def sd3_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """SD3 and 3.5: 77 tokens of CLIP and 256 of T5."""
    return {
        "hidden_states": zeros(batch, config["in_channels"], *sides(size or config["sample_size"])),
        "encoder_hidden_states": zeros(batch, tokens or 333, config["joint_attention_dim"]),
        "pooled_projections": zeros(batch, config["pooled_projection_dim"]),
        "timestep": zeros(batch),
    }


def flux_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """Flux: 512 tokens of T5; the latent, by default 128 a side (1024 px), goes in as patches of 2×2."""
    height, width = sides(size or 128)
    patches, axes, tokens = (height // 2) * (width // 2), len(config["axes_dims_rope"]), tokens or 512
    return {
        "hidden_states": zeros(batch, patches, config["in_channels"]),
        "encoder_hidden_states": zeros(batch, tokens, config["joint_attention_dim"]),
        "pooled_projections": zeros(batch, config["pooled_projection_dim"]),
        "timestep": zeros(batch),
        "img_ids": zeros(patches, axes),
        "txt_ids": zeros(tokens, axes),
        **({"guidance": zeros(batch)} if config["guidance_embeds"] else {}),
    }


def wan_inputs(config: Mapping, *, batch: int, size: Size | None, tokens: int | None) -> dict[str, Any]:
    """Wan: 512 tokens of UMT5; by default a latent of 21 frames of 60×104 (81 frames at 480×832 px); one side is one frame."""
    size = (21, 60, 104) if size is None else sides(size)
    image, patches = config["image_dim"], config["pos_embed_seq_len"]
    images = (2 * batch, patches // 2) if patches else (batch, 257)  # with places for two images, the first and the last frame
    return {
        "hidden_states": zeros(batch, config["in_channels"], *(size if len(size) == 3 else (1, *size))),
        "timestep": indices(batch),
        "encoder_hidden_states": zeros(batch, tokens or 512, config["text_dim"]),
        **({"encoder_hidden_states_image": zeros(*images, image)} if image else {}),
    }


UNET_LAYERS = ("resnets", "attentions", "downsamplers", "upsamplers")


def unet_granularities(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The stages of a U-Net, and its layers, which are in lists of these names."""
    return {
        "stage": ("down_blocks.*", "mid_block", "up_blocks.*"),
        "layer": tuple(f"{stage}.{layer}.*" for layer in layers for stage in ("*_blocks.*", "mid_block")),
    }


FAMILIES: dict[str, Family] = {
    "UNet2DConditionModel": Family(granularities=unet_granularities(UNET_LAYERS), reuse="output", inputs=unet_inputs),
    "DiTTransformer2DModel": Family(
        granularities={"layer": ("transformer_blocks.*",)},
        reuse="residual",
        depths={"transformer_blocks": "num_layers"},
        reads="norm1.emb",
        inputs=dit_inputs,
    ),
    "PixArtTransformer2DModel": Family(
        granularities={"layer": ("transformer_blocks.*",)},
        reuse="residual",
        depths={"transformer_blocks": "num_layers"},
        inputs=pixart_inputs,
    ),
    "SD3Transformer2DModel": Family(
        granularities={"layer": ("transformer_blocks.*",)},
        reuse="residual",
        depths={"transformer_blocks": "num_layers"},
        inputs=sd3_inputs,
    ),
    "FluxTransformer2DModel": Family(
        granularities={"layer": ("transformer_blocks.*", "single_transformer_blocks.*")},
        reuse="residual",
        depths={"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"},
        inputs=flux_inputs,
    ),
    "WanTransformer3DModel": Family(
        granularities={"layer": ("blocks.*",)}, reuse="residual", depths={"blocks": "num_layers"}, inputs=wan_inputs
    ),
}
"""What is known about each class of denoiser, by its name. Add a row and your own is known."""


def bare(denoiser: nn.Module) -> nn.Module:
    """The denoiser itself, without `torch.compile`'s wrapper; class and block names start here."""
    while "_orig_mod" in denoiser._modules:
        denoiser = denoiser.get_submodule("_orig_mod")
    return denoiser


def class_name(denoiser: nn.Module | Mapping | str) -> str:
    """Class of a denoiser, of a configuration by its `_class_name`, or the name itself. Raises TypeError if it is none."""
    if isinstance(denoiser, str):
        return denoiser
    if isinstance(denoiser, nn.Module):
        return type(bare(denoiser)).__name__
    if not isinstance(denoiser, Mapping):
        raise TypeError(
            f"found a {type(denoiser).__name__} for a denoiser: give pipe.unet, pipe.transformer or its configuration"
        )
    if "_class_name" not in denoiser:
        raise ValueError("found a configuration without '_class_name': add the denoiser's class under that key")
    return denoiser["_class_name"]


def architecture(denoiser: nn.Module | Mapping) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """(class, arguments that build the denoiser), with defaults filled in; a configuration names a diffusers class."""
    cls, config = denoiser_class(denoiser)
    parameters = inspect.signature(cls.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return cls, defaults | {name: value for name, value in config.items() if name in parameters}


def denoiser_class(denoiser: nn.Module | Mapping) -> tuple[Callable[..., nn.Module], Mapping]:
    """(class, configuration) of a denoiser, or of a configuration by its `_class_name`."""
    import diffusers

    name = class_name(denoiser)
    if not isinstance(denoiser, nn.Module):
        if name in FAMILIES and (own := FAMILIES[name].cls):
            return own(), denoiser
        if not hasattr(diffusers, name):
            raise ValueError(f"diffusers has no class {name}: give the denoiser itself instead of its configuration")
        return getattr(diffusers, name), denoiser
    whole = bare(denoiser)
    if not isinstance(whole, diffusers.ConfigMixin):
        raise ValueError(f"found a {name} without a configuration to build its shapes from: make it a diffusers.ConfigMixin")
    return type(whole), whole.config


def meta_twin(denoiser: nn.Module | Mapping) -> nn.Module:
    """The denoiser's architecture without its weights, on the meta device, from class and configuration alone."""
    return hollow(*architecture(denoiser))


def hollow(cls: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """A denoiser of this class and configuration on the meta device."""
    with torch.device("meta"), torch.inference_mode(False):
        return cls(**arguments).eval().requires_grad_(False).to("meta")  # some classes make a weight on the CPU
