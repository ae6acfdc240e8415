"""Published thin U-Nets as Plans: BK-SDM's of Stable Diffusion 1 and 2, and those cut from SDXL, whose counts they reproduce.

How many transformer blocks each SDXL student keeps is public; which ones is not for Vega and KOALA (here the first), and for
SSD-1B a guess of its users (blocks 1, 2, 3 and 7 of 10).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from secateur.pruning.plan import DROP_SKIP, IDENTITY, MIDDLE, Plan, bk_sdm_base, bk_sdm_small, bk_sdm_tiny

DEPTHS = {"down_blocks.1": 2, "down_blocks.2": 10, "mid_block": 10, "up_blocks.0": 10, "up_blocks.1": 2}  # SDXL's
ONE_RESNET = ("mid_block.attentions.0", "mid_block.resnets.1")  # what goes of the middle
PAIRS = (  # the second pair of every stage
    *(f"down_blocks.{i}.resnets.1" for i in range(3)),
    *(f"down_blocks.{i}.attentions.1" for i in (1, 2)),
    *(f"up_blocks.{i}.resnets.1" for i in range(3)),
    *(f"up_blocks.{i}.attentions.1" for i in range(2)),
)


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
    """The deepest transformers with their first so many blocks."""
    return dict.fromkeys(("down_blocks.2.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.2"), range(count))


def sdxl(method: str, source: str, whole: Sequence[str], kept: Mapping[str, Collection[int]]) -> Plan:
    """The Plan without these whole layers, and with these blocks alone in the transformers named."""
    layers = (*whole, *(block for name, blocks in kept.items() for block in blocks_gone(name, blocks)))
    joined = [layer.startswith("up_blocks") and ".resnets." in layer for layer in layers]
    removals = tuple(DROP_SKIP if up else IDENTITY for up in joined)
    return Plan(layers, removals, "UNet2DConditionModel", made={"method": method, "of": "SDXL", "source": source})


def blocks_gone(name: str, kept: Collection[int]) -> Iterator[str]:
    """The transformer blocks of SDXL in this transformer that are not kept."""
    depth = DEPTHS[name.rpartition(".attentions.")[0]]
    yield from (f"{name}.transformer_blocks.{k}" for k in range(depth) if k not in kept)


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
