"""What is behind the character."""

from __future__ import annotations

import random
from collections.abc import Callable

import cairo  # type: ignore[import-not-found,unused-ignore]

from tools.sprite.canvas import WHITE, Canvas, Colour, gradient, vary

PLAIN: dict[str, Colour] = {
    "white background": WHITE,
    "pink background": (1.0, 0.78, 0.85),
    "blue background": (0.62, 0.80, 0.98),
    "yellow background": (1.0, 0.92, 0.55),
    "grey background": (0.72, 0.73, 0.76),
}


def _everywhere(canvas: Canvas, fill: Colour | cairo.Pattern) -> None:
    canvas.rectangle(-20, -20, 168, 168)
    canvas.paint(fill)


def _side(rng: random.Random) -> Callable[[float], float]:
    """Mirrors half of the pictures."""
    sign = rng.choice((-1, 1))
    return lambda x: 64 + sign * (x - 64)


def _blue_sky(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, gradient(0, 128, (0, (0.25, 0.56, 0.93)), (1, (0.78, 0.92, 1.0))))
    for x in (rng.uniform(6, 28), rng.uniform(100, 122)):
        y, size = rng.uniform(10, 80), rng.uniform(0.9, 1.3)
        for puff in range(-2, 3):
            canvas.ellipse(x + puff * 8 * size, y, (9 - abs(puff) * 1.5) * size, (6.5 - abs(puff)) * size)
            canvas.paint(WHITE)


def _night_sky(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, gradient(0, 128, (0, (0.05, 0.06, 0.20)), (1, (0.20, 0.20, 0.44))))
    for _ in range(20):
        canvas.star(rng.uniform(0, 128), rng.uniform(0, 118), rng.uniform(1.2, 2.4), (1.0, 1.0, 0.88))
    mirror = _side(rng)
    canvas.ellipse(mirror(17), 17, 10, 10)
    canvas.paint((1.0, 0.96, 0.72))
    canvas.ellipse(mirror(21), 14, 8.5, 8.5)
    canvas.paint((0.08, 0.09, 0.24))


def _sunset(canvas: Canvas, rng: random.Random) -> None:
    stops = ((0.0, (0.38, 0.26, 0.56)), (0.45, (0.94, 0.46, 0.40)), (1.0, (1.0, 0.80, 0.42)))
    _everywhere(canvas, gradient(0, 128, *stops))
    canvas.ellipse(_side(rng)(16), 76, 13, 13)
    canvas.paint((1.0, 0.93, 0.62))
    for _ in range(3):
        canvas.ellipse(rng.uniform(0, 128), rng.uniform(12, 60), rng.uniform(16, 26), rng.uniform(2, 3))
        canvas.paint((0.98, 0.62, 0.48))


def _cherry_blossoms(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, gradient(0, 128, (0, (0.80, 0.90, 0.99)), (1, (1.0, 0.90, 0.94))))
    mirror, bark = _side(rng), (0.42, 0.28, 0.26)
    canvas.line(bark, 3.2, (mirror(-4), 12), (mirror(20), 16, mirror(40), 10, mirror(70), 5))
    canvas.line(bark, 2.2, (mirror(-4), 50), (mirror(8), 44, mirror(14), 34, mirror(22), 26))
    for _ in range(20):
        x, y = mirror(rng.uniform(-2, 60)), rng.uniform(-2, 36)
        canvas.flower(x, y, rng.uniform(4, 6.5), vary((1.0, 0.72, 0.82), rng), (0.95, 0.45, 0.6), rng.uniform(0, 6))
    for _ in range(12):
        canvas.ellipse(rng.uniform(0, 128), rng.uniform(40, 128), 2.4, 1.4, rng.uniform(0, 3))
        canvas.paint((1.0, 0.70, 0.80))


def _classroom(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, (0.96, 0.91, 0.80))
    mirror, wood, chalk = _side(rng), (0.70, 0.52, 0.36), (0.75, 0.85, 0.80)
    left = min(mirror(66), mirror(132))
    canvas.rectangle(left, 8, 66, 58)
    canvas.paint((0.20, 0.40, 0.33), (0.55, 0.36, 0.22), 3.5)
    canvas.line(chalk, 1.2, (left + 8, 20), (left + 56, 20))
    canvas.line(chalk, 1.2, (left + 8, 30), (left + 56, 30))
    for near in (2, 32):
        left = min(mirror(near), mirror(near + 24))
        canvas.rectangle(left, 10, 24, 52)
        canvas.paint(gradient(10, 62, (0, (0.55, 0.80, 0.98)), (1, (0.85, 0.95, 1.0))), wood, 2.5)
        canvas.line(wood, 1.6, (left + 12, 10), (left + 12, 62))
    canvas.rectangle(-20, 96, 168, 50)
    canvas.paint((0.80, 0.60, 0.40))


def _forest(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, gradient(0, 128, (0, (0.74, 0.92, 0.66)), (1, (0.48, 0.72, 0.40))))
    for x in (4, 24, 64, 104, 124):
        canvas.rectangle(x - 4, 20, 8, 90)
        canvas.paint((0.45, 0.32, 0.22))
        for _ in range(3):
            canvas.ellipse(x + rng.uniform(-9, 9), rng.uniform(0, 34), rng.uniform(12, 16), rng.uniform(10, 14))
            canvas.paint(vary((0.24, 0.55, 0.28), rng, 0.04))
    for x in range(4, 128, 20):
        canvas.ellipse(x + rng.uniform(-4, 4), rng.uniform(108, 124), rng.uniform(12, 18), rng.uniform(8, 12))
        canvas.paint(vary((0.32, 0.62, 0.30), rng, 0.03))


def _ocean(canvas: Canvas, rng: random.Random) -> None:
    _everywhere(canvas, gradient(0, 70, (0, (0.45, 0.76, 0.98)), (1, (0.88, 0.96, 1.0))))
    horizon = rng.uniform(62, 66)
    canvas.rectangle(-20, horizon, 168, 100)
    canvas.paint(gradient(horizon, 110, (0, (0.10, 0.42, 0.72)), (1, (0.24, 0.72, 0.80))))
    for _ in range(9):
        x, y = rng.uniform(0, 128), rng.uniform(70, 102)
        canvas.line((0.75, 0.93, 0.97), 1.5, (x, y), (x + rng.uniform(8, 14), y))
    canvas.rectangle(-20, 108, 168, 40)
    canvas.paint((0.97, 0.90, 0.70))


_PAINTERS: dict[str, Callable[[Canvas, random.Random], None]] = {
    "blue sky": _blue_sky,
    "night sky": _night_sky,
    "sunset": _sunset,
    "cherry blossoms": _cherry_blossoms,
    "classroom": _classroom,
    "forest": _forest,
    "ocean": _ocean,
}


def draw(canvas: Canvas, scene: str, rng: random.Random) -> None:
    """The scene, over the whole picture."""
    if scene in PLAIN:
        _everywhere(canvas, PLAIN[scene])
    else:
        _PAINTERS[scene](canvas, rng)
