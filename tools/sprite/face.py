"""The face: its shape, eyes, brows, nose and mouth, large enough for a small model to learn."""

from __future__ import annotations

import dataclasses

from tools.sprite.canvas import WHITE, Canvas, Colour, darker, gradient, lighter, mix
from tools.sprite.vocabulary import Character

EYES: dict[str, Colour] = {
    "blue": (0.16, 0.44, 0.96),
    "green": (0.14, 0.68, 0.32),
    "red": (0.90, 0.10, 0.14),
    "brown": (0.48, 0.27, 0.12),
    "purple": (0.54, 0.22, 0.86),
    "yellow": (0.97, 0.76, 0.10),
    "pink": (0.99, 0.42, 0.70),
}
SKIN: dict[str, Colour] = {"fair": (1.0, 0.90, 0.84), "tan": (0.88, 0.66, 0.48), "dark": (0.56, 0.37, 0.28)}
INK: Colour = (0.10, 0.07, 0.12)

MIDDLE = 64.0
EYE_LINE = 68.0
#: From the middle of the face to the middle of an eye.
EYE_GAP = 14.4
MOUTH_LINE = 85.5


@dataclasses.dataclass(frozen=True)
class Face:
    """What the parts of the face need to know."""

    canvas: Canvas
    character: Character
    skin: Colour
    eye: Colour
    hair_line: Colour

    @property
    def boy(self) -> bool:
        """Whether the eyes are smaller, the brows thicker, the jaw wider."""
        return self.character.gender == "boy"

    @property
    def line(self) -> Colour:
        """The colour of the outlines of the skin."""
        return mix(darker(self.skin, 0.85), (0.35, 0.18, 0.16), 0.4)

    @property
    def lash(self) -> Colour:
        """The colour of the lashes."""
        return mix(self.hair_line, INK, 0.75)

    def outline(self) -> None:
        """The path around the face."""
        jaw, chin = (3.0, 95.5) if self.boy else (0.0, 94.0)
        self.canvas.path(
            (MIDDLE - 28, 50),
            (MIDDLE - 29, 62, MIDDLE - 28.5, 72, MIDDLE - 25, 79),
            (MIDDLE - 19 - jaw, 88, MIDDLE - 9 - jaw, 92, MIDDLE, chin),
            (MIDDLE + 9 + jaw, 92, MIDDLE + 19 + jaw, 88, MIDDLE + 25, 79),
            (MIDDLE + 28.5, 72, MIDDLE + 29, 62, MIDDLE + 28, 50),
            (MIDDLE + 25, 26, MIDDLE - 25, 26, MIDDLE - 28, 50),
        )


def _shape(face: Face) -> None:
    face.outline()
    face.canvas.paint(face.skin, face.line)
    face.outline()
    with face.canvas.clipped():
        face.canvas.path((20, 30), (108, 30), (108, 54), (MIDDLE + 14, 62, MIDDLE - 14, 62, 20, 54))
        face.canvas.paint(mix(darker(face.skin, 0.28), (0.95, 0.55, 0.5), 0.2))


def _blush(face: Face) -> None:
    share = 0.6 if face.character.skin != "dark" else 0.45
    for side in (-1, 1):
        face.canvas.ellipse(MIDDLE + side * 19, 83, 5.6, 3.0)
        face.canvas.paint(mix(face.skin, (1.0, 0.30, 0.36), share))


def _closed_eye(face: Face, side: int) -> None:
    x = MIDDLE + side * EYE_GAP
    face.canvas.line(
        face.lash, 2.8, (x - side * 9, EYE_LINE + 4),
        (x - side * 5, EYE_LINE - 4, x + side * 5, EYE_LINE - 4, x + side * 9.5, EYE_LINE + 4),
    )  # fmt: skip
    face.canvas.line(face.lash, 1.8, (x + side * 9, EYE_LINE + 3), (x + side * 12, EYE_LINE + 1))


def _eye_size(face: Face) -> tuple[float, float]:
    """Half of the width and of the height of an open eye."""
    width, height = (8.2, 8.2) if face.boy else (9.0, 10.4)
    if face.character.expression == "surprised":
        return width * 1.05, height * 1.15
    if face.character.expression == "angry":
        return width, height * 0.82
    return width, height


def _iris(face: Face, x: float, width: float, height: float) -> None:
    canvas, colour = face.canvas, face.eye
    across, down = width * 0.76, height * 0.94
    if face.character.expression == "surprised":
        across, down = width * 0.6, height * 0.66
    top, bottom = EYE_LINE + 0.4 - down, EYE_LINE + 0.4 + down
    canvas.ellipse(x, EYE_LINE + 0.4, across, down)
    canvas.paint(
        gradient(top, bottom, (0, darker(colour, 0.6)), (0.4, colour), (1, lighter(colour, 0.4))),
        darker(colour, 1),
        1.1,
    )
    canvas.ellipse(x, EYE_LINE + 0.2, across * 0.36, down * 0.42)
    canvas.paint(darker(colour, 1.0))
    canvas.ellipse(x, EYE_LINE + down * 0.62, across * 0.55, down * 0.2)
    canvas.paint(lighter(colour, 0.6))


