"""Sizes of pictures in classes of half an octave of pixels: what is learned of one size holds for its neighbours."""

from __future__ import annotations

from math import log2


def size_class(pixels: int) -> int:
    """The class of a picture with so many pixels: 512 x 512 is 36, 768 x 768 is 38, 1024 x 1024 is 40."""
    return round(2 * log2(max(pixels, 1)))
