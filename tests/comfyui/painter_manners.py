"""How a painter behaves, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

NO_MEMORY = "torch.OutOfMemoryError"


class NodeFailed(Exception):
    """A node raised an exception of this type."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Failure:
    """What a node class does instead of its work: sleep so many seconds, hang for good, or raise `kind` with `text`.

    It raises `times` times, or always; with `above` only where a picture has more pixels than that. Without a `kind`
    it goes on with its work after the sleep.
    """

    kind: str = "RuntimeError"
    text: str = "it does not work"
    times: int | None = None
    above: int | None = None
    sleep: float = 0.0
    hang: bool = False

    def raises(self, pixels: int) -> bool:
        """Whether it does now; counts."""
        if not self.kind or self.times == 0 or (self.above is not None and pixels <= self.above):
            return False
        if self.times is not None:
            self.times -= 1
        return True


def no_memory(times: int | None = None, above: int | None = None) -> Failure:
    """The failure of a card whose memory is short."""
    return Failure(NO_MEMORY, "Allocation on device 0 would exceed allowed memory", times, above)


@dataclass
class Manners:
    """How it behaves; may be changed while it serves. Times in seconds.

    `hold` stops samplers at that step while `held` says so: true, an event that is not set, or a file that is there.
    `most_pixels` and `short_times` are what samplers fail for want of memory: on larger pictures, and so many times.
    `metadata` has previews tell their node though nobody asked for that.
    """

    step: float = 0.0
    load: float = 0.0
    previews: bool = True
    preview_every: int = 1
    metadata: bool = False
    cancels_jobs: bool = False
    hold: int | None = None
    held: bool | Event | Path = True
    most_pixels: int | None = None
    short_times: int = 0
    history_late: float = 0.0
    header: tuple[str, str] | None = None
    without: frozenset[str] = frozenset()
    caches: bool = True
    fails: dict[str, Failure] = field(default_factory=dict)
    extra_classes: dict[str, Any] = field(default_factory=dict)

    def holds(self, step: int) -> bool:
        """Whether a sampler may not make this step yet."""
        if self.hold != step:
            return False
        if isinstance(self.held, Event):
            return not self.held.is_set()
        return self.held.exists() if isinstance(self.held, Path) else self.held

    def short(self, pixels: int) -> bool:
        """Whether a sampler of so many pixels fails for want of memory; counts."""
        if self.most_pixels is not None and pixels > self.most_pixels:
            return True
        if self.short_times > 0:
            self.short_times -= 1
            return True
        return False
