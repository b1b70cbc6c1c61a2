"""How long a job takes on a worker, learned from what ended: pure.

Times are heavy-tailed and differ by factors, so everything is a median of logarithms. The speed (seconds per unit of
work, a unit being a pixel of a step of a picture) of a worker for a size of pictures is

    log speed = model + size + worker + both

where `model` is the median of all samples of an engine's model, `size` the median of what is left in a class of sizes
(pixels × steps, to the next power of two), `worker` that of a worker's samples without both, and `both` that of a
worker's samples of a size. Each of the last three is shrunk by n / (n + PRIOR) with its n samples: with few of them
the estimate stays with the model's, with many it is the median of the worker's own. A worker or a size that was never
seen takes what is known of the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple, TypeAlias, TypeVar

K = TypeVar("K")

PRIOR = 3.0
"""Samples that what is known of the model weighs as much as."""
SHORTEST = 1e-3
"""Seconds below which nothing is measured."""

Value: TypeAlias = tuple[str, int, float]
"""Worker, class of size, logarithm."""


class Sample(NamedTuple):
    """A finished attempt: `seconds` without those of `loading`; `size` is pixels × steps, `work` that × pictures.

    Of attempts that ran as one pass each has its share of the seconds.
    """

    worker: str
    engine: str
    model: str
    size: float
    work: float
    seconds: float
    loading: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """The logarithm of something about a model, by worker and class of size."""

    model: float
    sizes: Mapping[int, float]
    workers: Mapping[str, float]
    both: Mapping[tuple[str, int], float]

    def at(self, worker: str, size: int) -> float:
        """What it should be for this worker and size."""
        found = self.model + self.sizes.get(size, 0.0) + self.workers.get(worker, 0.0)
        return math.exp(found + self.both.get((worker, size), 0.0))


@dataclass(frozen=True, slots=True)
class Estimates:
    """Made by `learn`; of an engine's models that were never measured nothing is known."""

    _speeds: Mapping[tuple[str, str], _Fit] = field(default_factory=dict)
    _loads: Mapping[tuple[str, str], _Fit] = field(default_factory=dict)

    def seconds(self, worker: str, engine: str, model: str, size: float, work: float) -> float | None:
        """How long the work should take with the model in memory."""
        fit = self._speeds.get((engine, model))
        return None if fit is None else fit.at(worker, size_class(size)) * work

    def loading(self, worker: str, engine: str, model: str) -> float:
        """How long the model should take to get into memory; 0 when that was never measured."""
        fit = self._loads.get((engine, model))
        return 0.0 if fit is None else fit.at(worker, 0)


def size_class(size: float) -> int:
    """Sizes of one class differ by less than a factor of two."""
    return round(math.log2(max(size, 1.0)))


def learn(samples: Iterable[Sample]) -> Estimates:
    """What the samples say; those without work say nothing of speed."""
    speeds: dict[tuple[str, str], list[Value]] = defaultdict(list)
    loads: dict[tuple[str, str], list[Value]] = defaultdict(list)
    for each in samples:
        key = (each.engine, each.model)
        if each.work > 0:
            speed = max(each.seconds, SHORTEST) / each.work
            speeds[key].append((each.worker, size_class(each.size), math.log(speed)))
        if each.loading > SHORTEST:
            loads[key].append((each.worker, 0, math.log(each.loading)))
    return Estimates(
        {key: _fit(values) for key, values in speeds.items()}, {key: _fit(values) for key, values in loads.items()}
    )


def _fit(values: Iterable[Value]) -> _Fit:
    values = list(values)
    model = median(value for _, _, value in values)
    left = [(worker, size, value - model) for worker, size, value in values]
    sizes = _effects((size, value) for _, size, value in left)
    left = [(worker, size, value - sizes[size]) for worker, size, value in left]
    workers = _effects((worker, value) for worker, _, value in left)
    both = _effects(((worker, size), value - workers[worker]) for worker, size, value in left)
    return _Fit(model, sizes, workers, both)


def _effects(values: Iterable[tuple[K, float]]) -> dict[K, float]:
    """The median of each kind, shrunk towards none."""
    groups: dict[K, list[float]] = defaultdict(list)
    for kind, value in values:
        groups[kind].append(value)
    return {kind: median(group) * len(group) / (len(group) + PRIOR) for kind, group in groups.items()}
