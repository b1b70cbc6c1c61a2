"""Contact sheets: how they are laid out, which is pure, and how they are drawn."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from anime_common.contracts.batches import SheetCell, SheetPlan

MOST_PIXELS = 24_000_000
"""Of a sheet: a thousand pictures of 150 pixels."""
LONGEST = 8192
"""Pixels of the longest side of a sheet: what browsers and viewers still show."""
MOST_CELLS = 5000
"""Pictures of a sheet: so many of `SMALLEST` pixels fit."""
UNSEEN = (160, 160)
"""Shape of the tiles of a sheet without a picture."""
CAPTIONED = 64
"""Pixels that a picture must be wide to have words under it."""
LARGEST, SMALLEST = 320, 48
"""Pixels of the longest side of a picture on a sheet."""
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
    """Places across and down, and how many pictures stand side by side and under each other in each of them.

    Of each cell, `slots` has its column and row, and its place across and down in there.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    across: int
    down: int
    slots: tuple[tuple[int, int, int, int], ...]
    captions: tuple[str, ...]
    axes: bool


def _grid(plan: SheetPlan, cells: Sequence[SheetCell]) -> _Grid:
    columns, rows = max(len(plan.columns), 1), max(len(plan.rows), 1)
    together: dict[tuple[int, int], list[int]] = {}
    for index, cell in enumerate(cells):
        place = (max(min(cell.column, columns - 1), 0), max(min(cell.row, rows - 1), 0))
        together.setdefault(place, []).append(index)
    most = max(map(len, together.values()), default=1)
    across = math.ceil(math.sqrt(most))
    slots = [(0, 0, 0, 0)] * len(cells)
    for place, members in together.items():
        for number, index in enumerate(members):
            slots[index] = (*place, number % across, number // across)
    captions = tuple(cell.label for cell in cells) if most > 1 else ("",) * len(cells)
    down = math.ceil(most / across)
    return _Grid(plan.columns or ("",), plan.rows or ("",), across, down, tuple(slots), captions, axes=True)


def _in_order(plan: SheetPlan, cells: Sequence[SheetCell]) -> _Grid:
    """Pictures one after the other, as in a text; each with all that is to be said of it."""
    across = max(math.ceil(math.sqrt(len(cells))), 1)
    slots = tuple((0, 0, index % across, index // across) for index in range(len(cells)))
    captions = tuple(
        ", ".join(
            word
            for word in (*plan.columns[cell.column : cell.column + 1], *plan.rows[cell.row : cell.row + 1], cell.label)
            if word
        )
        for cell in cells
    )
    return _Grid(("",), ("",), across, max(math.ceil(len(cells) / across), 1), slots, captions, axes=False)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Measures of a sheet, in pixels, with its axes in `bands`: so many columns and rows in each of them."""

    grid: _Grid
    width: int
    height: int
    text: int
    caption: int
    left: int
    head: int
    tile: tuple[int, int]
    band: tuple[int, int]
    bands: tuple[int, int]
    size: tuple[int, int]

    @property
    def fits(self) -> bool:
        return max(self.size) <= LONGEST and self.size[0] * self.size[1] <= MOST_PIXELS


def _frame(grid: _Grid, side: int, ratio: float) -> _Frame:
    """The measures with pictures of this longest side; a long axis is broken into as few bands as it takes."""
    width, height = (side, round(side / ratio)) if ratio >= 1 else (round(side * ratio), side)
    text = min(max(side // 12, 13), 20)
    caption = text + 4 if width >= CAPTIONED and any(grid.captions) else 0
    longest = max(map(len, grid.rows))
    left = min(max(longest, 5) * text * 6 // 10 + GAP, 12 * text) if longest else 0
    head = 2 * text + GAP if any(grid.columns) else 0
    tile = (grid.across * (width + GAP) + GAP, grid.down * (height + caption + GAP) + GAP)
    top = 3 * text + GAP + 2 * MARGIN
    stacked = math.ceil(len(grid.columns) / max((LONGEST - 2 * MARGIN - left) // tile[0], 1))
    beside = math.ceil(len(grid.rows) / max((LONGEST - top - head) // tile[1], 1))
    band = (math.ceil(len(grid.columns) / stacked), math.ceil(len(grid.rows) / beside))
    wide = max(beside * (left + band[0] * tile[0]), 20 * text) + 2 * MARGIN
    high = stacked * (head + band[1] * tile[1]) + top
    return _Frame(grid, width, height, text, caption, left, head, tile, band, (stacked, beside), (wide, high))


def _chosen(plan: SheetPlan, cells: Sequence[SheetCell], shape: tuple[int, int]) -> _Frame:
    """Under its axes if that fits, with pictures as large as can be; else in order, which always fits."""
    ratio = min(max(shape[0] / shape[1], 0.4), 2.5)
    largest = max(min(LARGEST, max(shape)), SMALLEST)
    grids = [_grid(plan, cells)] if plan.columns or plan.rows else []
    for grid in (*grids, _in_order(plan, cells)):
        for side in range(largest, SMALLEST - 1, -1):
            if (frame := _frame(grid, side, ratio)).fits:
                return frame
    raise ValueError(f"{len(cells)} pictures fit on no sheet")


def lay_out(plan: SheetPlan, cells: Sequence[SheetCell], shape: tuple[int, int]) -> Layout:
    """A sheet of pictures of this shape (width, height), none larger than that.

    It has at most `MOST_PIXELS`, and no side is longer than `LONGEST`: pictures get smaller, a long axis goes on in
    a band below or beside with its labels again, and what still does not fit under its axes stands in order, with
    captions. Of more than `MOST_CELLS` the first are shown, and the sheet says how many more there are.
    """
    shown = cells[:MOST_CELLS]
    frame = _chosen(plan, shown, shape)
    grid, text = frame.grid, frame.text
    top = MARGIN + 3 * text + GAP
    band_size = (frame.left + frame.band[0] * frame.tile[0], frame.head + frame.band[1] * frame.tile[1])

    def corner(column: int, row: int) -> tuple[int, int]:
        """Where the place of a column and a row begins."""
        stacked, beside = column // frame.band[0], row // frame.band[1]
        left = MARGIN + beside * band_size[0] + frame.left + column % frame.band[0] * frame.tile[0]
        return left, top + stacked * band_size[1] + frame.head + row % frame.band[1] * frame.tile[1]

    def box(column: int, row: int, across: int, down: int) -> Box:
        left, upper = corner(column, row)
        step = (frame.width + GAP, frame.height + frame.caption + GAP)
        return Box(left + across * step[0], upper + down * step[1], frame.width, frame.height)

    places = tuple(box(*slot) for slot in grid.slots)
    labels = [*_heading(plan, frame, len(cells) - len(shown) + plan.more), *_names(frame, corner)]
    if frame.caption:
        for place, caption in zip(places, grid.captions, strict=True):
            labels.append(Label(caption, Box(place.left, place.top + place.height, place.width, frame.caption)))
    # Without axes the last row just ends; with them, a hole says that a picture is missing there.
    empty: list[Box] = []
    if grid.axes:
        taken = {slot[:2] for slot in grid.slots}
        every = [(column, row) for row in range(len(grid.rows)) for column in range(len(grid.columns))]
        empty = [box(*place, 0, 0) for place in every if place not in taken]
    return Layout(frame.size[0], frame.size[1], text, tuple(labels), places, tuple(empty))


def _heading(plan: SheetPlan, frame: _Frame, more: int) -> list[Label]:
    """The title, and under it the names of the axes and how many pictures are not shown."""
    width, text = frame.size[0] - 2 * MARGIN, frame.text
    words = [f"across: {plan.column_axis}"] if frame.grid.axes and plan.columns and plan.column_axis else []
    words += [f"down: {plan.row_axis}"] if frame.grid.axes and plan.rows and plan.row_axis else []
    words += [f"and {more} more"] if more else []
    found = [Label(plan.title, Box(MARGIN, MARGIN, width, 2 * text), "left")]
    if words:
        found.append(Label(", ".join(words), Box(MARGIN, MARGIN + 2 * text, width, text + GAP // 2), "left"))
    return found


def _names(frame: _Frame, corner: Callable[[int, int], tuple[int, int]]) -> list[Label]:
    """The labels of columns and rows, again in each band."""
    grid, found = frame.grid, list[Label]()
    if frame.head:
        for column, name in enumerate(grid.columns):
            for row in range(0, len(grid.rows), frame.band[1]):
                left, top = corner(column, row)
                found.append(Label(name, Box(left, top - frame.head, frame.tile[0] - GAP, 2 * frame.text)))
    if frame.left:
        for row, name in enumerate(grid.rows):
            for column in range(0, len(grid.columns), frame.band[0]):
                left, top = corner(column, row)
                size = (frame.left - GAP, frame.tile[1] - GAP)
                found.append(Label(name, Box(left - frame.left, top, *size), "right"))
    return found


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

    def tell(self, index: int, text: str) -> None:
        """Put words into a place: of what cannot be seen, such as a sound."""
        self._miss(self.layout.places[index], text)

    def finished(self) -> bytes:
        """The sheet as PNG."""
        out = io.BytesIO()
        self.image.save(out, "PNG", compress_level=6)
        return out.getvalue()

    def _miss(self, box: Box, text: str = MISSING) -> None:
        draw = ImageDraw.Draw(self.image)
        draw.rectangle((box.left, box.top, box.left + box.width - 1, box.top + box.height - 1), outline=FAINT)
        self._write(draw, Label(text, box))

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
    """The shape that most of the pictures have; without any, as of sounds alone, a square with room for words."""
    known = [size for size in sizes.values() if size[0] and size[1]]
    return max(known, key=known.count) if known else UNSEEN


def said(kind: str, duration: float | None) -> str:
    """What stands in the place of a file without a picture: what it is, and for how many seconds it plays."""
    return kind if duration is None else f"{kind} {duration:.1f} s"
