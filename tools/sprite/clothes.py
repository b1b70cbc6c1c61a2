"""What the character wears below the chin: the neck, the shoulders and seven outfits."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from tools.sprite.canvas import WHITE, Canvas, Colour, darker, lighter, mix

CLOTH: dict[str, Colour] = {
    "red": (0.84, 0.16, 0.20),
    "blue": (0.20, 0.36, 0.80),
    "green": (0.20, 0.58, 0.34),
    "yellow": (0.98, 0.82, 0.28),
    "pink": (0.99, 0.64, 0.76),
    "purple": (0.54, 0.30, 0.72),
    "black": (0.18, 0.18, 0.23),
    "white": (0.95, 0.95, 0.97),
}
GOLD: Colour = (0.92, 0.74, 0.30)
SHOULDER = 107.0
MIDDLE = 64.0


@dataclasses.dataclass
class Torso:
    """What every outfit is drawn on."""

    canvas: Canvas
    cloth: str
    colour: Colour
    skin: Colour
    width: float
    neck_width: float
    rng: random.Random

    @property
    def outline(self) -> Colour:
        """The colour of the outlines of the cloth."""
        return darker(self.colour, 0.95)

    def shape(self, fill: Colour, line: Colour) -> None:
        """The shoulders and the chest."""
        y, width, neck = SHOULDER, self.width, self.neck_width
        left, right = MIDDLE - width, MIDDLE + width
        self.canvas.path(
            (MIDDLE - neck - 2, y - 6),
            (MIDDLE - 16, y - 2, left + 8, y - 2, left, y + 8),
            (left - 4, y + 14, left - 6, 128, left - 7, 140),
            (right + 7, 140),
            (right + 6, 128, right + 4, y + 14, right, y + 8),
            (right - 8, y - 2, MIDDLE + 16, y - 2, MIDDLE + neck + 2, y - 6),
        )
        self.canvas.paint(fill, line)

    def neck(self) -> None:
        """The neck, with the shadow of the chin."""
        y, width = SHOULDER, self.neck_width
        left, right = MIDDLE - width, MIDDLE + width
        self.canvas.path(
            (left, 84), (left, y - 5),
            (left, y + 1, MIDDLE - 3, y + 5, MIDDLE, y + 6), (MIDDLE + 3, y + 5, right, y + 1, right, y - 5),
            (right, 84),
        )  # fmt: skip
        self.canvas.paint(self.skin, darker(self.skin, 0.8))
        self.canvas.path(
            (left + 0.7, 84), (left + 0.7, y - 6), (MIDDLE, y + 1), (right - 0.7, y - 6), (right - 0.7, 84)
        )
        self.canvas.paint(darker(self.skin, 0.35))


def _uniform(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    torso.shape((0.97, 0.97, 0.99), (0.45, 0.47, 0.58))
    torso.neck()
    trim: Colour = WHITE if torso.cloth != "white" else (0.3, 0.4, 0.7)
    for side in (-1, 1):
        canvas.path(
            (MIDDLE + side * 9, y - 8),
            (MIDDLE + side * 22, y - 6, MIDDLE + side * 32, y - 3, MIDDLE + side * 37, y + 1),
            (MIDDLE + side * 30, y + 15),
            (MIDDLE + side, y + 16),
            (MIDDLE + side * 7, y + 3),
        )
        canvas.paint(torso.colour, torso.outline)
        canvas.line(
            trim, 1.4, (MIDDLE + side * 33, y + 2), (MIDDLE + side * 27, y + 11.5), (MIDDLE + side * 5, y + 12.5)
        )
    bow: Colour = (0.88, 0.14, 0.20) if torso.cloth not in {"red", "pink"} else (0.18, 0.28, 0.62)
    for side in (-1, 1):
        canvas.path((MIDDLE, y + 13), (MIDDLE + side * 13, y + 7), (MIDDLE + side * 12, y + 20))
        canvas.paint(bow, darker(bow, 0.8))
    canvas.ellipse(MIDDLE, y + 13, 3.4, 3.6)
    canvas.paint(bow, darker(bow, 0.8))


def _hoodie(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    canvas.ellipse(MIDDLE, y - 2, 33, 13)
    canvas.paint(darker(torso.colour, 0.4), torso.outline)
    torso.shape(torso.colour, torso.outline)
    torso.neck()
    canvas.path(
        (MIDDLE - 28, y - 7),
        (MIDDLE - 18, y + 8, MIDDLE - 8, y + 11, MIDDLE, y + 14),
        (MIDDLE + 8, y + 11, MIDDLE + 18, y + 8, MIDDLE + 28, y - 7),
        (MIDDLE + 16, y - 3, MIDDLE + 9, y - 4, MIDDLE + 8, y - 1),
        (MIDDLE + 6, y + 4, MIDDLE - 6, y + 4, MIDDLE - 8, y - 1),
        (MIDDLE - 9, y - 4, MIDDLE - 16, y - 3, MIDDLE - 28, y - 7),
    )
    canvas.paint(lighter(torso.colour, 0.15), torso.outline)
    string: Colour = (0.97, 0.97, 0.97) if torso.cloth != "white" else (0.5, 0.5, 0.55)
    for side in (-1, 1):
        canvas.line(string, 2.2, (MIDDLE + side * 7, y + 8), (MIDDLE + side * 8, 130))


def _kimono(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    torso.shape(torso.colour, torso.outline)
    torso.neck()
    band: Colour = (0.98, 0.97, 0.94) if torso.cloth != "white" else (0.85, 0.3, 0.35)
    for side in (1, -1):
        canvas.path(
            (MIDDLE + side * 8, y - 10), (MIDDLE + side * 16, y - 6),
            (MIDDLE + side * 10, y + 8, MIDDLE - side * 2, y + 16, MIDDLE - side * 12, 140), (MIDDLE - side * 22, 140),
            (MIDDLE - side * 8, y + 14, MIDDLE + side * 4, y + 4, MIDDLE + side * 7, y - 4),
        )  # fmt: skip
        canvas.paint(band, darker(torso.colour, 0.7))
    petal: Colour = lighter(torso.colour, 0.7) if torso.cloth != "white" else (0.95, 0.55, 0.65)
    for x, dy in ((-37, 8), (-30, 17), (34, 8), (27, 17)):
        place = MIDDLE + x + torso.rng.uniform(-1, 1)
        canvas.flower(place, y + dy, 4.6, petal, (1.0, 0.8, 0.3), torso.rng.uniform(0, 6))


def _armor(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    metal = mix((0.72, 0.75, 0.82), torso.colour, 0.55)
    line = darker(metal, 0.95)
    torso.shape(metal, line)
    torso.neck()
    canvas.path(
        (MIDDLE - 21, y - 4), (MIDDLE - 10, y + 8, MIDDLE + 10, y + 8, MIDDLE + 21, y - 4), (MIDDLE + 19, y - 11),
        (MIDDLE + 10, y - 1, MIDDLE - 10, y - 1, MIDDLE - 19, y - 11),
    )  # fmt: skip
    canvas.paint(GOLD, darker(GOLD, 0.8))
    canvas.line(line, 1.6, (MIDDLE, y + 6), (MIDDLE, 132))
    canvas.path((MIDDLE - 16, y + 8), (MIDDLE - 18, 134), (MIDDLE - 9, 134), (MIDDLE - 9, y + 9))
    canvas.paint(lighter(metal, 0.6))
    for side in (-1, 1):
        x = MIDDLE + side * (torso.width - 7)
        canvas.ellipse(x, y + 9, 16, 13)
        canvas.paint(metal, line)
        canvas.ellipse(x - 3, y + 4, 9, 5)
        canvas.paint(lighter(metal, 0.6))
        canvas.line(GOLD, 2.6, (x - 13, y + 15), (x - 5, y + 20, x + 5, y + 20, x + 13, y + 15))


def _dress(torso: Torso) -> None:
    canvas, y, reach = torso.canvas, SHOULDER, torso.width * 0.7
    torso.shape(torso.skin, darker(torso.skin, 0.8))
    torso.neck()
    for side in (-1, 1):
        canvas.line(darker(torso.colour, 0.2), 3.4, (MIDDLE + side * 24, y + 12), (MIDDLE + side * 15, y - 4))
    canvas.path(
        (MIDDLE - reach, y + 12), (MIDDLE - 16, y + 5, MIDDLE - 7, y + 8, MIDDLE, y + 12),
        (MIDDLE + 7, y + 8, MIDDLE + 16, y + 5, MIDDLE + reach, y + 12),
        (MIDDLE + reach + 2, 140), (MIDDLE - reach - 2, 140),
    )  # fmt: skip
    canvas.paint(torso.colour, torso.outline)
    for step in range(-3, 4):
        canvas.ellipse(MIDDLE + step * reach * 0.31, y + 11.5, 5.4, 3.6)
        canvas.paint(lighter(torso.colour, 0.6), torso.outline, 0.9)


def _suit(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    torso.shape(torso.colour, torso.outline)
    torso.neck()
    canvas.path((MIDDLE - 10, y - 7), (MIDDLE, 146), (MIDDLE + 10, y - 7), (MIDDLE, y + 4))
    canvas.paint((0.98, 0.98, 1.0), (0.5, 0.5, 0.6))
    tie: Colour = (0.84, 0.14, 0.20) if torso.cloth not in {"red", "pink"} else (0.16, 0.2, 0.5)
    canvas.path(
        (MIDDLE - 4, y + 2),
        (MIDDLE + 4, y + 2),
        (MIDDLE + 2.6, y + 8),
        (MIDDLE + 5, 132),
        (MIDDLE - 5, 132),
        (MIDDLE - 2.6, y + 8),
    )
    canvas.paint(tie, darker(tie, 0.8))
    for side in (-1, 1):
        canvas.path(
            (MIDDLE + side * 8, y - 9), (MIDDLE + side * 25, y + 5), (MIDDLE + side * 19, y + 9),
            (MIDDLE + side * 22, y + 12), (MIDDLE + side * 5, 140), (MIDDLE + side * 7, y + 5),
        )  # fmt: skip
        canvas.paint(lighter(torso.colour, 0.14), torso.outline)
        canvas.path(
            (MIDDLE + side * 7, y - 9), (MIDDLE + side * 12, y - 3), (MIDDLE + side * 7, y + 8), (MIDDLE + side, y + 2)
        )
        canvas.paint(WHITE, (0.5, 0.5, 0.6))


def _sweater(torso: Torso) -> None:
    canvas, y = torso.canvas, SHOULDER
    torso.shape(torso.colour, torso.outline)
    torso.neck()
    canvas.path(
        (MIDDLE - 11, y - 13), (MIDDLE - 5, y - 8, MIDDLE + 5, y - 8, MIDDLE + 11, y - 13), (MIDDLE + 13, y),
        (MIDDLE + 6, y + 6, MIDDLE - 6, y + 6, MIDDLE - 13, y),
    )  # fmt: skip
    canvas.paint(lighter(torso.colour, 0.12), torso.outline)
    for step in (-1, 0, 1):
        canvas.line(darker(torso.colour, 0.5), 1.2, (MIDDLE + step * 5, y - 8), (MIDDLE + step * 5.5, y + 2))
    stripe: Colour = lighter(torso.colour, 0.55) if torso.cloth != "white" else (0.7, 0.75, 0.85)
    for dy in (9, 16):
        left, right = MIDDLE - torso.width - 2, MIDDLE + torso.width + 2
        canvas.line(stripe, 2.6, (left, y + dy), (MIDDLE - 10, y + dy + 4, MIDDLE + 10, y + dy + 4, right, y + dy))


_OUTFITS: dict[str, Callable[[Torso], None]] = {
    "uniform": _uniform,
    "hoodie": _hoodie,
    "kimono": _kimono,
    "armor": _armor,
    "dress": _dress,
    "suit": _suit,
    "sweater": _sweater,
}


def draw(torso: Torso, outfit: str) -> None:
    """The outfit."""
    _OUTFITS[outfit](torso)
