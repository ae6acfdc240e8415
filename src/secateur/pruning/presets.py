"""Published thin U-Nets as Plans: BK-SDM's of Stable Diffusion 1 and 2, and those cut from SDXL, whose counts they reproduce.

How many transformer blocks each SDXL student keeps is public; which ones is not for Vega and KOALA (here the first), and for
SSD-1B a guess of its users (blocks 1, 2, 3 and 7 of 10).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from secateur.pruning.plan import DROP_SKIP, IDENTITY, Plan

DEPTHS = {"down_blocks.1": 2, "down_blocks.2": 10, "mid_block": 10, "up_blocks.0": 10, "up_blocks.1": 2}  # SDXL's
ONE_RESNET = ("mid_block.attentions.0", "mid_block.resnets.1")  # what goes of the middle
PAIRS = (  # the second pair of every stage
    *(f"down_blocks.{i}.resnets.1" for i in range(3)),
    *(f"down_blocks.{i}.attentions.1" for i in (1, 2)),
    *(f"up_blocks.{i}.resnets.1" for i in range(3)),
    *(f"up_blocks.{i}.attentions.1" for i in range(2)),
)
# The handcrafted plans for U-Nets of the shape of Stable Diffusion 1 and 2.
BASE = (
    *(f"down_blocks.{i}.{kind}.1" for i in range(3) for kind in ("resnets", "attentions")),
    "down_blocks.3.resnets.1",
    "up_blocks.0.resnets.1",
    *(f"up_blocks.{i}.{kind}.1" for i in range(1, 4) for kind in ("resnets", "attentions")),
)
MIDDLE = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
INNERMOST = (
    "down_blocks.2.downsamplers.0",
    "down_blocks.3.resnets.0",
    "up_blocks.0.resnets.0",
    "up_blocks.0.resnets.2",
    "up_blocks.0.upsamplers.0",
)


def published(method: str, source: str, layers: Sequence[str], *, of: str = "SDXL") -> Plan:
    """The Plan without these layers of a U-Net."""
    joined = [layer.startswith("up_blocks") and ".resnets." in layer for layer in layers]
    removals = tuple(DROP_SKIP if up else IDENTITY for up in joined)
    return Plan(tuple(layers), removals, "UNet2DConditionModel", made={"method": method, "of": of, "source": source})


def sdxl(method: str, source: str, whole: Sequence[str], stays: Mapping[str, Collection[int]]) -> Plan:
    """The Plan without these whole layers, and with these blocks alone in the transformers named."""
    depths = {name: DEPTHS[name.rpartition(".attentions.")[0]] for name in stays}
    gone = (f"{name}.transformer_blocks.{k}" for name, depth in depths.items() for k in range(depth) if k not in stays[name])
    return published(method, source, (*whole, *gone))


def attentions(stage: str, numbers: Collection[int], stays: Collection[int]) -> dict[str, Collection[int]]:
    """The transformers of these numbers in a stage, each with the blocks of it that stay."""
    return {f"{stage}.attentions.{i}": stays for i in numbers}


def koala_depths(count: int) -> dict[str, Collection[int]]:
    """The deepest transformers with their first `count` blocks."""
    return attentions("down_blocks.2", (0,), range(count)) | attentions("up_blocks.0", (0, 2), range(count))


BK_SDM, SEGMIND, KOALA, SD = "arXiv 2305.15798", "arXiv 2401.02677", "arXiv 2312.04005", "Stable Diffusion 1 or 2"
# Of SD-1.5's 859,520,964 weights stay:
bk_sdm_base = partial(published, "BK-SDM Base", BK_SDM, BASE, of=SD)  # 579,384,964: the second pair of a stage goes
bk_sdm_small = partial(published, "BK-SDM Small", BK_SDM, BASE + MIDDLE, of=SD)  # 482,346,884
bk_sdm_tiny = partial(published, "BK-SDM Tiny", BK_SDM, BASE + MIDDLE + INNERMOST, of=SD)  # 323,384,964
# Of SDXL's 2,567,463,684 weights stay:
FOUR = attentions("down_blocks.2", (0, 1), (0, 1, 2, 6)) | attentions("up_blocks.0", (0, 1), (0, 1, 2, 6))
ONE = attentions("down_blocks.1", (0, 1), (0,)) | attentions("up_blocks.1", range(3), (0,))
TWO = attentions("down_blocks.2", (0, 1), (0, 1)) | attentions("up_blocks.0", range(3), (0, 1))
SIX = koala_depths(6) | attentions("mid_block", (0,), range(6))
ssd_1b = partial(sdxl, "SSD-1B", SEGMIND, ONE_RESNET, FOUR | attentions("up_blocks.1", (1, 2), (0,)))  # 1,331,334,404
PRESETS: dict[str, Callable[[], Plan]] = {
    "bk-sdm-base": bk_sdm_base,
    "bk-sdm-small": bk_sdm_small,
    "bk-sdm-tiny": bk_sdm_tiny,
    "bk-sdxl-small": partial(sdxl, "BK-SDXL Small", "arXiv 2305.15798, on SDXL", PAIRS + MIDDLE, {}),  # 1,304,160,324
    "ssd-1b": ssd_1b,
    "segmind-vega": partial(sdxl, "Segmind-Vega", SEGMIND, ONE_RESNET, ONE | TWO),  # 745,225,604
    "koala-1b": partial(sdxl, "KOALA-1B", KOALA, PAIRS, SIX),  # 1,161,184,324
    "koala-700m": partial(sdxl, "KOALA-700M", KOALA, PAIRS + MIDDLE, koala_depths(5)),  # 782,822,724
}
