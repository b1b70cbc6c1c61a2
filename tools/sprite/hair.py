"""Hair: what hangs behind the shoulders, what frames the face, and what is worn on it."""

from __future__ import annotations

import dataclasses
import math
import random

from tools.sprite.canvas import Canvas, Colour, darker, lighter, mix
from tools.sprite.face import EYE_GAP, EYE_LINE
from tools.sprite.vocabulary import Character

HAIR: dict[str, Colour] = {
    "black": (0.17, 0.16, 0.22),
    "brown": (0.47, 0.29, 0.19),
    "blonde": (0.98, 0.84, 0.46),
    "red": (0.80, 0.18, 0.20),
    "pink": (0.98, 0.62, 0.74),
    "blue": (0.27, 0.45, 0.86),
    "green": (0.33, 0.66, 0.42),
    "purple": (0.56, 0.36, 0.76),
    "silver": (0.86, 0.88, 0.93),
    "orange": (0.95, 0.55, 0.22),
}
RIBBON: Colour = (0.90, 0.16, 0.24)
HAT: Colour = (0.45, 0.30, 0.20)
HAT_BAND: Colour = (0.96, 0.93, 0.85)
HEADPHONES: Colour = (0.22, 0.22, 0.28)
PETALS: Colour = (1.0, 0.98, 0.96)
MIDDLE = 64.0


@dataclasses.dataclass(frozen=True)
class Hair:
    """What the parts of the hair need to know."""

    canvas: Canvas
    character: Character
    colour: Colour
    rng: random.Random

    @property
    def shade(self) -> Colour:
        """The colour in the shadow."""
        return darker(self.colour, 0.36)

    @property
    def shine(self) -> Colour:
        """The colour in the light."""
        return (
            mix(self.colour, (0.50, 0.52, 0.70), 0.55) if self.character.hair == "black" else lighter(self.colour, 0.5)
        )

    @property
    def line(self) -> Colour:
        """The colour of the outlines."""
        return darker(self.colour, 0.92) if self.character.hair != "silver" else (0.36, 0.38, 0.50)


def _falling(hair: Hair) -> None:
    """Long and wavy hair, behind the shoulders."""
    if hair.character.style == "long":
        left = [(-33.0, 46.0), (-37, 76), (-38, 100), (-36, 132)]
    else:
        left = [(-33.0, 46.0), *((-45.0 - (4 if step % 2 else -5), 60.0 + 12 * step) for step in range(6))]
    right = [(-x, y) for x, y in reversed(left)]
    hair.canvas.smooth([(MIDDLE + x, y) for x, y in (*left, *right, (0, 14))])
    hair.canvas.paint(hair.shade, hair.line)


def _bob(hair: Hair) -> None:
    half = [(-33.0, 48.0), (-38, 70), (-37, 92), (-22, 96)]
    points = [*half, (0.0, 92.0), *((-x, y) for x, y in reversed(half)), (0, 14)]
    hair.canvas.smooth([(MIDDLE + x, y) for x, y in points])
    hair.canvas.paint(hair.shade, hair.line)


def _tail(hair: Hair, side: int, points: list[tuple[float, float]], fold: float) -> None:
    """One tail of hair, from its outline on the right."""
    hair.canvas.smooth([(MIDDLE + side * x, y) for x, y in points], 0.75)
    hair.canvas.paint(hair.colour, hair.line)
    x = MIDDLE + side * fold
    hair.canvas.line(hair.shade, 2.0, (x, 46), (x + side * 6, 62, x + side * 5, 84, x + side * 2, 106))


def _tails(hair: Hair) -> None:
    if hair.character.style == "twintails":
        outline = [(27.0, 33.0), (42, 30), (53, 48), (55, 78), (51, 104), (44, 124), (40, 102), (37, 76), (35, 52)]
        for side in (-1, 1):
            _tail(hair, side, outline, 43)
    else:
        outline = [(8.0, 14.0), (24, 7), (42, 16), (53, 46), (52, 82), (42, 114), (37, 84), (36, 54), (24, 28)]
        _tail(hair, 1, outline, 42)


def _buns(hair: Hair) -> None:
    for side in (-1, 1):
        x = MIDDLE + side * 25
        hair.canvas.ellipse(x, 20, 13, 12.5)
        hair.canvas.paint(hair.colour, hair.line)
        hair.canvas.line(hair.shade, 1.8, (x - side * 4, 13), (x + side * 6, 15, x + side * 7, 24, x + side, 28))


