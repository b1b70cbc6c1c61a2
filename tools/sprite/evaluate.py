"""Measures a packed model: `python -m tools.sprite.evaluate`; with `--write` the results go to docs/models/sprite.md.

It makes pictures of combinations of tags that no training picture showed, has the judge say what they show, and
compares their features with those of drawn pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from tools.sprite import judge, pack
from tools.sprite.canvas import Pixels
from tools.sprite.home import home
from tools.sprite.judge import HEADS, NOISE
from tools.sprite.measures import Labels, balanced_accuracy, frechet, mean
from tools.sprite.render import sheet
from tools.sprite.report import write
from tools.sprite.vocabulary import ACCESSORIES, Character, prompt

STEPS, GUIDANCE, NEGATIVE, BATCH = 12, 4.0, "low quality, blurry", 8
COUNT, SHOWN = 240, 24


def generate(pipeline: Any, prompts: Sequence[str], *, steps: int = STEPS, guidance: float = GUIDANCE) -> Pixels:
    """One picture a prompt, each with the seed of its place."""
    made = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        seeds = [torch.Generator().manual_seed(start + index) for index in range(len(part))]
        made += pipeline(
            part,
            negative_prompt=[NEGATIVE] * len(part),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeds,
        ).images
    return np.stack([np.asarray(picture) for picture in made])


def seconds_a_picture(pipeline: Any, *, steps: int = STEPS, repeats: int = 3) -> float:
    """Processor seconds of one picture on one thread, the best of a few."""
    spent = []
    for _ in range(repeats + 1):
        started = time.process_time()
        generate(pipeline, ["1girl, blue hair, smile"], steps=steps)
        spent.append(time.process_time() - started)
    return min(spent[1:])


def shares(found: dict[str, Labels], wanted: dict[str, Labels]) -> dict[str, float]:
    """The balanced accuracy of every head, and the mean of the accessories."""
    table = {head: balanced_accuracy(found[head], wanted[head]) for head in HEADS}
    return table | {"accessories": mean([table[name] for name in ACCESSORIES])}


def evaluate(pipeline: Any, characters: Sequence[Character]) -> tuple[dict[str, Any], Pixels]:
    """Everything that is measured, and the pictures that it was measured on."""
    judging, wanted, count = judge.load_judge(), judge.labels(characters), len(characters)
    others = judge.held_out_characters(count, seed=1)
    drawn, drawn_again = judge.draw(characters), judge.draw(others, seed=count)
    pictures = generate(pipeline, [prompt(one) for one in characters])
    kinds = {
        "generated": pictures,
        "drawn": drawn,
        "decoded": judge.reconstruct(drawn),
        "noisy": judge.reconstruct(drawn, NOISE),
    }
    seen = {name: judge.look(judging, kind) for name, kind in kinds.items()}
    reference, _ = judge.look(judging, drawn_again)
    results = {
        "count": count,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "seconds": seconds_a_picture(pipeline),
        "accuracy": {name: shares(found, wanted) for name, (_, found) in seen.items()},
        "frechet": {name: frechet(features, reference) for name, (features, _) in seen.items()},
    }
    return results, pictures


def samples_of(package: Path) -> int:
    """How many samples the model was trained on; 0 where the package does not say."""
    spent = package / pack.TRAINING
    return int(json.loads(spent.read_text(encoding="utf-8"))["samples"]) if spent.exists() else 0


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="measure a packed model")
    parser.add_argument("--model", type=Path, default=pack.path())
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--write", action="store_true", help="write docs/models/sprite.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(options.model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    results, pictures = evaluate(pipeline, judge.held_out_characters(options.count))
    results["samples"] = samples_of(options.model)
    (home() / "evaluation.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    sheet(list(pictures[:SHOWN]), scale=2).save(home() / "generated.png")
    print(json.dumps(results, indent=1))
    if options.write:
        write(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
