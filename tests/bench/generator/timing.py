"""How long things take, and how they compare when they take turns. Pure but for the clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lap:
    """Seconds of wall time, and seconds of processor time of all threads."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Lap:
    """What some work took in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Lap(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True, slots=True)
class Range:
    """The median of measured values, the lowest and the highest; in their unit."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of at least one value; raises ValueError when there is none."""
        known = sorted(values)
        if not known:
            raise ValueError("nothing was measured")
        return cls(statistics.median(known), known[0], known[-1])


def alternately(contestants: Sequence[Callable[[int], T]], rounds: int) -> list[list[T]]:
    """What each contestant answers, round by round; each is told the round.

    They take turns, and each round another one begins, so that what the machine does meanwhile meets all alike.
    """
    found: list[list[T]] = [[] for _ in contestants]
    for number in range(rounds):
        for turn in range(len(contestants)):
            at = (number + turn) % len(contestants)
            found[at].append(contestants[at](number))
    return found


def percent_over(ours: Sequence[float], theirs: Sequence[float]) -> Range:
    """By how many percent ours exceed theirs, compared round by round: slow drifts of the machine cancel out."""
    return Range.of(100 * (mine / other - 1) for mine, other in zip(ours, theirs, strict=True))
