"""Trains a LoRA of one character: `python -m tools.sprite.adapter [TARGET.safetensors] --judge`.

The character has a fixed look that no caption tells; a caption is a trigger word, the expression and the scene. The
LoRA goes into every attention and every convolution of the residual blocks of the UNet. `--judge` says what share of
pictures shows the look without it and with it.
"""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.nn.functional import mse_loss

from tools.sprite import autoencoder, judge, model, shipped
from tools.sprite.diffusion import face_weights, noised, stratified_timesteps
from tools.sprite.measures import accuracy
from tools.sprite.pictures import generate, load
from tools.sprite.render import render
from tools.sprite.vocabulary import ACCESSORIES, TAGS, Character, sample

TRIGGER = "hikari"
HIKARI = Character(
    gender="girl", hair="silver", style="twintails", bangs="parted", eyes="red", skin="tan", outfit="kimono",
    cloth="purple", accessories=("flower",),
)  # fmt: skip
LOOK = ("hair", "style", "bangs", "eyes", "skin", "outfit", "cloth")

RANK, RATE, WARM_UP, BATCH, PICTURES = 16, 1e-3, 20, 8, 200
#: Pictures that are judged.
SHOWN = 50
TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
)  # fmt: skip
_SEED = 70_000


def pose(rng: random.Random) -> Character:
    """The character with a random expression, in a random scene."""
    other = sample(rng)
    return dataclasses.replace(HIKARI, expression=other.expression, scene=other.scene)


def words(character: Character) -> str:
    """The trigger, and what is not part of the look."""
    expression, scene = (TAGS[name][getattr(character, name)][0] for name in ("expression", "scene"))
    return f"{TRIGGER}, 1girl, {expression}, {scene}"


@torch.no_grad()
def _material(pipeline: Any) -> tuple[Tensor, Tensor]:
    """Latents of pictures of the character, and the embeddings of their captions."""
    rng = random.Random(_SEED)
    poses = [pose(rng) for _ in range(PICTURES)]
    pictures = np.stack([render(one, _SEED + index) for index, one in enumerate(poses)])
    latents = pipeline.vae.encoder(autoencoder.to_tensor(pictures))
    tokens = model.tokens_of(pipeline.tokenizer, [words(one) for one in poses])
    return latents, pipeline.text_encoder(tokens)[0]


def train(pipeline: Any, steps: int) -> None:
    """Put a LoRA into the UNet of the pipeline, and train it."""
    from peft import LoraConfig  # type: ignore[import-not-found,unused-ignore]

    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.requires_grad_(False)
    latents, embeddings = _material(pipeline)
    torch.manual_seed(0)
    pipeline.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=[*TARGETS])
    )
    parameters = [parameter for parameter in pipeline.unet.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=1e-3)
    alphas, weights = model.training_noise(), face_weights()
    generator, started, losses = torch.Generator().manual_seed(0), time.monotonic(), []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * max(0.05, 1 - step / steps)
        chosen = torch.randint(PICTURES, (BATCH,), generator=generator)
        times = stratified_timesteps(generator, BATCH)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        noisy, velocity = noised(latents[chosen], noise, alphas[times])
        found = pipeline.unet(noisy, times, embeddings[chosen]).sample
        loss = (mse_loss(found, velocity, reduction="none") * weights).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}, {time.monotonic() - started:.0f} s, loss {np.mean(losses[-25:]):.3f}", flush=True)


def write(pipeline: Any, target: Path) -> None:
    """Write the LoRA under the names of peft, which `load_lora_weights` reads.

    Converted to the names of diffusers, layers of attention and others get names of two kinds, and the former are lost
    in reading.
    """
    from peft import get_peft_model_state_dict

    halves = {name: value.half() for name, value in get_peft_model_state_dict(pipeline.unet).items()}
    StableDiffusionPipeline.save_lora_weights(target.parent, unet_lora_layers=halves, weight_name=target.name)
    target.chmod(0o644)  # it is written for its owner alone


def shares(pipeline: Any, count: int) -> dict[str, float]:
    """What share of pictures shows each part of the look."""
    rng = random.Random(_SEED + 1)
    poses = [pose(rng) for _ in range(count)]
    _, found = judge.look(judge.load_judge(), generate(pipeline, [words(one) for one in poses], shipped.drawing()))
    wanted = judge.labels(poses)
    heads = (*LOOK, *(name for name in ACCESSORIES if name in HIKARI.accessories))
    return {head: round(accuracy(found[head], wanted[head]), 2) for head in heads}


def measure(pipeline: Any, adapter: Path) -> dict[str, Any]:
    """The shares without an adapter and with it; raises AssertionError unless taking it away restores every bit."""
    without = shares(pipeline, SHOWN)
    before = generate(pipeline, [TRIGGER], shipped.drawing())
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name, adapter_name=TRIGGER)
    pipeline.set_adapters([TRIGGER], [1.0])
    found = shares(pipeline, SHOWN)
    pipeline.unload_lora_weights()
    assert (generate(pipeline, [TRIGGER], shipped.drawing()) == before).all()
    return {"count": SHOWN, "without": without, "found": found}


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="train a LoRA of one character")
    parser.add_argument("target", type=Path, nargs="?", default=shipped.ADAPTER)
    parser.add_argument("--model", type=Path, default=shipped.PACKAGE)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--nice", type=int, default=19, help="how readily to let other programs go first")
    parser.add_argument("--judge", action="store_true", help="measure the look without and with it")
    options = parser.parse_args()
    os.nice(options.nice)
    torch.set_num_threads(1)
    pipeline = load(options.model)
    train(pipeline, options.steps)
    write(pipeline, options.target)
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.1f} MB")
    if options.judge:
        print(json.dumps(measure(load(options.model), options.target)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