def _cap(hair: Hair) -> None:
    """The hair behind the face, where nothing longer hangs."""
    half = [(-32.0, 48.0), (-32, 68), (-25, 84), (-12, 90)]
    points = [*half, *((-x, y) for x, y in reversed(half)), (0.0, 18.0)]
    hair.canvas.smooth([(MIDDLE + x, y) for x, y in points])
    hair.canvas.paint(hair.shade, hair.line)


def _cat_ears(hair: Hair) -> None:
    for side in (-1, 1):
        for x, y, high, wide, colour in ((23, 32, 24, 14.0, hair.colour), (25, 31, 15, 8.0, (1.0, 0.62, 0.70))):
            base = MIDDLE + side * x
            tip = (base + side * 6, y - high)
            hair.canvas.path(
                (base - side * wide, y),
                (base - side * 4, y - high * 0.7, *tip, *tip),
                (base + side * wide, y - 4, base + side * wide, y, base + side * wide, y + 4),
            )
            hair.canvas.paint(colour, hair.line if colour is hair.colour else None)


def draw_behind(hair: Hair) -> None:
    """All that the face and the shoulders cover."""
    style = hair.character.style
    if style in {"long", "wavy"}:
        _falling(hair)
    elif style == "bob":
        _bob(hair)
    elif style in {"twintails", "ponytail"}:
        _tails(hair)
    elif style == "buns":
        _buns(hair)
    if style in {"twintails", "ponytail", "buns", "spiky"}:
        _cap(hair)
    if "cat ears" in hair.character.accessories:
        _cat_ears(hair)


def _fringe(hair: Hair) -> list[tuple[float, float]]:
    """The lower edge of the hair over the forehead, from right to left."""
    if hair.character.bangs == "parted":
        half = [(29.0, 76.0), (25, 64), (20, 58), (15, 52), (9, 45)]
        points = [*half, (0.0, 33.0), *((-x, y) for x, y in reversed(half))]
    else:
        points = []
        for step in range(6):
            x = 27 - 10.8 * step
            points += [(x, 57.0 + abs(x) * 0.12), (x - 5.4, 50.5 + abs(x) * 0.1)]
        points = points[:-1]
    return [(MIDDLE + x, y) for x, y in points]


def _crown(hair: Hair) -> None:
    """The path of the hair over the face."""
    fringe = _fringe(hair)
    if hair.character.style == "spiky":
        outline: list[tuple[float, float]] = []
        for step in range(17):
            angle = math.pi * (1.08 - 1.16 * step / 16)
            radius = 36.0 if step % 2 == 0 else 47.0
            outline.append((MIDDLE + math.cos(angle) * radius, 51 - math.sin(angle) * radius * 0.98))
        hair.canvas.path(*outline, (MIDDLE + 31, 68), *fringe, (MIDDLE - 31, 68))
        return
    left, right = MIDDLE - 33, MIDDLE + 33
    hair.canvas.path(
        (left, 58), (left - 4, 44, left, 28, MIDDLE - 22, 20), (MIDDLE - 12, 12.5, MIDDLE + 12, 12.5, MIDDLE + 22, 20),
        (right, 28, right + 4, 44, right, 58), (MIDDLE + 31, 72), *fringe, (MIDDLE - 31, 72),
    )  # fmt: skip


def _shine(hair: Hair) -> None:
    """The ring of light around the crown, and strands."""
    upper = [(MIDDLE + x * 9.0, 33 + 0.45 * x * x) for x in range(-3, 4)]
    lower = [(x, y + (3.0 if index % 2 else 5.4)) for index, (x, y) in enumerate(upper)]
    hair.canvas.path(*upper, *reversed(lower))
    hair.canvas.paint(hair.shine)
    for x in (-14, -4, 6, 16):
        hair.canvas.line(
            mix(hair.shade, hair.line, 0.25),
            1.1,
            (MIDDLE + x * 0.6, 22),
            (MIDDLE + x, 32, MIDDLE + x, 40, MIDDLE + x, 48),
        )


def _locks(hair: Hair) -> None:
    """The locks beside the face."""
    end = {"long": 106, "wavy": 102, "bob": 90, "twintails": 90, "buns": 88, "ponytail": 90}[hair.character.style]
    bend = 3 if hair.character.style == "wavy" else 0
    for side in (-1, 1):
        hair.canvas.path(
            (MIDDLE + side * 33, 48),
            (MIDDLE + side * 36, 64, MIDDLE + side * (35 + bend), 78, MIDDLE + side * (30 + bend), end),
            (MIDDLE + side * (27 - bend), 86, MIDDLE + side * (26 + bend), 74, MIDDLE + side * 27, 56),
        )
        hair.canvas.paint(hair.colour, hair.line)


