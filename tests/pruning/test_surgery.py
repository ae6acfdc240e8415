"""Surgery: law 6, against teachers bypassed by a Patch and against stock U-Nets of published shapes; and what is refused."""

from __future__ import annotations

import random

import diffusers
import pytest
import torch

from nets import inputs_of, output, same_embeddings, some
from secateur.denoiser.blocks import find_blocks, streams_by_name
from secateur.denoiser.families import family
from secateur.denoiser.macs import meta_denoiser
from secateur.denoiser.patch import Patch
from secateur.knapsack import achieved, knapsack
from secateur.pruning import presets
from secateur.pruning.plan import Plan
from secateur.pruning.presets import ssd_1b
from secateur.pruning.surgery import candidates, drop_layers, freed, parameters, plan_without, removals
from tiny import TINY, tiny

PRESETS = {"base": presets.bk_sdm_base, "small": presets.bk_sdm_small, "tiny": presets.bk_sdm_tiny}
TRANSFORMERS = ["dit", "pixart", "sd3", "flux", "wan"]


def bypassed(denoiser, plan: Plan) -> torch.Tensor:
    """What the teacher gives with those layers bypassed, each by its meaning, and nothing removed."""
    modules = [denoiser.get_submodule(layer) for layer in plan.layers]
    streams = streams_by_name(denoiser) if type(denoiser) is not diffusers.UNet2DConditionModel else {}

    def call(t, i, run, inputs):
        args, kwargs = inputs
        if type(denoiser) is not diffusers.UNet2DConditionModel:
            return through(modules[i], args, kwargs, streams[plan.layers[i]])
        if plan.removals[i] == "keep_shortcut":
            return modules[i].conv_shortcut(args[0])
        x = args[0][:, : modules[i].out_channels] if plan.removals[i] == "drop_skip" else args[0]
        return (x,) if isinstance(modules[i], diffusers.Transformer2DModel) else x

    with Patch(denoiser, plan.layers, call):
        return output(denoiser)


