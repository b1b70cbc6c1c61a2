"""Looks at clips and sounds: are they what was promised, and which frame stands for a clip?"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from PIL import ImageStat

from anime_common.contracts.vocabulary import MediaType
from anime_common.media import Limits, Media, Unusable, opening, probe
from anime_files.pictures import NotAPicture, Seen, thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image

LOOKED_AT = 48
"""Frames among which the poster is sought: many clips fade in from black."""
_DARK = 16.0
"""Mean brightness (of 255) up to which a frame shows nothing."""


def look(data: bytes, *, media_type: MediaType, size: tuple[int, int], max_pixels: int, longest: int) -> Seen:
    """Look at a clip or sound; the thumbnail of a clip is its poster (WebP, longest side at most `longest` pixels).

    Raises NotAPicture when it is damaged, of another type, has more than `max_pixels` a frame, or is not `size`
    (width, height; 0 for a sound) large.
    """
    limits = Limits(pixels=max_pixels)
    try:
        found = probe(data, limits)
        _check(found, media_type, size)
        if not found.width:
            return Seen(duration=found.duration)
        poster = _poster(data, media_type, limits, longest)
    except Unusable as error:
        raise NotAPicture(str(error)) from error
    return Seen(thumbnail(poster, longest), duration=found.duration, frames=found.frames)


def _check(found: Media, media_type: MediaType, size: tuple[int, int]) -> None:
    if found.media_type != media_type:
        raise NotAPicture(f"it is {found.media_type}, not {media_type} as announced")
    if (found.width, found.height) != size:
        raise NotAPicture(f"it is {found.width}x{found.height}, not {size[0]}x{size[1]} as announced")


def _poster(data: bytes, media_type: MediaType, limits: Limits, longest: int) -> Image:
    """The first frame that is not all but black, or else the first."""
    with opening(data, media_type, limits) as (container, stream):
        frames: Any = itertools.islice(container.decode(stream), LOOKED_AT)
        first = None
        for frame in frames:
            image = _small(frame, longest)
            if ImageStat.Stat(image.convert("L")).mean[0] > _DARK:
                return image
            first = first or image
    if first is None:
        raise NotAPicture("it has no frame that decodes")
    return first


def _small(frame: Any, longest: int) -> Image:
    """A decoded frame, its longest side at most so many pixels."""
    scale = min(1.0, longest / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    image: Image = frame.reformat(width=width, height=height, format="rgb24").to_image()
    return image