def _open_eye(face: Face, side: int) -> None:
    canvas, (width, height) = face.canvas, _eye_size(face)
    x, y = MIDDLE + side * EYE_GAP, EYE_LINE
    inner, outer = x - side * width, x + side * (width + 0.6)
    # Angry eyes slant inwards at the top, sad ones outwards.
    slant = {"angry": 3.4, "sad": -2.6}.get(face.character.expression, 0.0)
    canvas.path(
        (inner, y + 1 + slant * 0.3),
        (
            x - side * width * 0.8, y - height * 1.05 + slant, x + side * width * 0.7, y - height * 1.15 - slant * 0.4,
            outer, y - 1 - slant * 0.4,
        ),
        (x + side * width, y + height * 0.75, x + side * width * 0.5, y + height, x, y + height),
        (x - side * width * 0.5, y + height, x - side * width * 0.9, y + height * 0.6, inner, y + 1 + slant * 0.3),
    )  # fmt: skip
    with canvas.clipped():
        canvas.rectangle(x - 14, y - 16, 28, 32)
        canvas.paint(WHITE)
        _iris(face, x, width, height)
    canvas.ellipse(x - 2.2, y - height * 0.36, 2.3, 2.9)
    canvas.paint(WHITE)
    canvas.path(
        (inner - side * 0.4, y + 0.6 + slant * 0.3),
        (
            x - side * width * 0.8, y - height * 1.12 + slant, x + side * width * 0.7, y - height * 1.24 - slant * 0.4,
            outer + side * 0.4, y - 1.2 - slant * 0.4,
        ),
        (outer + side * 2.2, y - 3 - slant * 0.4),
        (
            x + side * width * 0.8, y - height * 1.3 - slant * 0.4, x - side * width * 0.7, y - height * 1.2 + slant,
            inner - side * 0.4, y + 0.6 + slant * 0.3,
        ),
    )  # fmt: skip
    canvas.paint(face.lash, face.lash, 1.2 if not face.boy else 0.9)
    canvas.line(
        mix(face.lash, face.skin, 0.35),
        1.1,
        (x - side * width * 0.45, y + height),
        (x + side * width * 0.55, y + height - 0.4),
    )


def _brow(face: Face, side: int) -> None:
    inner, outer, lift = {
        "angry": (4.2, -2.2, 1.0), "sad": (-3.4, 3.0, 0.6), "surprised": (-0.6, 0.6, -2.6),
    }.get(face.character.expression, (0.0, 0.0, 0.0))  # fmt: skip
    x, y = MIDDLE + side * EYE_GAP, EYE_LINE - 14.4 + lift
    face.canvas.line(
        face.lash, 2.6 if face.boy else 1.7, (x - side * 6.5, y + inner + 0.5),
        (x - side * 2, y - 1.2 + inner / 2, x + side * 3, y - 1.2 + outer / 2, x + side * 7, y + 1 + outer),
    )  # fmt: skip


def _mouth(face: Face) -> None:
    canvas, y, x = face.canvas, MOUTH_LINE, MIDDLE
    line, inside = mix(face.line, (0.5, 0.12, 0.14), 0.5), (0.74, 0.16, 0.22)
    expression = face.character.expression
    if expression in {"smile", "wink"}:
        canvas.line(line, 2.0, (x - 6, y - 1.5), (x - 2.5, y + 2.8, x + 2.5, y + 2.8, x + 6, y - 1.5))
    elif expression in {"open", "closed"}:
        canvas.path(
            (x - 7, y - 3),
            (x - 2, y - 1.8, x + 2, y - 1.8, x + 7, y - 3),
            (x + 5.6, y + 7, x - 5.6, y + 7, x - 7, y - 3),
        )
        canvas.paint(inside, line)
        canvas.ellipse(x, y + 2.4, 3.2, 1.6)
        canvas.paint((0.98, 0.56, 0.56))
    elif expression == "neutral":
        canvas.line(line, 1.9, (x - 4, y), (x + 4, y))
    elif expression in {"angry", "sad"}:
        canvas.line(line, 2.1, (x - 5.4, y + 2.6), (x - 2, y - 2.2, x + 2, y - 2.2, x + 5.4, y + 2.6))
    else:
        canvas.ellipse(x, y + 0.6, 3.5, 4.6)
        canvas.paint(inside, line, 1.6)


def _tears(face: Face) -> None:
    for side in (-1, 1):
        face.canvas.ellipse(MIDDLE + side * (EYE_GAP + 3), EYE_LINE + 13.5, 2.4, 4.0)
        face.canvas.paint((0.55, 0.84, 1.0), (0.25, 0.55, 0.90), 1.0)


def draw(face: Face) -> None:
    """The face, without anything that hair or accessories cover."""
    expression = face.character.expression
    _shape(face)
    if face.character.blush:
        _blush(face)
    for side in (-1, 1):
        if expression == "closed" or (expression == "wink" and side == 1):
            _closed_eye(face, side)
        else:
            _open_eye(face, side)
            _brow(face, side)
    if expression == "sad":
        _tears(face)
    face.canvas.line(face.line, 1.3, (MIDDLE + 0.5, 78.4), (MIDDLE - 0.8, 80))
    _mouth(face)