def through(block, args, kwargs, streams):
    """A transformer block's own inputs in place of its outputs."""
    names = list(type(block).forward.__code__.co_varnames)[1:]
    given = dict(zip(names, args, strict=False)) | kwargs
    return tuple(given[s] for s in streams) if len(streams) > 1 else given[streams[0]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_law_6_the_student_is_the_teacher_with_those_layers_bypassed(name, seed):
    teacher = tiny(name)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    plan = plan_without(teacher, some(candidates(teacher), seed=seed, share=(0.2, 0.5, 0.8, 1.0)[seed]))
    student = drop_layers(teacher, plan)
    assert torch.equal(output(student), bypassed(teacher, plan))
    assert not torch.equal(output(student), output(teacher))
    assert parameters(student) == parameters(teacher) - sum(freed(teacher, dict(plan.items())))
    untouched(teacher, before, student)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_law_6_a_transformer_loses_whole_blocks_and_says_so_in_its_configuration(name):
    teacher = same_embeddings(tiny(name)) if name == "dit" else tiny(name)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    blocks = candidates(teacher)
    firsts = [f"{stack}.0" for stack in family(teacher).depths]
    assert set(firsts) <= set(blocks)
    for gone in (firsts, [list(blocks)[-1]]):
        student = drop_layers(teacher, plan_without(teacher, gone))
        assert torch.equal(output(student), bypassed(teacher, plan_without(teacher, gone)))
        assert parameters(student) == parameters(teacher) - sum(parameters(teacher.get_submodule(n)) for n in gone)
        again = type(teacher).from_config(student.config).eval()
        again.load_state_dict(student.state_dict())
        assert torch.equal(output(again), output(student))
        assert len(find_blocks(student)) == len(find_blocks(teacher)) - len(gone)
        untouched(teacher, before, student)


def untouched(teacher, before, student):
    """The teacher holds what it held, and nothing that the student could write into."""
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert teacher.state_dict().keys() == before.keys()
    assert {p.data_ptr() for p in teacher.parameters()}.isdisjoint(p.data_ptr() for p in student.parameters())


def stock(size: str) -> dict:
    """How the published BK-SDM students differ from SD-1.5 in their configuration."""
    changes: dict = {"layers_per_block": 1}
    if size != "base":
        changes["mid_block_type"] = None
    if size == "tiny":
        changes["down_block_types"] = ("CrossAttnDownBlock2D",) * 3
        changes["up_block_types"] = ("CrossAttnUpBlock2D",) * 3
    return changes


def stock_name(name: str, size: str) -> str:
    """Where the stock U-Net of that shape has a student's parameter: what went leaves no gap in its numbers."""
    parts = name.split(".")
    if parts[0] == "up_blocks":
        parts[1] = str(int(parts[1]) - (size == "tiny"))
        parts[3] = "1" if parts[3] == "2" else parts[3]
    return ".".join(parts)


@pytest.mark.parametrize("size", PRESETS)
def test_law_6_bk_sdm_students_are_the_stock_u_nets_of_their_published_shape(size):
    student = drop_layers(tiny("sd15"), PRESETS[size]())
    changes = stock(size)
    if size == "tiny":
        changes["block_out_channels"] = TINY["sd15"]["block_out_channels"][:3]
    published = tiny("sd15", **changes)
    published.load_state_dict({stock_name(k, size): v for k, v in student.state_dict().items()})
    assert torch.equal(output(student), output(published))


@pytest.mark.parametrize(("size", "count"), [("base", 579_384_964), ("small", 482_346_884), ("tiny", 323_384_964)])
def test_law_6_bk_sdm_students_have_their_published_size(size, count):
    assert parameters(drop_layers(meta_denoiser("sd15"), PRESETS[size]())) == count


@pytest.mark.parametrize(
    ("name", "reach", "shortcuts"),
    [
        ("sd15", {24: 0.507, 34: 0.876}, ["down_blocks.1", "down_blocks.2", "up_blocks.2", "up_blocks.3"]),
        ("sdxl", {76: 0.893, 83: 0.959}, ["down_blocks.1", "down_blocks.2", "up_blocks.1", "up_blocks.2"]),
    ],
)
def test_how_far_each_kind_of_removal_reaches(name, reach, shortcuts):
    teacher = meta_denoiser(name)
    layers = candidates(teacher)
    sizes = freed(teacher, layers)
    for kinds, (count, share) in zip([{"identity"}, {"identity", "drop_skip"}], reach.items(), strict=True):
        found = [size for size, how in zip(sizes, layers.values(), strict=True) if how in kinds]
        assert (len(found), round(sum(found) / parameters(teacher), 3)) == (count, share)
    assert [n for n, how in layers.items() if how == "keep_shortcut"] == [f"{stage}.resnets.0" for stage in shortcuts]


def test_from_scores_to_a_student_within_the_budget():
    teacher = meta_denoiser("sd15")
    layers = candidates(teacher)
    costs, whole = freed(teacher, layers), parameters(teacher)
    rest, rng = whole - sum(costs), random.Random(0)
    kept = knapsack([rng.random() for _ in layers], costs, keep=0.5, rest=rest)
    plan = plan_without(teacher, [name for name, k in zip(layers, kept, strict=True) if not k])
    share = parameters(drop_layers(teacher, plan)) / whole
    assert share == achieved(kept, costs, rest=rest)
    assert 0.49 < share <= 0.5


def test_a_transformer_all_of_whose_blocks_go_goes_whole():
    teacher = tiny("sdxl")
    outer = "mid_block.attentions.0"
    blocks = [f"{outer}.transformer_blocks.{k}" for k in (0, 1)]
    assert set(blocks) <= set(candidates(teacher))
    assert plan_without(teacher, blocks).layers == (outer,)
    assert plan_without(teacher, blocks[:1]).layers == (blocks[0],)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_a_student_can_be_pruned_again(name):
    teacher = tiny(name)
    layers = [n for n, how in candidates(teacher).items() if how != "drop_skip"]
    first, second = layers[:1], [n for n in layers if n.startswith(("up_blocks", "single"))][:1]
    student = drop_layers(teacher, plan_without(teacher, first))
    if name != "flux":
        assert removals(student) == {n: how for n, how in removals(teacher).items() if n not in first}
    twice = drop_layers(student, plan_without(student, second))
    assert torch.equal(output(twice), output(drop_layers(teacher, plan_without(teacher, first + second))))


def test_a_student_can_be_trained():
    student = drop_layers(tiny("sd15"), presets.bk_sdm_small()).train().requires_grad_(True)
    student.enable_gradient_checkpointing()
    student(**inputs_of(student)).sample.square().mean().backward()
    assert all(p.grad is not None for p in student.parameters())


def refused(teacher, layer: str, removal: str = "identity", denoiser: str | None = None) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        drop_layers(teacher, Plan((layer,), (removal,), denoiser or type(teacher).__name__))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_no_student_can_be_made_of_is_refused_in_a_sentence():
    unet, dit, sd3 = tiny("sd15"), tiny("dit"), tiny("sd3")
    assert "for a Other and this is a UNet2DConditionModel" in refused(unet, "mid_block", denoiser="Other")
    assert "no layer conv_in that can go: take a plan that was made for this model" in refused(unet, "conv_in")
    with pytest.raises(ValueError, match="more of the plan's 28: the plan is for SDXL"):
        drop_layers(unet, ssd_1b())
    assert "'identity' and here it goes by 'drop_skip'" in refused(unet, "up_blocks.0.resnets.1")
    assert "not the sampler that undoes it" in refused(unet, "down_blocks.1.downsamplers.0")
    assert "DiTTransformer2DModel reads transformer_blocks.0.norm1.emb" in refused(dit, "transformer_blocks.0")
    assert "block 1 of the student's transformer_blocks would be unlike" in refused(sd3, "transformer_blocks.2")
    assert "removes all transformer_blocks" in refused(tiny("dit", num_layers=1), "transformer_blocks.0")
    assert list(removals(dit)) == ["transformer_blocks.1", "transformer_blocks.2"]
    assert list(removals(sd3)) == ["transformer_blocks.0", "transformer_blocks.1"]
    with Patch(unet, ["mid_block"], lambda t, i, run, inputs: run()):
        assert "is replaced" in refused(unet, "mid_block.resnets.0")
