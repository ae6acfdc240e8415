"""Stock pipelines around full-size denoisers with random weights, which get embeddings; and how fast they are, in turns."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from inspect import signature
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from bench import DEVICE, costing, faster
from secateur import Macs, Schedule, apply
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import denoiser_config
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.times import synchronize
from secateur.measuring.timing import Timing
from study import Row

DTYPE = torch.bfloat16
TINY_SIDE, FLUX_SIDE = 8, 128
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

UNET = {"sample_size": TINY_SIDE, "block_out_channels": (8, 8, 16, 16), "cross_attention_dim": 8, "attention_head_dim": 4}
ADDED = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 56, "transformer_layers_per_block": (1, 1, 2)}
DIT = {"sample_size": TINY_SIDE, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 4}
FLUX = {"num_attention_heads": 2, "attention_head_dim": 8, "axes_dims_rope": (2, 2, 4), "in_channels": 16}
PIPES = {  # denoiser: its stock pipeline, and what makes it tiny
    "sd15": ("StableDiffusionPipeline", UNET | {"norm_num_groups": 4}),
    "sdxl": ("StableDiffusionXLPipeline", UNET | ADDED | {"norm_num_groups": 4, "block_out_channels": (8, 8, 16)}),
    "dit-xl-2": ("DiTPipeline", DIT),
    "pixart-alpha-1024": ("PixArtAlphaPipeline", DIT | {"caption_channels": 8, "cross_attention_dim": 16}),
    "flux-dev": ("FluxPipeline", FLUX | {"num_layers": 2, "num_single_layers": 3, "joint_attention_dim": 8}),
}


def config_of(name: str, *, tiny: bool = False) -> dict[str, Any]:
    """A denoiser's configuration, at full size or tiny."""
    return denoiser_config(name) | (PIPES[name][1] if tiny else {})


def side_of(name: str, *, tiny: bool = False) -> int:
    """The side of the latents that a denoiser was made for."""
    return TINY_SIDE if tiny else config_of(name).get("sample_size", FLUX_SIDE)


def random_net(name: str, *, tiny: bool = False, dtype: torch.dtype = DTYPE) -> Any:
    """A denoiser with random weights."""
    config = config_of(name, tiny=tiny)
    return made_in(dtype, lambda: getattr(diffusers, config["_class_name"]).from_config(config))


def coder(*, tiny: bool = False) -> AutoencoderKL:
    """SD-1.5's VAE with random weights, or a tiny one."""
    size = {"block_out_channels": (4,) * 4, "norm_num_groups": 2} if tiny else {"block_out_channels": (128, 256, 512, 512)}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return made_in(DTYPE, lambda: AutoencoderKL(**kinds, **size, layers_per_block=1 if tiny else 2))


def made_in(dtype: torch.dtype, make: Callable[[], Any]) -> Any:
    """A network made in its own dtype, where it will be used."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            return make().eval()
    finally:
        torch.set_default_dtype(torch.float32)


def around(name: str, net: nn.Module, *, vae: AutoencoderKL | None = None) -> Any:
    """A denoiser's stock pipeline, with no text encoder. DiTPipeline, which must decode, gets a tiny VAE if none is given."""
    cls = getattr(diffusers, PIPES[name][0])
    parameters = signature(cls.__init__).parameters
    parts = {key: None for key, p in parameters.items() if p.default is p.empty and key != "self"}
    part = "unet" if "unet" in parameters else "transformer"
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ddim = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    vae = coder(tiny=True) if vae is None and cls is diffusers.DiTPipeline else vae
    checked = {"requires_safety_checker": False} if "requires_safety_checker" in parameters else {}
    scheduler = flow if cls is diffusers.FluxPipeline else ddim
    pipe = cls(**parts | checked | {part: net, "scheduler": scheduler, "vae": vae})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embedded(pipe: Any, batch: int = 1) -> dict[str, Tensor]:
    """Noise in place of the embeddings of prompts and of none, by the names of the pipe's arguments, a batch of each."""
    net, generator = denoiser_of(pipe), torch.Generator().manual_seed(1)
    with torch.device("meta"):
        inputs = dummy_inputs(net, batch=batch)
    text, added = inputs.get("encoder_hidden_states"), inputs.get("added_cond_kwargs") or {}
    pooled = inputs.get("pooled_projections", added.get("text_embeds"))
    shapes = {"prompt_embeds": text, "pooled_prompt_embeds": pooled} if text is not None else {}
    known = signature(type(pipe).__call__).parameters
    noise = {
        prefix + key: torch.randn(x.shape, generator=generator).to(pipe.device, net.dtype)
        for prefix in ("", "negative_")
        for key, x in shapes.items()
        if x is not None and prefix + key in known
    }
    masks = {key: torch.ones(batch, text.shape[1], device=pipe.device) for key in known if key.endswith("attention_mask")}
    return noise | masks


