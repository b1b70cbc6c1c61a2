"""Percentiles and rates. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """How measured values lie; in the unit of the values."""

    count: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of at least one value; raises ValueError when there is none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("nothing was measured")
        return cls(len(ordered), percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least `share` (0 to 1) of them do not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def rate(ends: Sequence[float], began: float) -> float:
    """Ends per second from `began` to the last of them; all in seconds."""
    took = max(ends) - began
    return len(ends) / took if took > 0 else math.inf


def sustained(ends: Iterable[float], low: float = 0.1, high: float = 0.9) -> float:
    """Ends per second over the middle of a run: from when a share of `low` had ended until `high` had.

    The beginning, when queues fill, and the end, when parts idle, say nothing about what lasts. Raises ValueError for
    fewer than two ends in the middle.
    """
    ordered = sorted(ends)
    first, last = math.ceil(low * len(ordered)), math.floor(high * len(ordered)) - 1
    if last <= first:
        raise ValueError(f"{len(ordered)} ends have no middle to speak of")
    took = ordered[last] - ordered[first]
    return (last - first) / took if took > 0 else math.inf
