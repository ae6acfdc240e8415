"""Train emoji-sd: a text-to-image pipeline of SD-1.5's topology, every width a tenth.

python zoo_training/emoji_sd.py [UPDATES]      needs the autoencoder; resumes; writes src/secateur_zoo/emoji-sd
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latents import bank, trained_autoencoder, weight
from loop import BUILD, device, log, train
from secateur.zoo import scenes
from secateur.zoo.place import home

FOLDER, TARGET = BUILD / "emoji-sd", home() / "emoji-sd"
UPDATES, BATCH, PEAK = 4400, 32, 8e-4
SCENES, PAIRS = 40_000, 0.35
CAPTION_DROPOUT = 0.1  # for classifier-free guidance
TOKENS, TEXT_WIDTH = 16, 64


def scheduler() -> DDIMScheduler:
    """SD-1.5's noise schedule and DDIM settings."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer whose byte-pair encoding, learnt on the captions, makes each word of the zoo's world one token."""
    words = sorted({w for s in _every_word() for w in s.split()})
    learner = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator([" ".join(words)] * 3, trainer)
    state = json.loads(learner.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    made = CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=TOKENS)
    broken = [w for w in words if len(made(w).input_ids) != 3]
    if broken:
        raise ValueError(f"these words are not one token each: {broken}")
    return made


def _every_word() -> list[str]:
    nouns = [scenes.Scene(o, b).caption for o in scenes.OBJECTS for b in scenes.BACKGROUNDS]
    return [*nouns, *scenes.RELATIONS]


def half_precision():
    """bfloat16 on a GPU; on a CPU these narrow convolutions are faster in float32 (26 against 21 samples a core second)."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device().type == "cuda")


class Parts(nn.Module):
    """What is trained together: the denoiser and the text encoder it listens to."""

    def __init__(self, vocabulary: int, bos: int, eos: int):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64, 128, 128),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=bos,
                eos_token_id=eos,
                pad_token_id=eos,
            )
        )


def loss(parts: Parts, latents: Tensor, ids: Tensor, empty: Tensor, alphas: Tensor, rng, noise_source) -> Tensor:
    pick = torch.from_numpy(rng.integers(len(latents), size=BATCH))
    x = latents[pick].float()
    t = torch.from_numpy(rng.integers(1000, size=BATCH))
    noise = torch.randn(x.shape, generator=noise_source)
    a = alphas[t].view(-1, 1, 1, 1)
    tokens = torch.where(torch.from_numpy(rng.random(BATCH) < CAPTION_DROPOUT)[:, None], empty, ids[pick])
    noisy, where = (a.sqrt() * x + (1 - a).sqrt() * noise).to(device()), t.to(device())
    with half_precision():
        text = parts.text_encoder(tokens.to(device())).last_hidden_state
        guess = parts.unet(noisy, where, text).sample
    error = (guess.float() - noise.to(device())).square().mean((1, 2, 3))
    return (weight(alphas, t).to(device()) * error).mean()


def save(parts: Parts, words: CLIPTokenizer) -> None:
    """Write the pipeline in fp16, as stock diffusers reads it."""
    pipe = StableDiffusionPipeline(
        vae=trained_autoencoder(),
        text_encoder=parts.text_encoder,
        tokenizer=words,
        unet=parts.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(TARGET)


def main() -> None:
    torch.manual_seed(0)
    words = tokenizer()
    encode = lambda texts: words(texts, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids  # noqa: E731
    latents, drawn = bank("emoji-sd", SCENES, pairs=PAIRS)
    ids, empty = encode([s.caption for s in drawn]), encode([""])
    parts = Parts(len(words), words.bos_token_id, words.eos_token_id).to(device())
    alphas = scheduler().alphas_cumprod
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES

    def one(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        return loss(parts, latents, ids, empty, alphas, rng, noise)

    log(FOLDER, train(parts, one, folder=FOLDER, updates=updates, peak=PEAK))
    save(parts, words)


if __name__ == "__main__":
    main()
