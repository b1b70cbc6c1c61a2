"""The pictures that jobs begin with, in the engine process: decoded from the bytes that came with the order."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from PIL import Image, ImageOps, UnidentifiedImageError

from anime_generator.engines.protocol import EngineError
from anime_generator.wire import named

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_generator.wire import Input

FORMATS = ("PNG", "JPEG", "WEBP")

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Of one input, which is what the library takes at most: a small file can decode to any number of pixels."""

# What Pillow raises on bad data differs by format and by where the damage is.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


class RunInputs(Mapping[UUID, Image.Image]):
    """The inputs of one run by file id, upright, each decoded when it is first asked for.

    `blob` holds their bytes one after another. Asking raises EngineError for what is no picture.
    """

    def __init__(self, inputs: Sequence[Input] = (), blob: bytes = b"") -> None:
        self.sha256 = {each.file_id: each.sha256 for each in inputs}
        self._data: dict[UUID, bytes] = {}
        self._decoded: dict[UUID, Image.Image] = {}
        start = 0
        for each in inputs:
            self._data[each.file_id] = blob[start : start + each.size]
            start += each.size

    def __getitem__(self, file_id: UUID) -> Image.Image:
        """The picture; raises EngineError `input_unusable`, KeyError for a file that is none of these."""
        if file_id not in self._decoded:
            self._decoded[file_id] = decode(self._data[file_id])
        return self._decoded[file_id]

    def __iter__(self) -> Iterator[UUID]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def problem(self, settings: Settings) -> EngineError | None:
        """Why a job cannot begin with what it names, if so; names the field."""
        for name, file_id in named(settings).items():
            try:
                self[file_id]
            except EngineError as error:
                return EngineError(error.code, f"{name}: {error.message}")
            except KeyError:
                return EngineError("input_unavailable", f"{name}: the file {file_id} did not come")
        return None


def decode(data: bytes) -> Image.Image:
    """The first frame of a PNG, JPEG or WebP file, turned as its EXIF orientation says; raises EngineError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _unusable(f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS} in all are taken")
            image.load()
            return _upright(_in_bytes(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unusable(f"it has too many pixels; at most {MAX_PIXELS} are taken") from error
    except UnidentifiedImageError as error:
        raise _unusable("it is no PNG, JPEG or WebP picture") from error
    except _BROKEN as error:
        raise _unusable(f"it is damaged: {error}") from error


def _in_bytes(image: Image.Image) -> Image.Image:
    """Shades of 16 bits in 8: Pillow's own conversion would cut off all but the darkest."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda shade: shade * (1 / 257)).convert("L")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        # EXIF data that nobody can read turns nothing, as in browsers.
        return image.copy()


def _unusable(text: str) -> EngineError:
    return EngineError("input_unusable", text)
