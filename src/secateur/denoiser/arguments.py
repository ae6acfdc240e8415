"""What one call of a denoiser takes, found by trying: layouts by the arguments' names, widths by the layers that read them."""

from __future__ import annotations

import heapq
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.denoiser.on_meta import OnMeta

LATENT = ("b c h w", "b c f h w", "b f c h w", "b n c", "b m c", "b c n", "b c", "b f h w c")
LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hidden_states|control_hidden_states|sample|x|.*latents", LATENT),
    ("audio_hidden_states", ("b s c",)),
    (r"encoder_hidden_states_llama\w*|text_encoder_layers", ("l b t c",)),
    (r"encoder_hidden_states_image|image_embed\w*", ("b i c", "b c", "b 1 c")),
    (r"\w*encoder_hidden_states\w*|text_bth|cap_feats", ("b t c", "b 1 c", "b c", "b t x c", "b x t c", "b f t c")),
    (r"pooled_\w*|\w*_pooled|proj_embedding|global_hidden_states", ("b c", "b 1 c")),
    (r"timesteps?|t|r_timestep|timestep_r\w*", ("b", "b f", "b n", "")),
    (r"\w*timestep|guidance|\w*sigma|class_labels|style|text_lens", ("b",)),
    ("fps", ("b", "=8")),
    (r"encoder_\w*mask\w*|text_\w*mask\w*", ("b t", "b n")),
    ("padding_mask", ("1 1 h w",)),
    (r"\w*mask", ("b n", "b t", "b 1 f h w")),
    (r"prior_token_\w+", ("b n",)),
    ("image_meta_size", ("b 6",)),
    (r"\w*size|crop_coords", ("b 2",)),
    ("added_time_ids", ("b 3",)),
    ("img_ids", ("n a", "b n a")),
    ("txt_ids", ("t a", "b t a")),
    ("position_ids", ("z a", "b n a")),
    ("text_rope_pos", ("t",)),
    ("visual_rope_pos", ("f,u,v",)),
    (r"\w*_ids|indicator", ("b n",)),
    ("img_shapes", ("[[=1,=u,=v]]",)),
    (r"\w*rotary_emb", ("n 1,n 1",)),
    ("num_frames", ("=f",)),
    ("height", ("=h",)),
    ("width", ("=w",)),
    ("audio_num_frames", ("=s",)),
)
"""Layouts that an argument of this name may have, the likely ones first: sides of a tensor, `=` before a number's letter.

b batch; c a width, which is learned; h w f height, width and frames of the latent; u v half of h and w; n tokens of u × v;
m tokens of f × h × w; t tokens of text; i of an image; s of sound; z of text and latent; a axes of a position; x, l layers.
"""
WHOLE = r"class_labels|style|.*_ids?|indicator|.*rope_pos"  # zeros that are whole numbers
TRUE = r".*mask|prior_token_drop"  # ones that are Booleans
PRIMES = (10007, 10037, 10061, 10079, 10093, 10103, 10133, 10151, 10163, 10177, 10193, 10223, 10247, 10259, 10271, 10289)
MOST_TRIES = 250


@dataclass(frozen=True)
class Argument:
    """How one argument of a forward is made: its layout, and what `c` in it stands for."""

    name: str
    layout: str
    width: int = 0

    def make(self, sides: Mapping[str, int]) -> Any:
        """Zeros, or ones if it is a mask: a tensor, a number, or a nest of them."""
        if self.layout.startswith("[["):
            return [[self.nest(self.layout.strip("[]"), sides)]] * sides["b"]
        return self.nest(self.layout, sides)

    def nest(self, layout: str, sides: Mapping[str, int]) -> Any:
        """What a layout describes; with commas a tuple."""
        if "," in layout:
            return tuple(self.nest(part, sides) for part in layout.split(","))
        numbers = [self.number(side, sides) for side in layout.removeprefix("=").split()]
        return numbers[0] if layout.startswith("=") else self.tensor(numbers)

    def number(self, side: str, sides: Mapping[str, int]) -> int:
        """What one side of a layout stands for."""
        return int(side) if side.isdecimal() else {**sides, "c": self.width}[side]

    def tensor(self, shape: list[int]) -> Tensor:
        """A tensor of what this argument holds."""
        if re.fullmatch(TRUE, self.name):
            return torch.ones(shape, dtype=torch.bool)
        return torch.zeros(shape, dtype=torch.long if re.fullmatch(WHOLE, self.name) else None)


