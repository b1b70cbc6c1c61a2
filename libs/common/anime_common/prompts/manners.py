"""How families of models like to be told what to draw."""

from __future__ import annotations

from anime_common.contracts.casting import Manner

PROSE = ("flux", "sd3", "qwen", "chroma", "auraflow", "lumina", "pixart", "z-image", "hunyuan", "wan")
"""Families that read with a language model, by the beginning of their name; all others know tags."""


def manner_of(family: str) -> Manner:
    """The manner of a family, by the name that its worker announces."""
    return Manner.PROSE if family.casefold().startswith(PROSE) else Manner.TAGS
