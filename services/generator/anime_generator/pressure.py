"""When to give up idle models because another program needs the card. Pure: time is an argument, in seconds.

Between runs, what is neither free nor ours is other programs'. When they have grown and little is left, models go
until twice as much is free; they are not brought back before there has been room for them for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anime_generator.memory import Memory

NOISE = 0.02
"""Of the memory: growth of others that may be the driver's, or libraries' workspaces."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of the memory: below `low` free, models are given up until `high` is free. Seconds of `calm` before
    they are brought back. `low` 0 switches the rule off.
    """

    low: float = 0.05
    high: float = 0.1
    calm: float = 60.0


@dataclass(slots=True)
class Pressure:
    """What other programs held when we last settled, and how long there has been room."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    grown: int = 0
    _settled: int | None = None
    _room_since: float | None = None

    def settle(self, memory: Memory, ours: int) -> None:
        """A model was loaded: what others hold now was taken into account."""
        self._settled = _others(memory, ours)

    def look(self, memory: Memory, ours: int, now: float) -> int:
        """Bytes to give up now; `grown` is how much others have taken since we settled."""
        others = _others(memory, ours)
        if self._settled is None or others < self._settled:
            self._settled = others
        self.grown = others - self._settled
        if memory.free >= self.thresholds.high * memory.total:
            self._room_since = now if self._room_since is None else self._room_since
        else:
            self._room_since = None
        if memory.free >= self.thresholds.low * memory.total or self.grown <= NOISE * memory.total:
            return 0
        return int(self.thresholds.high * memory.total) - memory.free

    def room(self, memory: Memory, now: float) -> int:
        """Bytes that models which were given up may take again."""
        if self._room_since is None or now - self._room_since < self.thresholds.calm:
            return 0
        return max(memory.free - int(self.thresholds.high * memory.total), 0)


def _others(memory: Memory, ours: int) -> int:
    return max(memory.total - memory.free - ours, 0)
