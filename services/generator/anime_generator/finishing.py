"""Finished files as the library gets them: what an engine here drew is encoded, what another program made is kept.

Whichever it is, a PNG carries our texts (see `metadata`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anime_common.media import Damaged, Media, Unusable, probe
from anime_generator.engines.protocol import EngineError
from anime_generator.metadata import annotate_png, encode_png

if TYPE_CHECKING:
    from uuid import UUID

    from PIL import Image

    from anime_common.contracts.generator import OfferedJob
    from anime_generator.engines.protocol import Picture

OUTPUT_DAMAGED = "output_damaged"
OUTPUT_UNUSABLE = "output_unusable"


@dataclass(frozen=True, slots=True)
class Making:
    """How a file came about; `inputs` are the SHA-256 of what it began with, by file id."""

    job: OfferedJob
    picture: Picture
    engine: str
    warnings: tuple[str, ...]
    inputs: Mapping[UUID, str]


def drawn(image: Image.Image, making: Making) -> tuple[bytes, Media]:
    """A picture of our own as a PNG."""
    data = encode_png(
        image,
        making.job,
        making.picture,
        engine=making.engine,
        warnings=making.warnings,
        inputs=making.inputs,
    )
    return data, Media("image/png", *image.size)


def rendered(data: bytes, making: Making) -> tuple[bytes, Media]:
    """A file of another program's, and what it is. A PNG gets our texts beside its own; its pixels stay as they are.

    Raises EngineError for what is damaged, or nothing that the library takes.
    """
    try:
        media = probe(data)
    except Damaged as error:
        text = f"the file that was made cannot be used: {error}"
        raise EngineError(OUTPUT_DAMAGED, text) from error
    except Unusable as error:
        text = f"the file that was made cannot be taken into the library: {error}"
        raise EngineError(OUTPUT_UNUSABLE, text) from error
    if media.media_type == "image/png":
        data = annotate_png(
            data,
            making.job,
            making.picture,
            (media.width, media.height),
            engine=making.engine,
            warnings=making.warnings,
            inputs=making.inputs,
        )
    return data, media
