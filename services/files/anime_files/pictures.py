"""Looks at pictures: do they really decode, are they as large as promised, and what do they look like when small?"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

_FORMATS = {"image/png": "PNG", "image/webp": "WEBP", "image/jpeg": "JPEG"}

SMALL_BYTES = 16 << 10
"""A picture no larger than a thumbnail may be, in pixels and in bytes, is its own thumbnail."""

_WEBP_QUALITY = 80
# What Pillow raises on bad data differs by format and by where the damage is.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


class NotAPicture(Exception):
    """The bytes are no picture of the promised kind and size; the text says why."""


def look(data: bytes, *, media_type: str, size: tuple[int, int], max_pixels: int, longest: int) -> bytes | None:
    """The thumbnail (WebP, longest side at most `longest` pixels), or None when the picture can be its own.

    Decodes the whole picture. Raises NotAPicture when it does not decode, has more than `max_pixels`, or is not
    `size` (width, height) large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[_FORMATS[media_type]]) as image:
            if image.size[0] * image.size[1] > max_pixels:
                raise NotAPicture(f"{image.size[0]}x{image.size[1]} is more than {max_pixels} pixels")
            if image.size != size:
                raise NotAPicture(f"it is {image.size[0]}x{image.size[1]}, not {size[0]}x{size[1]} as announced")
            image.load()
            if max(size) <= longest and len(data) <= SMALL_BYTES:
                return None
            return _thumbnail(image, longest)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAPicture(f"it is too large: {error}") from error
    except _BROKEN as error:
        raise NotAPicture(f"it does not decode as {media_type}: {error}") from error


def _thumbnail(image: Image.Image, longest: int) -> bytes:
    transparent = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
    small = image.convert("RGBA" if transparent else "RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_WEBP_QUALITY, method=2)
    return out.getvalue()


def is_mp4(head: bytes) -> bool:
    """Whether the first 12 bytes are those of an ISO base media file (ISO/IEC 14496-12 §4.3: a box `ftyp` first)."""
    return head[4:8] == b"ftyp"