def call_of(pipe: Any, *, side: int, batch: int = 1) -> dict[str, Any]:
    """What a pipe is called with to draw a batch from embeddings, or from labels, to the final latents."""
    known = signature(type(pipe).__call__).parameters
    if "class_labels" in known:
        return {"class_labels": list(range(batch)), "output_type": "pt"}
    size = {"height": 8 * side, "width": 8 * side, "negative_prompt": None, "use_resolution_binning": False}
    return embedded(pipe, batch) | {key: value for key, value in size.items() if key in known} | {"output_type": "latent"}


class Way(NamedTuple):
    """A way to draw: a pipe that is called with so many steps, what its calls cost, and a schedule if any is applied."""

    pipe: Any
    macs: Macs
    steps: int
    schedule: Schedule | None = None

    def draw(self, call: Mapping[str, Any], steps: int = 0) -> tuple[float, Row]:
        """Seconds of the pipe alone, and what a row says of the images."""
        with nullcontext() if self.schedule is None else apply(self.pipe, self.schedule) as handle:
            synchronize()
            start = time.perf_counter()
            out = self.pipe(num_inference_steps=steps or self.steps, generator=torch.Generator().manual_seed(2), **call)[0]
            synchronize()
            seconds = time.perf_counter() - start
        by = type(handle).__name__ if handle else "the pipe alone"
        return seconds, {"by": by, "cached_bytes": getattr(handle, "peak_bytes", 0), "finite": bool(out.isfinite().all())}

    def first(self, call: Mapping[str, Any]) -> Row:
        """What the first images show: seconds with all that is made once, memory above what was there. Plain steps are two."""
        (seconds, facts), cost = costing(lambda: self.draw(call, 0 if self.schedule else 2))
        return {"peak_memory_bytes": cost["peak_memory_bytes"], "first_s": seconds, **facts}


def latencies(
    ways: Mapping[str, Way], call: Mapping[str, Any], *, samples: int, rounds: int, stop: Callable[[], bool] = lambda: False
) -> Iterator[Row]:
    """A row for each way, measured in turns; the first is what the others are compared with. One that raises says so.

    samples: denoiser samples of an image. stop: whether a round is the last. efficiency: ms for MACs, the speed-up over the
    first way times the fraction of its MACs that is kept.
    """
    facts, (base, *_) = dict[str, Row](), ways
    for name, way in ways.items():
        try:
            facts[name] = way.first(call)
        except Exception as error:
            yield {"name": name, "error": one_line(error)}
    times = {name: list[float]() for name in facts}
    for _ in range(rounds):
        for name, seconds in times.items():
            seconds.append(ways[name].draw(call)[0])
        if stop():
            break
    timings = {name: Timing(name, tuple(seconds)) for name, seconds in times.items()}
    for name, timing in timings.items():
        way = ways[name]
        spent = way.macs.spent(way.schedule, way.steps, samples=samples, whole=(ways[base].macs, ways[base].steps))
        row = {"name": name, "calls": way.schedule.calls if way.schedule else way.steps, "steps": way.steps, **spent}
        if base in timings:
            speedup = faster(timings[base], timing)
            row |= {"speedup": speedup, "efficiency": speedup["median"] * spent["keep_attention"]}
        yield row | {"latency_s": timing.as_json(), **facts[name]}


def one_line(error: Exception) -> str:
    """An error in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