def draw_front(hair: Hair) -> None:
    """All that covers the face."""
    _crown(hair)
    hair.canvas.paint(hair.colour, hair.line)
    _crown(hair)
    with hair.canvas.clipped():
        _shine(hair)
    if hair.character.style != "spiky":
        _locks(hair)
    if hair.character.style == "twintails":
        for side in (-1, 1):
            hair.canvas.ellipse(MIDDLE + side * 32, 35, 4.4, 6.4, side * 0.5)
            hair.canvas.paint(RIBBON, darker(RIBBON, 0.9))


def _glasses(canvas: Canvas) -> None:
    frame: Colour = (0.16, 0.13, 0.22)
    for side in (-1, 1):
        canvas.ellipse(MIDDLE + side * EYE_GAP, EYE_LINE + 0.6, 12.2, 12.2)
        canvas.stroke(frame, 2.4)
        canvas.line(frame, 2.0, (MIDDLE + side * 26.6, EYE_LINE - 1), (MIDDLE + side * 31, EYE_LINE - 3))
    canvas.line(frame, 2.2, (MIDDLE - 2.6, EYE_LINE), (MIDDLE + 2.6, EYE_LINE))


def _headphones(canvas: Canvas) -> None:
    for width, colour in ((7.4, darker(HEADPHONES, 0.9)), (4.8, lighter(HEADPHONES, 0.25))):
        canvas.context.new_path()
        canvas.context.arc(MIDDLE, 50, 38.5, math.pi * 1.02, math.pi * 1.98)
        canvas.stroke(colour, width)
    for side in (-1, 1):
        canvas.ellipse(MIDDLE + side * 36, 62, 7.4, 13)
        canvas.paint(HEADPHONES, darker(HEADPHONES, 0.9))
        canvas.ellipse(MIDDLE + side * 37.5, 62, 3.2, 8)
        canvas.paint((0.30, 0.80, 0.95))


def _ribbon(canvas: Canvas) -> None:
    line = darker(RIBBON, 0.9)
    for side in (-1, 1):
        canvas.path(
            (MIDDLE, 16), (MIDDLE + side * 9, 5, MIDDLE + side * 20, 2, MIDDLE + side * 23, 6),
            (MIDDLE + side * 25, 15, MIDDLE + side * 23, 23, MIDDLE + side * 20, 25),
            (MIDDLE + side * 12, 24, MIDDLE + side * 6, 19, MIDDLE, 16),
        )  # fmt: skip
        canvas.paint(RIBBON, line)
    canvas.ellipse(MIDDLE, 15.5, 4.6, 5.4)
    canvas.paint(lighter(RIBBON, 0.2), line)


def _flower(canvas: Canvas) -> None:
    canvas.flower(MIDDLE - 26, 35, 13, darker(PETALS, 0.6), darker(PETALS, 0.6), 0.3)
    canvas.flower(MIDDLE - 26, 35, 11.6, PETALS, (1.0, 0.72, 0.15), 0.3)


def _hat(canvas: Canvas) -> None:
    line = darker(HAT, 0.9)
    canvas.path(
        (MIDDLE - 29, 32),
        (MIDDLE - 25, 8, MIDDLE - 10, 6, MIDDLE, 6),
        (MIDDLE + 10, 6, MIDDLE + 25, 8, MIDDLE + 29, 32),
    )
    canvas.paint(HAT, line)
    canvas.path(
        (MIDDLE - 29, 32), (MIDDLE - 12, 26, MIDDLE + 12, 26, MIDDLE + 29, 32), (MIDDLE + 27, 23),
        (MIDDLE + 12, 17, MIDDLE - 12, 17, MIDDLE - 27, 23),
    )  # fmt: skip
    canvas.paint(HAT_BAND)
    canvas.path(
        (MIDDLE - 48, 38), (MIDDLE - 30, 25, MIDDLE + 30, 25, MIDDLE + 48, 38),
        (MIDDLE + 30, 41, MIDDLE + 20, 35, MIDDLE, 35),
        (MIDDLE - 20, 35, MIDDLE - 30, 41, MIDDLE - 48, 38),
    )  # fmt: skip
    canvas.paint(lighter(HAT, 0.15), line)


_WORN = {"glasses": _glasses, "headphones": _headphones, "ribbon": _ribbon, "flower": _flower, "hat": _hat}


def draw_worn(hair: Hair) -> None:
    """What is worn over hair and face; the ears of a cat grow behind."""
    for name in hair.character.accessories:
        if name in _WORN:
            _WORN[name](hair.canvas)
