"""What is said about memory between engines, devices and the residency rules. Bytes throughout."""

from __future__ import annotations

from dataclasses import dataclass

from anime_common.contracts.vocabulary import Phase


class OutOfMemoryError(Exception):
    """The device has no room for what was asked of it."""


class DeviceFaultError(Exception):
    """The device failed in a way that leaves this process unable to use it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in all, and bytes free for us now."""

    total: int
    free: int


NO_MEMORY = Memory(0, 0)


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine is about to do that takes memory beyond a model's weights.

    `step` counts from 1 while sampling. `economical` is whether it is done in slices and tiles.
    """

    model: str
    phase: Phase
    pictures: int = 1
    pixels: int = 0
    step: int = 0
    economical: bool = False


def in_words(size: int) -> str:
    """A number of bytes for people."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GB"
    return f"{size / (1 << 20):.0f} MB"
