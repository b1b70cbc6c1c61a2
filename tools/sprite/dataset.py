"""The pictures to train on, drawn once: `python -m tools.sprite.dataset --count 30000`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from pathlib import Path

import numpy as np

from tools.sprite.canvas import Pixels
from tools.sprite.home import home
from tools.sprite.render import SIZE, render
from tools.sprite.vocabulary import Character, sample

COUNT = 30_000
DEGRADED = 0.02


def character_of(seed: int) -> Character:
    """The character of the training picture of that number."""
    return sample(random.Random(seed * 7919 + 13), degraded=DEGRADED)


def pictures_path() -> Path:
    """Where the pictures are."""
    return home() / "pictures.npy"


def characters_path() -> Path:
    """Where the attributes of the pictures are."""
    return home() / "characters.json"


def load_pictures() -> Pixels:
    """All pictures: number × height × width × RGB, not read before they are used; drawn first where there are none."""
    _ensure()
    pictures: Pixels = np.load(pictures_path(), mmap_mode="r")
    return pictures


def load_characters() -> list[Character]:
    """The attributes of all pictures, which are drawn first where there are none."""
    _ensure()
    rows = json.loads(characters_path().read_text(encoding="utf-8"))
    return [Character(**{**row, "accessories": tuple(row["accessories"])}) for row in rows]


def _ensure() -> None:
    if not pictures_path().exists():
        draw(COUNT)


def draw(count: int) -> None:
    """Draw the pictures."""
    started = time.monotonic()
    characters = [character_of(seed) for seed in range(count)]
    unfinished = home() / "pictures.part.npy"
    pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, SIZE, SIZE, 3))
    for seed, character in enumerate(characters):
        pictures[seed] = render(character, seed)
        if seed % 2000 == 0:
            print(f"{seed} of {count} pictures, {time.monotonic() - started:.0f} s", flush=True)
    pictures.flush()
    characters_path().write_text(json.dumps([dataclasses.asdict(one) for one in characters]), encoding="utf-8")
    unfinished.replace(pictures_path())


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="draw the pictures to train on")
    parser.add_argument("--count", type=int, default=COUNT)
    draw(parser.parse_args().count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
