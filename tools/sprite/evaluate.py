"""Measures the shipped model and writes docs/models/sprite.md: `python -m tools.sprite.evaluate`.

With `--model` it measures another package, and writes nothing. It makes pictures of combinations of tags that no
training picture showed, has the judge say what they show, and compares their features with those of drawn pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.sprite import adapter, card, judge, pack, shipped
from tools.sprite.home import home
from tools.sprite.judge import HEADS, NOISE
from tools.sprite.measures import Labels, balanced_accuracy, frechet, mean, spread
from tools.sprite.pictures import generate, load, seconds_a_picture
from tools.sprite.render import render, sheet
from tools.sprite.report import GOALS, write
from tools.sprite.shipped import Drawing
from tools.sprite.showcase import PROMPTS
from tools.sprite.vocabulary import ACCESSORIES, TAGS, Character, prompt, sample

COUNT = 240
#: Guidance beside the usual one, to see what it does; 1 is none.
GUIDANCES = (1.0, 4.0)
#: For variety: so many characters, each with so many seeds.
CHARACTERS, SEEDS = 8, 6
#: For the negative prompt.
TRIES = 48


def shares(found: dict[str, Labels], wanted: dict[str, Labels]) -> dict[str, float]:
    """The balanced accuracy of every head, and the mean of the accessories."""
    table = {head: balanced_accuracy(found[head], wanted[head]) for head in HEADS}
    return table | {"accessories": mean([table[name] for name in ACCESSORIES])}


def variety(pipeline: Any, how: Drawing) -> tuple[float, float]:
    """How far pictures of one prompt and several seeds are apart, generated and drawn."""
    rng = random.Random(7)
    characters, seeds = [sample(rng) for _ in range(CHARACTERS)], range(SEEDS)
    generated = [generate(pipeline, [prompt(one)] * SEEDS, how, seeds) for one in characters]
    drawn = [np.stack([render(one, seed) for seed in seeds]) for one in characters]
    return mean([spread(each) for each in generated]), mean([spread(each) for each in drawn])


def avoidance(pipeline: Any, how: Drawing) -> float:
    """The share of pictures that keep the colour of hair which nobody asked for when the negative prompt names it."""
    judging, seeds = judge.load_judge(), range(TRIES)
    prompts = ["1girl, smile, white background"] * TRIES
    colours = judge.look(judging, generate(pipeline, prompts, how, seeds))[1]["hair"]
    tags = [TAGS["hair"][HEADS["hair"][colour]][0] for colour in colours]
    negatives = [f"{tag}, {how.negative_prompt}" for tag in tags]
    without = judge.look(judging, generate(pipeline, prompts, how, seeds, negatives))[1]["hair"]
    return float((without == colours).mean())


def evaluate(pipeline: Any, characters: Sequence[Character]) -> dict[str, Any]:
    """Everything that is measured."""
    judging, wanted, count = judge.load_judge(), judge.labels(characters), len(characters)
    others = judge.held_out_characters(count, seed=1)
    drawn, drawn_again = judge.draw(characters), judge.draw(others, seed=count)
    usual, fast = shipped.drawing(), shipped.drawing("fast")
    guided = {guidance: dataclasses.replace(usual, guidance=guidance) for guidance in GUIDANCES}
    ways = {"generated": usual, "fast": fast} | {f"guidance {number:g}": way for number, way in guided.items()}
    prompts = [prompt(one) for one in characters]
    kinds = {name: generate(pipeline, prompts, way) for name, way in ways.items()} | {
        "drawn": drawn,
        "decoded": judge.reconstruct(drawn),
        "noisy": judge.reconstruct(drawn, NOISE),
    }
    seen = {name: judge.look(judging, kind) for name, kind in kinds.items()}
    reference, _ = judge.look(judging, drawn_again)
    accuracy = {name: shares(found, wanted) for name, (_, found) in seen.items()}
    return {
        "count": count,
        "usual": dataclasses.asdict(usual),
        "fast": dataclasses.asdict(fast),
        "seconds": {"generated": seconds_a_picture(pipeline, usual), "fast": seconds_a_picture(pipeline, fast)},
        "accuracy": accuracy,
        "mean": {name: mean([table[head] for _, head, _ in GOALS]) for name, table in accuracy.items()},
        "frechet": {name: frechet(features, reference) for name, (features, _) in seen.items()},
        "variety": variety(pipeline, usual),
        "avoidance": avoidance(pipeline, usual),
        "hikari": adapter.measure(pipeline, shipped.ADAPTER),
    }


def made_of(package: Path) -> dict[str, Any]:
    """Which weights these are, of how many samples, and when and with which sources they were measured."""
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return {
        "samples": json.loads((package / pack.TRAINING).read_text(encoding="utf-8"))["samples"],
        "weights": shipped.fingerprint(package),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip(),
    }


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="measure a packed model")
    parser.add_argument("--model", type=Path, default=shipped.PACKAGE, help="another package; nothing is written then")
    parser.add_argument("--count", type=int, default=COUNT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load(options.model)
    results = evaluate(pipeline, judge.held_out_characters(options.count)) | made_of(options.model)
    (home() / "evaluation.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    pictures = sheet(list(generate(pipeline, PROMPTS, shipped.drawing())), scale=2)
    pictures.save(home() / "generated.png")
    print(json.dumps(results, indent=1))
    if options.model.resolve() == shipped.PACKAGE and options.count == COUNT:
        write(results)
        card.write(pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
