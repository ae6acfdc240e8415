"""Published thin U-Nets as Plans: BK-SDM's of Stable Diffusion 1 and 2, and those cut from SDXL, whose counts they reproduce.

How many transformer blocks each SDXL student keeps is public; which ones is not for Vega and KOALA (here the first), and for
SSD-1B a guess of its users (blocks 1, 2, 3 and 7 of 10).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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


def bk_sdm_base() -> Plan:
    """BK-SDM Base (arXiv 2305.15798): the second pair of a stage goes; 579,384,964 of SD-1.5's 859,520,964 weights stay."""
    return bk_sdm("Base", BASE)


def bk_sdm_small() -> Plan:
    """BK-SDM Small (arXiv 2305.15798): Base without the middle; 482,346,884 of SD-1.5's weights stay."""
    return bk_sdm("Small", BASE + MIDDLE)


def bk_sdm_tiny() -> Plan:
    """BK-SDM Tiny (arXiv 2305.15798): Small without the innermost stages; 323,384,964 of SD-1.5's weights stay."""
    return bk_sdm("Tiny", BASE + MIDDLE + INNERMOST)


def bk_sdm(size: str, layers: tuple[str, ...]) -> Plan:
    up = [layer.startswith("up_blocks") and ".resnets." in layer for layer in layers]
    removals = tuple(DROP_SKIP if joined else IDENTITY for joined in up)
    made = {"method": f"BK-SDM {size}", "of": "Stable Diffusion 1 or 2", "source": "arXiv 2305.15798"}
    return Plan(layers, removals, "UNet2DConditionModel", made=made)


def ssd_1b() -> Plan:
    """SSD-1B (arXiv 2401.02677): 1,331,334,404 of SDXL's 2,567,463,684 weights stay."""
    four = {f"{stage}.attentions.{i}": (0, 1, 2, 6) for stage in ("down_blocks.2", "up_blocks.0") for i in (0, 1)}
    return sdxl("SSD-1B", "arXiv 2401.02677", ONE_RESNET, four | {f"up_blocks.1.attentions.{i}": (0,) for i in (1, 2)})


def segmind_vega() -> Plan:
    """Segmind-Vega (arXiv 2401.02677): 745,225,604 of SDXL's weights stay."""
    one = {f"down_blocks.1.attentions.{i}": (0,) for i in (0, 1)} | {f"up_blocks.1.attentions.{i}": (0,) for i in range(3)}
    two = {f"down_blocks.2.attentions.{i}": (0, 1) for i in (0, 1)} | {f"up_blocks.0.attentions.{i}": (0, 1) for i in range(3)}
    return sdxl("Segmind-Vega", "arXiv 2401.02677", ONE_RESNET, one | two)


def koala_1b() -> Plan:
    """KOALA-1B (arXiv 2312.04005): 1,161,184,324 of SDXL's weights stay."""
    return sdxl("KOALA-1B", "arXiv 2312.04005", PAIRS, koala_depths(6) | {"mid_block.attentions.0": range(6)})


def koala_700m() -> Plan:
    """KOALA-700M (arXiv 2312.04005): 782,822,724 of SDXL's weights stay."""
    return sdxl("KOALA-700M", "arXiv 2312.04005", PAIRS + MIDDLE, koala_depths(5))


def bk_sdxl_small() -> Plan:
    """BK-SDM Small's shape cut from SDXL: 1,304,160,324 of its weights stay."""
    return sdxl("BK-SDXL Small", "arXiv 2305.15798, on SDXL", PAIRS + MIDDLE, {})


def koala_depths(count: int) -> dict[str, Collection[int]]:
    """The deepest transformers with their first `count` blocks."""
    return dict.fromkeys(("down_blocks.2.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.2"), range(count))


def sdxl(method: str, source: str, whole: Sequence[str], stays: Mapping[str, Collection[int]]) -> Plan:
    """The Plan without these whole layers, and with these blocks alone in the transformers named."""
    layers = (*whole, *(block for name, blocks in stays.items() for block in blocks_gone(name, blocks)))
    joined = [layer.startswith("up_blocks") and ".resnets." in layer for layer in layers]
    removals = tuple(DROP_SKIP if up else IDENTITY for up in joined)
    return Plan(layers, removals, "UNet2DConditionModel", made={"method": method, "of": "SDXL", "source": source})


def blocks_gone(name: str, stays: Collection[int]) -> Iterator[str]:
    """The transformer blocks of SDXL in this transformer that are not kept."""
    depth = DEPTHS[name.rpartition(".attentions.")[0]]
    yield from (f"{name}.transformer_blocks.{k}" for k in range(depth) if k not in stays)


PRESETS: dict[str, Callable[[], Plan]] = {
    "bk-sdm-base": bk_sdm_base,
    "bk-sdm-small": bk_sdm_small,
    "bk-sdm-tiny": bk_sdm_tiny,
    "bk-sdxl-small": bk_sdxl_small,
    "ssd-1b": ssd_1b,
    "segmind-vega": segmind_vega,
    "koala-1b": koala_1b,
    "koala-700m": koala_700m,
}
