"""Drawing with cairo: colours, shapes with outlines, gradients."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cairo  # type: ignore[import-not-found,unused-ignore]
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
#: (x, y) is a line to there, six numbers are a Bézier curve.
Segment = tuple[float, ...]
Pixels = NDArray[np.uint8]

#: Everything is drawn in these units, whatever the size of the picture.
UNITS = 128.0
WHITE: Colour = (1.0, 1.0, 1.0)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of it replaced by `other`."""
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float) -> Colour:
    """The colour in shadow: darker, and a little cooler."""
    return mix(colour, (colour[0] * 0.42, colour[1] * 0.34, colour[2] * 0.52), share)


def lighter(colour: Colour, share: float) -> Colour:
    """The colour with white in it."""
    return mix(colour, WHITE, share)


def vary(colour: Colour, rng: random.Random, amount: float = 0.02) -> Colour:
    """The colour, slightly different each time."""
    hue, light, saturation = colorsys.rgb_to_hls(*colour)
    light = min(1.0, max(0.0, light + rng.uniform(-amount, amount)))
    saturation = min(1.0, max(0.0, saturation + rng.uniform(-amount, amount)))
    return colorsys.hls_to_rgb((hue + rng.uniform(-0.008, 0.008)) % 1, light, saturation)


def gradient(top: float, bottom: float, *stops: tuple[float, Colour]) -> cairo.LinearGradient:
    """A gradient downwards."""
    pattern = cairo.LinearGradient(0, top, 0, bottom)
    for offset, colour in stops:
        pattern.add_color_stop_rgb(offset, *colour)
    return pattern


class Canvas:
    """A picture being drawn: first a path, then `paint` or `stroke`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._surface = cairo.ImageSurface(cairo.FORMAT_RGB24, size, size)
        self.context = cairo.Context(self._surface)
        self.context.scale(size / UNITS, size / UNITS)
        self.context.set_antialias(cairo.ANTIALIAS_GOOD)
        self.context.set_line_join(cairo.LINE_JOIN_ROUND)
        self.context.set_line_cap(cairo.LINE_CAP_ROUND)

    def pixels(self) -> Pixels:
        """The picture: height × width × RGB."""
        self._surface.flush()
        raw = np.ndarray((self._size, self._size, 4), np.uint8, self._surface.get_data())
        return np.ascontiguousarray(raw[:, :, 2::-1])

    def path(self, *segments: Segment, close: bool = True) -> None:
        """A path of lines and curves; the first segment is where it starts."""
        self.context.new_path()
        self.context.move_to(*segments[0])
        for segment in segments[1:]:
            if len(segment) == 2:
                self.context.line_to(*segment)
            else:
                self.context.curve_to(*segment)
        if close:
            self.context.close_path()

    def smooth(self, points: Sequence[tuple[float, float]], tightness: float = 0.7) -> None:
        """A closed, smooth path through all points."""
        count, pull = len(points), tightness / 3
        self.context.new_path()
        self.context.move_to(*points[0])
        for index in range(count):
            before, here, there, after = (points[(index + step) % count] for step in (-1, 0, 1, 2))
            self.context.curve_to(
                here[0] + (there[0] - before[0]) * pull,
                here[1] + (there[1] - before[1]) * pull,
                there[0] - (after[0] - here[0]) * pull,
                there[1] - (after[1] - here[1]) * pull,
                *there,
            )
        self.context.close_path()

    def ellipse(self, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> None:
        """An ellipse around (x, y)."""
        self.context.new_path()
        self.context.save()
        self.context.translate(x, y)
        self.context.rotate(turn)
        self.context.scale(rx, ry)
        self.context.arc(0, 0, 1, 0, 2 * math.pi)
        self.context.restore()
        self.context.close_path()

    def rectangle(self, x: float, y: float, width: float, height: float) -> None:
        """A rectangle."""
        self.context.new_path()
        self.context.rectangle(x, y, width, height)

    def paint(self, fill: Colour | cairo.Pattern, line: Colour | None = None, width: float = 1.4) -> None:
        """Fill the path, and outline it where `line` is given."""
        if isinstance(fill, cairo.Pattern):
            self.context.set_source(fill)
        else:
            self.context.set_source_rgb(*fill)
        self.context.fill_preserve()
        if line is not None:
            self.context.set_source_rgb(*line)
            self.context.set_line_width(width)
            self.context.stroke_preserve()
        self.context.new_path()

    def stroke(self, colour: Colour, width: float) -> None:
        """Draw the path as a line."""
        self.context.set_source_rgb(*colour)
        self.context.set_line_width(width)
        self.context.stroke()

    def line(self, colour: Colour, width: float, *segments: Segment) -> None:
        """An open line."""
        self.path(*segments, close=False)
        self.stroke(colour, width)

    @contextmanager
    def clipped(self) -> Iterator[None]:
        """Inside of the path only."""
        self.context.save()
        self.context.clip()
        yield
        self.context.restore()

    @contextmanager
    def moved(
        self, dx: float, dy: float, scale: float, about: tuple[float, float], turn: float = 0.0
    ) -> Iterator[None]:
        """Moved, and scaled and turned (radians, clockwise) about a point."""
        self.context.save()
        self.context.translate(about[0] + dx, about[1] + dy)
        self.context.rotate(turn)
        self.context.scale(scale, scale)
        self.context.translate(-about[0], -about[1])
        yield
        self.context.restore()

    def star(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A star of four points."""
        near = radius / 4
        self.path(
            (x, y - radius), (x + near, y - near), (x + radius, y), (x + near, y + near),
            (x, y + radius), (x - near, y + near), (x - radius, y), (x - near, y - near),
        )  # fmt: skip
        self.paint(colour)

    def flower(self, x: float, y: float, radius: float, colour: Colour, centre: Colour, turn: float = 0.0) -> None:
        """A flower of five petals."""
        for petal in range(5):
            angle = turn + petal * 2 * math.pi / 5
            self.ellipse(
                x + math.cos(angle) * radius * 0.55, y + math.sin(angle) * radius * 0.55,
                radius * 0.52, radius * 0.42, angle,
            )  # fmt: skip
            self.paint(colour)
        self.ellipse(x, y, radius * 0.28, radius * 0.28)
        self.paint(centre)
