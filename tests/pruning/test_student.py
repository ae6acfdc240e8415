"""Students of U-Nets on disk, as a user of diffusers meets them; and of transformers, where secateur is not installed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from copy import deepcopy

import diffusers
import peft
import pytest
import torch
from diffusers.training_utils import EMAModel
from peft.utils import get_peft_model_state_dict

import secateur
from nets import inputs_of, output, same_embeddings, some
from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import FAMILIES
from secateur.pruning.bypass import bypassed
from secateur.pruning.plan import Plan
from secateur.pruning.presets import bk_sdm_base, bk_sdm_tiny
from secateur.pruning.student import STUDENT
from secateur.pruning.surgery import candidates, drop_layers, parameters, plan_without
from secateur.schedule.apply import apply
from secateur.schedule.baselines import uniform
from tiny import tiny
from tiny_pipes import controlnet, draw, ip_adapter, noise, stable_diffusion

LACKING = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))


def mixed(unet) -> Plan:
    """A plan with every kind of removal that this U-Net knows."""
    found = candidates(unet)
    picked = {how: [layer for layer, kind in found.items() if kind == how][:2] for how in set(found.values())}
    return plan_without(unet, [layer for layers in picked.values() for layer in layers])


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_a_student_comes_back_from_disk_as_it_was(name, tmp_path):
    teacher = tiny(name)
    plan = mixed(teacher)
    student = drop_layers(teacher, plan)
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    assert type(loaded).__name__ == STUDENT
    assert dict(loaded.config["removed"]) == dict(plan.items())
    assert parameters(loaded) == parameters(student) < parameters(teacher)
    ours, theirs = student.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    torch.testing.assert_close(output(loaded), output(student))
    saved = (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size
    assert saved < 4 * parameters(student) + 100_000


def test_the_teacher_stays_what_it_was():
    teacher = tiny("sd15")
    before = output(teacher)
    drop_layers(teacher, mixed(teacher))
    assert type(teacher) is diffusers.UNet2DConditionModel
    assert "removed" not in teacher.config
    assert torch.equal(output(teacher), before)


def test_a_student_of_a_student_lacks_the_layers_of_both(tmp_path):
    teacher = tiny("sdxl")
    layers = list(candidates(teacher))
    first = drop_layers(teacher, plan_without(teacher, layers[:3]))
    second = drop_layers(first, plan_without(first, list(candidates(first))[:2]))
    second.save_pretrained(tmp_path)
    loaded = type(second).from_pretrained(tmp_path)
    assert set(first.config["removed"]) < set(second.config["removed"])
    torch.testing.assert_close(output(loaded), output(second))
    at_once = drop_layers(teacher, Plan(*zip(*second.config["removed"].items(), strict=True), "UNet2DConditionModel"))
    assert torch.equal(output(at_once), output(second))


@pytest.mark.parametrize("preset", [bk_sdm_base, bk_sdm_tiny])
def test_a_pipeline_loads_as_every_pipeline_does(preset, tmp_path):
    pipe, call = stable_diffusion()
    pipe.unet = drop_layers(pipe.unet, preset())
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["secateur", STUDENT]
    for kind in (diffusers.StableDiffusionPipeline, diffusers.DiffusionPipeline):
        loaded = kind.from_pretrained(tmp_path, **LACKING)
        loaded.set_progress_bar_config(disable=True)
        torch.testing.assert_close(draw(loaded, call), draw(pipe, call), rtol=1e-3, atol=1e-3)  # weights lie elsewhere


def test_importing_secateur_is_enough_to_load_a_student(tmp_path):
    pipe, _ = stable_diffusion()
    pipe.unet = drop_layers(pipe.unet, bk_sdm_base())
    pipe.save_pretrained(tmp_path)
    script = f"""
