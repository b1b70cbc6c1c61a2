"""Pictures of a packed model, straight from its pipeline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from tools.sprite.shipped import Drawing
from tools.sprite.showcase import PROMPTS

if TYPE_CHECKING:
    from tools.sprite.canvas import Pixels

BATCH = 8


def load(package: Path) -> Any:
    """The pipeline of a package, quietly."""
    pipeline = StableDiffusionPipeline.from_pretrained(package)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Any, prompts: Sequence[str], how: Drawing, seeds: Sequence[int] = (), negatives: Sequence[str] = ()
) -> Pixels:
    """One picture a prompt, each with its seed or that of its place, and its negative prompt or the usual one."""
    seeds = seeds or range(len(prompts))
    negatives = negatives or [how.negative_prompt] * len(prompts)
    made = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        made += pipeline(
            list(prompts[part]),
            negative_prompt=list(negatives[part]),
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
        ).images
    return np.stack([np.asarray(picture) for picture in made])


def seconds_a_picture(pipeline: Any, how: Drawing, *, repeats: int = 3) -> float:
    """Processor seconds of one picture on one thread, the best of a few."""
    spent = []
    for _ in range(repeats + 1):
        started = time.process_time()
        generate(pipeline, PROMPTS[:1], how)
        spent.append(time.process_time() - started)
    return min(spent[1:])