Arguments = tuple[Argument, ...]


def sides_of(
    config: Mapping, *, batch: int, size: int | tuple[int, ...] | None = None, tokens: int | None = None, side: int = 64
) -> dict[str, int]:
    """What the letters of LAYOUTS stand for, with what the caller leaves open as the configuration says it.

    side: of the latent if nobody says it; tokens of text are eight times as many then.
    """
    *frames, height, width = picture(config, side) if size is None else (size, size) if isinstance(size, int) else size
    return {
        "b": batch,
        "h": height,
        "w": width,
        "f": (f := frames[0] if frames else 1),
        "u": height // 2,
        "v": width // 2,
        "n": (n := (height // 2) * (width // 2)),
        "m": f * height * width,
        "t": (t := first(config, "max_text_seq_length", "text_len", "num_embeddings") or tokens or 8 * side),
        "z": t + n,
        "i": 257,
        "s": 16,
        "a": len(first(config, "axes_dims_rope", "axes_dim", "axes_dims", "mrope_section") or "thw"),
        "x": config.get("num_text_layers", 1),
        "l": layers(config),
    }


def layers(config: Mapping) -> int:
    """How many layers of a text encoder a denoiser reads."""
    read = config.get("llama_layers")
    return max(read) + 1 if read else sum(n for key, n in config.items() if re.fullmatch(r"num_(single_)?layers", key))


def first(config: Mapping, *keys: str) -> Any:
    """What a configuration says under the first of these keys that it has, or None."""
    return next((config[key] for key in keys if config.get(key)), None)


def picture(config: Mapping, side: int) -> tuple[int, ...]:
    """Frames, height and width of the latent that a denoiser was made for; 5 frames and square sides if it does not say."""
    side = config.get("sample_size") or side
    sides = (side, side) if isinstance(side, int) else tuple(side)
    frames = ((first(config, "sample_frames", "video_length") or 5) - 1) // config.get("temporal_compression_ratio", 1) + 1
    return (frames, config.get("sample_height") or sides[-2], config.get("sample_width") or sides[-1])


class WidthRead(Exception):
    """A layer read an argument of a width that was a guess: `guess` where it takes `width`."""

    def __init__(self, guess: int, width: int):
        super().__init__(guess, width)
        self.guess, self.width = guess, width


class Trial(OnMeta):
    """An evaluation that counts how far it gets, and stops where a layer tells the width of an argument.

    A guess is a prime, so that a layer that finds a multiple of it says by its own width what the argument's is.
    """

    def __init__(self, guesses: list[int]):
        super().__init__()
        self.guesses, self.done = guesses, 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for found, wanted in widths(func, args, kwargs or {}):
            for guess in self.guesses:
                if found % guess == 0 and wanted % (found // guess) == 0 and all(wanted % g for g in self.guesses):
                    raise WidthRead(guess, wanted // (found // guess))
        out = super().__torch_function__(func, types, args, kwargs)
        self.done += 1
        return out


def widths(func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """(width of what a layer is given, width that it takes), for functions with weights."""
    name = getattr(func, "__name__", "")
    if func is functional.linear:
        yield args[0].shape[-1], args[1].shape[-1]
    elif re.fullmatch(r"conv[123]d", name) and args[0].dim() == args[1].dim():
        yield args[0].shape[1], args[1].shape[1] * (args[6] if len(args) > 6 else kwargs.get("groups", 1))
    elif name in ("layer_norm", "rms_norm"):
        yield args[0].shape[-1], (args[1] if len(args) > 1 else kwargs["normalized_shape"])[-1]
    elif name in ("mul", "add", "__mul__", "__add__", "__rmul__") and all(isinstance(x, Tensor) and x.dim() for x in args):
        yield from ((x.shape[-1], w.shape[-1]) for x, w in (args, args[::-1]) if w.shape[-1] > 1)


def attempt(twin: Any, arguments: Arguments, sides: Mapping[str, int]) -> tuple[float, Arguments, Exception | None]:
    """How far an evaluation gets on these arguments, the arguments with the widths that were read meanwhile, and the error.

    Infinity and None if it gets through.
    """
    while True:
        guesses = {p: a for p, a in zip(PRIMES, arguments, strict=False) if "c" in a.layout.split() and not a.width}
        trial = Trial(list(guesses))
        tried = {a: Argument(a.name, a.layout, p) for p, a in guesses.items()}
        with torch.device("meta"):
            guessed = {a.name: tried[a].make(sides) for a in arguments if a in tried}
        inputs = guessed | trial.hollowed({a.name: a.make(sides) for a in arguments if a not in tried})
        try:
            with torch.device("meta"), trial:
                twin(**inputs)
            return float("inf"), arguments, None
        except WidthRead as read:
            known = guesses[read.guess]
            arguments = tuple(Argument(a.name, a.layout, read.width) if a is known else a for a in arguments)
        except Exception as error:  # whatever a forward raises on inputs that it was not made for
            if (named := with_names(arguments, twin.config)) == arguments:
                return trial.done, arguments, error
            arguments = named


def with_names(arguments: Arguments, config: Mapping) -> Arguments:
    """The arguments, with widths that no layer told as the configuration has them under the usual names."""
    names = {a: "in_channels" if layouts_of(a.name) is LATENT else "cross_attention_dim" for a in arguments}
    return tuple(
        Argument(a.name, a.layout, config[names[a]])
        if "c" in a.layout.split() and not a.width and isinstance(config.get(names[a]), int)
        else a
        for a in arguments
    )


def layouts_of(name: str) -> tuple[str, ...]:
    """The layouts that an argument of this name may have; none if the name is unknown."""
    return next((layouts for pattern, layouts in LAYOUTS if re.fullmatch(pattern, name)), ())


def variants(arguments: Arguments, names: list[str], seen: set) -> Iterator[Arguments]:
    """Each way to give one argument another layout, or to give one that is left out, that was not seen yet."""
    for name in names:
        rest = tuple(a for a in arguments if a.name != name)
        for layout in layouts_of(name):
            new = (*rest, Argument(name, layout))
            key = frozenset((a.name, a.layout) for a in new)
            if key not in seen and len(seen) < MOST_TRIES:
                seen.add(key)
                yield new


def find_arguments(twin: nn.Module, sides: Mapping[str, int]) -> Arguments:
    """The arguments on which a denoiser on the meta device gets through. Raises ValueError if none are found.

    Best-first: whichever arguments get furthest are varied next. An argument with a default is left out if it can be.
    """
    parameters = list(inspect.signature(type(twin).forward).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if unknown := [name for name in needed if not layouts_of(name)]:
        raise ValueError(f"nothing is known of the argument {unknown[0]!r}")
    start = tuple(Argument(name, layouts_of(name)[0]) for name in needed)
    order, names, seen = count(), [p.name for p in parameters], set()
    furthest = best = attempt(twin, start, sides)
    queue = [(-best[0], next(order), best[1])]
    while best[2] is not None and queue:
        done, _, arguments = heapq.heappop(queue)
        tried = [attempt(twin, new, sides) for new in variants(arguments, names, seen)]
        best = max(tried, key=lambda trial: trial[0], default=best)
        furthest = max(furthest, best, key=lambda trial: trial[0])
        further = [trial for trial in tried if trial[0] > -done] or [trial for trial in tried if trial[0] == -done]
        for trial in further:
            heapq.heappush(queue, (-trial[0], next(order), trial[1]))
    if best[2] is not None:
        raise ValueError(f"none of the {len(seen)} ways to call it that were tried fits it ({furthest[2]})")
    return best[1]
