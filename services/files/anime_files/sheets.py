"""Contact sheets: how they are laid out, which is pure, and how they are drawn."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from anime_common.contracts.batches import SheetCell, SheetPlan

MOST_PIXELS = 24_000_000
"""Of a sheet: a thousand pictures of 150 pixels."""
LONGEST = 8192
"""Pixels of the longest side of a sheet; what would be longer has its pictures in rows as they come."""
LARGEST, SMALLEST, TINIEST = 320, 48, 16
"""Pixels of the longest side of a picture on a sheet: at most, at least on one with axes, and at least of all."""
CAPTIONED = 96
"""Pixels from which on a picture has its caption below it."""
GAP = 8
MARGIN = 16
PAPER, INK, FAINT = "#f7f6f2", "#26241f", "#dcd9d0"
MISSING = "-"
CUT = ".."
"""Marks a label that was cut; Pillow's own font has no ellipsis."""
FORMATS = ("PNG", "WEBP", "JPEG", "GIF")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Label:
    """A text in a box; `align` is where in it the text begins: left, middle or right."""

    text: str
    box: Box
    align: str = "middle"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands. `places` are the boxes of the cells, in their order; `empty` those of no picture."""

    width: int
    height: int
    text: int
    labels: tuple[Label, ...]
    places: tuple[Box, ...]
    empty: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class _Grid:
    """How many places go across and down, and how many pictures in each of them, across and down."""

    columns: int
    rows: int
    across: int
    down: int
    slots: tuple[tuple[int, int], ...] = field(default=())
    """Of each cell, its place across and down, counted in pictures."""


def _in_rows(cells: Sequence[SheetCell]) -> _Grid:
    """Pictures one after the other, as wide as high."""
    columns = max(math.ceil(math.sqrt(len(cells))), 1)
    rows = max(math.ceil(len(cells) / columns), 1)
    return _Grid(columns, rows, 1, 1, tuple((index % columns, index // columns) for index in range(len(cells))))


def _by_axes(plan: SheetPlan, cells: Sequence[SheetCell]) -> _Grid:
    columns, rows = max(len(plan.columns), 1), max(len(plan.rows), 1)
    together: dict[tuple[int, int], list[int]] = {}
    for index, cell in enumerate(cells):
        place = (min(cell.column, columns - 1), min(cell.row, rows - 1))
        together.setdefault(place, []).append(index)
    most = max(map(len, together.values()), default=1)
    across = math.ceil(math.sqrt(most))
    down = math.ceil(most / across)
    slots = [(0, 0)] * len(cells)
    for (column, row), members in together.items():
        for number, index in enumerate(members):
            slots[index] = (column * across + number % across, row * down + number // across)
    return _Grid(columns, rows, across, down, tuple(slots))


def lay_out(plan: SheetPlan, cells: Sequence[SheetCell], shape: tuple[int, int]) -> Layout:
    """A sheet of pictures of this shape (width, height), none larger than that.

    At most `MOST_PIXELS` in all and `LONGEST` on a side. Where the axes of the plan would lead beyond that (a long one
    by itself, or places of very unequal size), the pictures follow each other in rows, each with its own caption.
    """
    if plan.columns or plan.rows:
        found = _laid(plan, _by_axes(plan, cells), ["" for _ in cells], shape, SMALLEST)
        if max(found.width, found.height) <= LONGEST and found.width * found.height <= MOST_PIXELS:
            return found
    bare = plan.model_copy(update={"columns": (), "rows": ()})
    return _laid(bare, _in_rows(cells), [_caption(plan, cell) for cell in cells], shape, TINIEST)


def _caption(plan: SheetPlan, cell: SheetCell) -> str:
    """What a picture is called that stands under no axis."""
    names = [axis[place] for axis, place in ((plan.columns, cell.column), (plan.rows, cell.row)) if place < len(axis)]
    return ", ".join([*names, *([cell.label] if cell.label else [])])


def _laid(plan: SheetPlan, grid: _Grid, captions: Sequence[str], shape: tuple[int, int], smallest: int) -> Layout:
    ratio = min(max(shape[0] / shape[1], 0.4), 2.5)
    number = grid.columns * grid.across * grid.rows * grid.down
    room = int(math.sqrt(MOST_PIXELS * 0.7 / number)) - GAP
    side = max(min(room, LARGEST, max(shape)), smallest)
    width, height = (side, round(side / ratio)) if ratio >= 1 else (round(side * ratio), side)
    text = min(max(side // 12, 13), 20)
    below = text + GAP if any(captions) and side >= CAPTIONED else 0
    longest = max(map(len, plan.rows), default=0)
    left = MARGIN + (min(max(longest, 5) * text * 6 // 10 + GAP, 12 * text) if plan.rows else 0)
    head = MARGIN + 2 * text + GAP
    top = head + (2 * text + GAP if plan.columns else 0)
    step = (width + GAP, height + below + GAP)
    tile = (step[0] * grid.across + GAP, step[1] * grid.down + GAP)

    def box(across: int, down: int) -> Box:
        column, row = across // grid.across, down // grid.down
        return Box(left + column * GAP + across * step[0], top + row * GAP + down * step[1], width, height)

    taken = set(grid.slots)
    everywhere = [
        (across, down) for down in range(grid.rows * grid.down) for across in range(grid.columns * grid.across)
    ]
    labels = [Label(plan.title, Box(MARGIN, MARGIN, max(tile[0] * grid.columns, 20 * text), 2 * text), "left")]
    for number, name in enumerate(plan.columns):
        labels.append(Label(name, Box(left + number * tile[0], head, tile[0] - GAP, 2 * text)))
    for number, name in enumerate(plan.rows):
        labels.append(Label(name, Box(MARGIN, top + number * tile[1], left - MARGIN - GAP, tile[1] - GAP), "right"))
    places = tuple(box(*slot) for slot in grid.slots)
    if below:
        labels += [
            Label(caption, Box(place.left, place.top + place.height, place.width, below))
            for caption, place in zip(captions, places, strict=True)
        ]
    return Layout(
        width=left + max(tile[0] * grid.columns, 20 * text) + MARGIN,
        height=top + tile[1] * grid.rows + MARGIN,
        text=text,
        labels=tuple(labels),
        places=places,
        # Without axes the last row just ends; with them, a hole says that a picture is missing there.
        empty=tuple(box(*slot) for slot in everywhere if slot not in taken) if plan.columns or plan.rows else (),
    )


@lru_cache(maxsize=32)
def fonts(file: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for labels: the one that is set, else the one that comes with Pillow, which has Latin letters alone."""
    if file is not None:
        return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has(font: ImageFont.FreeTypeFont, char: str) -> bool:
    """Whether a font can draw a character: one that it lacks looks like one that nobody has."""
    return bytes(font.getmask(char)) != bytes(font.getmask("\U0010fffe"))


