"""Looks at pictures: do they really decode, are they as large as promised, and what do they look like when small?

Of animated ones the first frame is decoded, and the others are counted.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from anime_common.contracts.vocabulary import MediaType
from anime_common.media_layout import Unusable, motion
from anime_files.model import Picture

_FORMATS: dict[MediaType, str] = {
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
}
_UPLOADS = ("PNG", "WEBP", "JPEG")
_MEDIA_TYPES = {name: media_type for media_type, name in _FORMATS.items()} | {"MPO": "image/jpeg"}
"""By the format that was found: MPO is a JPEG with more pictures behind it."""

SMALL_BYTES = 16 << 10
"""A picture no larger than a thumbnail may be, in pixels and in bytes, is its own thumbnail."""

_WEBP_QUALITY = 80
# What Pillow raises on bad data differs by format and by where the damage is.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation (CIPA DC-008 §4.6.5)."""

_LYING = frozenset({5, 6, 7, 8})
"""Orientations with width and height exchanged."""


class NotAPicture(Exception):
    """The bytes are no picture of the promised kind and size; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file shows: its thumbnail, if it has one and is not its `own`, its seconds and frames if it moves."""

    small: bytes | None = None
    own: bool = False
    duration: float | None = None
    frames: int | None = None


def look(data: bytes, *, media_type: MediaType, size: tuple[int, int], max_pixels: int, longest: int) -> Seen:
    """Look at a picture; its thumbnail is WebP, longest side at most `longest` pixels. What moves is never its own.

    Raises NotAPicture when it does not decode, has more than `max_pixels`, or is not `size` (width, height) large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[_FORMATS[media_type]]) as image:
            if image.size[0] * image.size[1] > max_pixels:
                raise NotAPicture(f"{image.size[0]}x{image.size[1]} is more than {max_pixels} pixels")
            if image.size != size:
                raise NotAPicture(f"it is {image.size[0]}x{image.size[1]}, not {size[0]}x{size[1]} as announced")
            image.load()
            moves = motion(data, media_type)
            if moves is not None:
                return Seen(thumbnail(image, longest), duration=moves.duration, frames=moves.frames)
            if _is_small(size, data, longest):
                return Seen(own=True)
            return Seen(thumbnail(image, longest))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAPicture(f"it is too large: {error}") from error
    except Unusable as error:
        raise NotAPicture(str(error)) from error
    except _BROKEN as error:
        raise NotAPicture(f"it does not decode as {media_type}: {error}") from error


def inspect(data: bytes, *, max_pixels: int, longest: int) -> Picture:
    """What somebody's own picture is, by its bytes alone, with its thumbnail (longest side `longest` pixels).

    Decodes the whole picture. Raises NotAPicture unless it is a PNG, JPEG or WebP file of a single frame with at most
    `max_pixels`.
    """
    if not data:
        raise NotAPicture("it is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_UPLOADS) as image:
            (width, height), media_type = image.size, _MEDIA_TYPES[str(image.format)]
            if width * height > max_pixels:
                raise NotAPicture(f"it has {width}x{height} pixels; at most {max_pixels} in all are allowed")
            # A JPEG may carry previews and depth maps behind the picture itself: those are no frames of it.
            if media_type != "image/jpeg" and getattr(image, "is_animated", False):
                raise NotAPicture("it is animated; only single pictures are allowed")
            image.load()
            orientation = _orientation(image)
            small = None if _is_small(image.size, data, longest) else thumbnail(image, longest, orientation)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAPicture(f"it has too many pixels; at most {max_pixels} are allowed") from error
    except UnidentifiedImageError as error:
        raise NotAPicture("it is no PNG, JPEG or WebP picture") from error
    except _BROKEN as error:
        raise NotAPicture(f"it is damaged: {error}") from error
    if orientation in _LYING:
        width, height = height, width
    return Picture(media_type, width, height, small)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        # EXIF data that nobody can read turns nothing, as in browsers.
        return 1
    return found if found in _TURNS else 1


def _is_small(size: tuple[int, int], data: bytes, longest: int) -> bool:
    """Whether a picture can be its own thumbnail."""
    return max(size) <= longest and len(data) <= SMALL_BYTES


def thumbnail(image: Image.Image, longest: int, orientation: int = 1) -> bytes:
    """A picture as a small WebP, turned as its EXIF orientation says. The picture is changed."""
    transparent = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
    mode = "RGBA" if transparent else "RGB"
    small = image if image.mode == mode else image.convert(mode)
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_WEBP_QUALITY, method=2)
    return out.getvalue()