import sys, secateur
assert "diffusers" not in sys.modules
from diffusers import DiffusionPipeline
print(type(DiffusionPipeline.from_pretrained({str(tmp_path)!r}, **{LACKING}).unet).__name__)
"""
    assert run(script) == STUDENT


def test_transformers_students_need_no_secateur(tmp_path):
    for name in ("dit", "pixart", "sd3", "flux"):
        teacher = same_embeddings(tiny(name)) if name == "dit" else tiny(name)
        student = drop_layers(teacher, plan_without(teacher, some(candidates(teacher), seed=0)[:1]))
        student.save_pretrained(tmp_path / type(teacher).__name__)
        assert parameters(student) < parameters(teacher)
        loaded = getattr(diffusers, type(teacher).__name__).from_pretrained(tmp_path / type(teacher).__name__)
        assert not [name for name in {type(m).__module__ for m in loaded.modules()} if name.startswith("secateur")]
        assert parameters(loaded) == parameters(student)


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_a_student_takes_a_schedule_and_is_counted():
    pipe, call = stable_diffusion()
    dense = macs.count(pipe.unet).call()
    pipe.unet = drop_layers(pipe.unet, bk_sdm_base())
    counted = macs.count(pipe.unet)
    assert counted.call() < dense
    assert counted.blocks == find_blocks(pipe.unet)
    whole = draw(pipe, call)
    schedule = uniform(counted.blocks, call["num_inference_steps"], every=2)
    with apply(pipe, schedule):
        thinned = draw(pipe, call)
    assert not torch.equal(thinned, whole)
    assert torch.equal(draw(pipe, call), whole)


def test_layers_that_went_are_no_blocks():
    student = drop_layers(tiny("sd15"), bk_sdm_base())
    assert not set(student.config["removed"]) & set(find_blocks(student, "layer").names)
    assert macs.count(dict(student.config) | {"_class_name": STUDENT}).call() == macs.count(student).call()
    assert FAMILIES[STUDENT].granularities == FAMILIES["UNet2DConditionModel"].granularities


def test_a_controlnet_of_the_teacher_steers_the_student():
    pipe, call = stable_diffusion("StableDiffusionControlNetPipeline", controlnet=None)
    net = controlnet(pipe.unet)
    pipe.register_modules(controlnet=net, unet=drop_layers(pipe.unet, bk_sdm_base()))
    with_net = draw(pipe, call)
    torch.nn.init.zeros_(net.controlnet_mid_block.weight)
    assert not torch.equal(draw(pipe, call), with_net)


def test_a_controlnet_of_the_teacher_is_refused_where_its_images_are_of_other_sizes():
    pipe, call = stable_diffusion("StableDiffusionControlNetPipeline", controlnet=None)
    pipe.register_modules(controlnet=controlnet(pipe.unet), unet=drop_layers(pipe.unet, bk_sdm_tiny()))
    call |= {"latents": noise(4, 1, 4, 16, 16), "image": noise(5, 1, 3, 32, 32).abs()}
    with pytest.raises(ValueError, match="of other sizes than this student's, some of whose samplers went: use a student"):
        draw(pipe, call)


def lora(unet) -> dict[str, torch.Tensor]:
    """Weights of an adapter for every attention of this U-Net, which has none afterwards."""
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights = {f"unet.{key}": value.clone() for key, value in get_peft_model_state_dict(unet).items()}
    unet.delete_adapters("default")
    return weights


def test_an_ip_adapter_of_the_teacher_is_refused_where_attentions_went():
    teacher = tiny("sd15")
    adapter = ip_adapter(teacher)
    there = len(adapter["ip_adapter"]) // 2
    drop_layers(teacher, plan_without(teacher, ["down_blocks.0.resnets.1"]))._load_ip_adapter_weights([adapter])
    student = drop_layers(teacher, plan_without(teacher, ["mid_block.attentions.0"]))
    with pytest.raises(ValueError, match=f"IP-Adapter is of {there} attentions and this student has {there - 1}, so that"):
        student._load_ip_adapter_weights([adapter])
    student._load_ip_adapter_weights([ip_adapter(student)])


def test_a_lora_of_the_teacher_fits_the_layers_that_the_student_has():
    pipe, call = stable_diffusion()
    weights = lora(pipe.unet)
    pipe.unet = drop_layers(pipe.unet, bk_sdm_base())
    plain = draw(pipe, call)
    pipe.load_lora_weights(weights)
    adapted = [name for name, module in pipe.unet.named_modules() if hasattr(module, "lora_A")]
    assert 0 < 2 * len(adapted) < len(weights)
    styled = draw(pipe, call)
    assert not torch.allclose(styled, plain, rtol=1e-2, atol=1e-2)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(draw(pipe, call), styled, rtol=1e-2, atol=1e-2)


def test_a_teacher_with_adapters_is_refused():
    teacher = tiny("sd15")
    teacher.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match=r"adapters are loaded \(default\), and a saved student would lose them"):
        drop_layers(teacher, bk_sdm_base())


def with_bk_sdm(kind: str = "StableDiffusionPipeline", **more):
    """A pipe with a student, and its arguments."""
    pipe, call = stable_diffusion(kind, **more)
    pipe.unet = drop_layers(pipe.unet, bk_sdm_base())
    return pipe, call


@pytest.mark.parametrize(
    ("maker", "name"),
    [
        (diffusers.ControlNetModel.from_unet, "ControlNetModel.from_unet"),
        (diffusers.UNetMotionModel.from_unet2d, "UNetMotionModel.from_unet2d"),
    ],
)
def test_a_copy_that_needs_every_layer_is_refused(maker, name):
    student = drop_layers(tiny("sd15"), bk_sdm_base())
    with pytest.raises(ValueError, match=f"^{name} copies the weights of a whole U-Net, and this student lacks layers: give"):
        maker(student)
    assert student.down_blocks.state_dict()


def test_a_controlnet_may_begin_with_other_weights_or_a_student_whose_encoder_is_whole():
    student = drop_layers(tiny("sd15"), bk_sdm_base())
    teachers = diffusers.ControlNetModel.from_unet(tiny("sd15"))
    own = diffusers.ControlNetModel.from_unet(student, load_weights_from_unet=False)
    assert {name: x.shape for name, x in own.state_dict().items()} == {n: x.shape for n, x in teachers.state_dict().items()}
    later = [name for name in candidates(tiny("sd15")) if name.startswith("up_blocks")][:2]
    student = drop_layers(tiny("sd15"), plan_without(tiny("sd15"), later))
    torch.manual_seed(0)
    mine = diffusers.ControlNetModel.from_unet(student)
    assert all(torch.equal(x, teachers.state_dict()[n]) for n, x in mine.state_dict().items() if "cond_embedding" not in n)


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_other_pipelines_are_made_from_a_students(kind):
    pipe, _ = with_bk_sdm()
    _, call = stable_diffusion(kind)
    made = getattr(diffusers, kind).from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    assert made.unet is pipe.unet
    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    built = getattr(diffusers, kind)(**{**pipe.components, **parts})
    built.set_progress_bar_config(disable=True)
    assert torch.equal(draw(made, call), draw(built, call))


def test_a_student_is_a_class_of_its_own_that_counts_as_the_stock_one():
    cls, stock = secateur.StudentUNet, diffusers.UNet2DConditionModel
    assert cls in (stock,)
    assert {stock: 1}[cls] == 1
    assert cls not in (diffusers.UNet2DModel, torch.nn.Module)
    assert isinstance(drop_layers(tiny("sd15"), bk_sdm_base()), cls)
    assert not isinstance(tiny("sd15"), cls)


def copied(unet, folder, how: str):
    """A U-Net gone through a way of copying or calling it."""
    match how:
        case "deepcopy":
            return deepcopy(unet)
        case "pickle":
            return pickle.loads(pickle.dumps(unet))
        case "torch.save":
            torch.save(unet, folder / "unet.pt")
            return torch.load(folder / "unet.pt", weights_only=False)
        case "variant":
            unet.save_pretrained(folder, variant="fp16")
            return type(unet).from_pretrained(folder, variant="fp16")
        case "shards":
            unet.save_pretrained(folder, max_shard_size="10KB")
            return type(unet).from_pretrained(folder)
        case "config":
            new = type(unet).from_config(unet.config)
            new.load_state_dict(unet.state_dict())
            return new.eval()
        case "averaged":
            average = EMAModel(unet.parameters(), model_cls=type(unet), model_config=unet.config)
            new = deepcopy(unet)
            torch.nn.init.zeros_(new.conv_out.weight)
            average.copy_to(new.parameters())
            return new
        case "sliced":
            unet.set_attention_slice(1)
        case "fused":
            unet.fuse_qkv_projections()
        case "channels last":
            unet.to(memory_format=torch.channels_last)
    return unet


WAYS = ("deepcopy", "pickle", "torch.save", "variant", "shards", "config", "averaged", "sliced", "fused", "channels last")


@pytest.mark.parametrize("how", WAYS)
def test_a_student_goes_every_way_that_its_teacher_goes(how, tmp_path):
    student = drop_layers(tiny("sd15"), mixed(tiny("sd15")))
    before = output(student)
    torch.testing.assert_close(output(copied(student, tmp_path, how)), before)


def test_free_u_changes_a_student_as_it_changes_the_teacher_without_its_layers():
    teacher, plan = tiny("sd15"), bk_sdm_base()
    student = drop_layers(teacher, plan)
    plain, factors = output(student), {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}
    for unet in (teacher, student):
        unet.enable_freeu(**factors)
    with bypassed(teacher, plan):
        assert torch.equal(output(student), output(teacher))
    assert not torch.equal(output(student), plain)
    student.disable_freeu()
    assert torch.equal(output(student), plain)


def test_a_lora_that_a_student_learnt_is_saved_and_loaded(tmp_path):
    pipe, call = with_bk_sdm()
    plain = draw(pipe, call)
    weights = lora(pipe.unet)
    pipe.load_lora_weights(weights)
    styled = draw(pipe, call)
    layers = {name.removeprefix("unet."): x for name, x in weights.items()}
    type(pipe).save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe.unload_lora_weights()
    torch.testing.assert_close(draw(pipe, call), plain)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(pipe, call), styled)
    assert not torch.equal(styled, plain)


def test_a_student_is_no_single_file():
    with pytest.raises(ValueError, match=r"load its folder by secateur\.StudentUNet\.from_pretrained"):
        secateur.StudentUNet.from_single_file("student.safetensors")


def test_checkpointing_gives_the_same_gradients():
    student = drop_layers(tiny("sd15"), mixed(tiny("sd15"))).requires_grad_(True).train()
    grads = []
    for enable in (False, True):
        student.zero_grad()
        (student.enable_gradient_checkpointing if enable else student.disable_gradient_checkpointing)()
        student(**inputs_of(student), return_dict=False)[0].square().sum().backward()
        grads.append(student.conv_in.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_no_other_name_is_in_the_module():
    with pytest.raises(AttributeError, match="has no attribute 'Teacher'"):
        getattr(secateur, "Teacher")  # noqa: B009