def drawable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A label as the font can draw it: letters without their accents where it lacks these, else a question mark."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    found = []
    for char in " ".join(text.split()):
        if char == " " or _has(font, char):
            found.append(char)
            continue
        bare = unicodedata.normalize("NFKD", char)[0]
        found.append(bare if _has(font, bare) else "?")
    return "".join(found)


@dataclass(slots=True)
class Drawing:
    """A sheet in the making: pictures are put in one by one, then it is finished."""

    layout: Layout
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    image: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.layout.width, self.layout.height), PAPER)
        draw = ImageDraw.Draw(self.image)
        for label in self.layout.labels:
            self._write(draw, label)
        for box in self.layout.empty:
            self._miss(box)

    def put(self, index: int, data: bytes | None) -> None:
        """Put a picture into its place; None, or bytes that are none, leave it empty."""
        box = self.layout.places[index]
        try:
            picture = _small(data, box) if data is not None else None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            picture = None
        if picture is None:
            self._miss(box)
            return
        left, top = box.left + (box.width - picture.width) // 2, box.top + (box.height - picture.height) // 2
        self.image.paste(picture, (left, top))

    def finished(self) -> bytes:
        """The sheet as PNG."""
        out = io.BytesIO()
        self.image.save(out, "PNG", compress_level=6)
        return out.getvalue()

    def _miss(self, box: Box) -> None:
        draw = ImageDraw.Draw(self.image)
        draw.rectangle((box.left, box.top, box.left + box.width - 1, box.top + box.height - 1), outline=FAINT)
        self._write(draw, Label(MISSING, box))

    def _write(self, draw: ImageDraw.ImageDraw, label: Label) -> None:
        text = drawable(label.text, self.font)
        whole = len(text)
        while text and draw.textlength(text, self.font) > label.box.width:
            whole -= 1
            text = f"{text[:whole].rstrip()}{CUT}" if whole > 0 else ""
        anchor, left = {
            "left": ("lm", label.box.left),
            "middle": ("mm", label.box.left + label.box.width // 2),
            "right": ("rm", label.box.left + label.box.width),
        }[label.align]
        draw.text((left, label.box.top + label.box.height // 2), text, fill=INK, font=self.font, anchor=anchor)


def _small(data: bytes, box: Box) -> Image.Image:
    """A picture as large as its box allows, flat: what is transparent shows the paper."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.thumbnail((box.width, box.height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        if image.mode in {"RGBA", "LA", "PA", "P"}:
            flat = Image.new("RGBA", image.size, PAPER)
            flat.alpha_composite(image.convert("RGBA"))
            return flat.convert("RGB")
        return image.convert("RGB")


def shape_of(sizes: Mapping[object, tuple[int, int]]) -> tuple[int, int]:
    """The shape that most of the pictures have; a square without any."""
    known = [size for size in sizes.values() if size[0] and size[1]]
    return max(known, key=known.count) if known else (1, 1)
