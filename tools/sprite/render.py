"""Draws a character: `python -m tools.sprite.render sheet.png` draws a sheet of them.

The head is large, and the eyes are large in it: one eye is 20 × 24 pixels of 128, several cells of the latent grid.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tools.sprite import clothes, face, hair, scenes
from tools.sprite.canvas import Canvas, Pixels, darker, vary
from tools.sprite.vocabulary import Character, prompt, sample

SIZE = 128
#: The head is drawn at this scale about the chin, and moved down by so much.
HEAD_SCALE, HEAD_DROP = 1.12, 5.0
CHIN = (64.0, 94.0)
#: How much the framing differs from picture to picture, in units of the canvas, and how far a head is tilted (radians).
ACROSS, DOWN, ZOOM, TILT = 4.0, 2.5, 0.06, 0.07
#: Left, top, right, bottom of the part of the picture where the features of the face are.
FACE_BOX = (32, 52, 96, 100)


def render(character: Character, seed: int, size: int = SIZE) -> Pixels:
    """The picture; the same character and seed give the same pixels."""
    rng = random.Random(seed)
    canvas = Canvas(size)
    scenes.draw(canvas, character.scene, rng)
    hair_part = hair.Hair(canvas, character, vary(hair.HAIR[character.hair], rng), rng)
    skin = vary(face.SKIN[character.skin], rng, 0.01)
    face_part = face.Face(canvas, character, skin, vary(face.EYES[character.eyes], rng, 0.01), hair_part.line)
    boy = character.gender == "boy"
    colour = vary(clothes.CLOTH[character.cloth], rng)
    torso = clothes.Torso(canvas, character.cloth, colour, skin, 48 if boy else 42, 9 if boy else 7.5, rng)
    across, down, zoom = rng.uniform(-ACROSS, ACROSS), rng.uniform(-DOWN, DOWN), rng.uniform(1 - ZOOM, 1 + ZOOM)
    tilt = rng.uniform(-TILT, TILT)
    with canvas.moved(across, down, zoom, (64, 76)):
        with canvas.moved(0, HEAD_DROP, HEAD_SCALE, CHIN, tilt):
            hair.draw_behind(hair_part)
        clothes.draw(torso, character.outfit)
        with canvas.moved(0, HEAD_DROP, HEAD_SCALE, CHIN, tilt):
            _ears(face_part)
            face.draw(face_part)
            hair.draw_front(hair_part)
            hair.draw_worn(hair_part)
    pixels = canvas.pixels()
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return _degrade(pixels, rng) if character.degraded else pixels


def _ears(part: face.Face) -> None:
    if part.character.style not in {"spiky", "twintails", "ponytail", "buns"}:
        return
    for side in (-1, 1):
        part.canvas.ellipse(64 + side * 28.5, 70, 4.2, 6.2, side * 0.2)
        part.canvas.paint(darker(part.skin, 0.08), part.line)


def _degrade(pixels: Pixels, rng: random.Random) -> Pixels:
    """A bad picture: what the negative prompt stands for."""
    size = pixels.shape[0]
    picture = Image.fromarray(pixels)
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.6, 3.2) * size / SIZE))
    else:
        small = rng.choice((20, 26, 32))
        picture = picture.resize((small, small), Image.Resampling.BOX).resize((size, size), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 7), (size, size, 1))
    faded = (np.asarray(picture, np.float64) - 128) * rng.uniform(0.75, 0.95) + 128 + noise
    return faded.clip(0, 255).astype(np.uint8)


def sheet(pictures: list[Pixels], columns: int = 6, scale: int = 1) -> Image.Image:
    """Pictures side by side."""
    height, width = (length * scale for length in pictures[0].shape[:2])
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * width, rows * height))
    for index, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        whole.paste(picture, (index % columns * width, index // columns * height))
    return whole


def main() -> int:
    """The command; returns the exit status."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("sprite-sheet.png")
    rng = random.Random(7)
    characters = [sample(rng) for _ in range(30)]
    sheet([render(character, seed, 192) for seed, character in enumerate(characters)]).save(target)
    for character in characters:
        print(prompt(character))
    return 0


if __name__ == "__main__":
    sys.exit(main())
