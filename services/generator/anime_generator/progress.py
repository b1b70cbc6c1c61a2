"""Honest progress of one attempt. Pure: time is an argument, in seconds.

Percent is work done over work expected, weighted by what each phase took before (`Costs`); it never falls and never
exceeds 99, because an attempt does not know when its job is completed. The remaining time comes from the steps of this
very attempt as soon as there are two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING

from anime_common.contracts.generation import SampledPass
from anime_common.contracts.vocabulary import AttemptProgress, Phase
from anime_generator.residency import Tier
from anime_generator.sizes import size_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

CEILING = 99.0
RECENT_STEPS = 8


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds: to load the model, to encode the prompts, for one step of a pass, to decode and to save one picture.

    `measured` is whether they come from this worker's own runs. A loading time that is not known yet counts nothing:
    a guess would make the percent of everything after it a lie.
    """

    loading: float = 0.0
    encoding: float = 0.1
    step: float = 0.2
    decoding: float = 0.2
    saving: float = 0.1
    measured: bool = False


class History:
    """What phases took, by model and class of sizes: costs a pixel for steps, decoding and saving, plain seconds for
    encoding, and for loading by where the weights came from. A new size is judged by the nearest one.
    """

    WEIGHT = 0.3
    """Of the newest run in the running mean."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, Costs]] = {}
        self._loading: dict[tuple[str, Tier | None], float] = {}

    def costs(self, model: str, pixels: int, source: Tier | None = None) -> Costs:
        """What to expect of a picture with that many pixels; `source` is where the weights lie, None is the disk."""
        loading = self._loading.get((model, source), 0.0)
        known = self._known.get(model)
        if known is None:
            return Costs(loading=loading)
        nearest = known[min(known, key=lambda size: abs(size - size_class(pixels)))]
        return replace(
            nearest,
            loading=loading,
            step=nearest.step * pixels,
            decoding=nearest.decoding * pixels,
            saving=nearest.saving * pixels,
        )

    def learn(
        self,
        model: str,
        pixels: int,
        *,
        pictures: int,
        step: float | None,
        timings: Mapping[Phase, float],
        source: Tier | None = None,
    ) -> None:
        """Remember a finished attempt: seconds a phase for its `pictures`, and the mean length of its steps."""
        if source is not Tier.DEVICE:
            seconds = timings.get(Phase.LOADING, 0.0)
            before = self._loading.get((model, source), seconds)
            self._loading[model, source] = before + (seconds - before) * self.WEIGHT
        share = 1 / (pixels * max(pictures, 1))
        seen = Costs(
            encoding=timings.get(Phase.ENCODING, 0.0),
            step=(step if step is not None else timings.get(Phase.SAMPLING, 0.0)) / pixels,
            decoding=timings.get(Phase.DECODING, 0.0) * share,
            saving=timings.get(Phase.SAVING, 0.0) * share,
            measured=True,
        )
        sizes = self._known.setdefault(model, {})
        sizes[size_class(pixels)] = _mean(sizes.get(size_class(pixels), seen), seen, self.WEIGHT)


def _mean(old: Costs, new: Costs, weight: float) -> Costs:
    def between(before: float, after: float) -> float:
        return before + (after - before) * weight

    return Costs(
        encoding=between(old.encoding, new.encoding),
        step=between(old.step, new.step),
        decoding=between(old.decoding, new.decoding),
        saving=between(old.saving, new.saving),
        measured=True,
    )


@dataclass(slots=True)
class Tracker:
    """How far one attempt is: fed with what the engine reports, read as `AttemptProgress`.

    `costs.step` is of a step of the first pass; one of a larger pass costs as many times more as it has pixels.
    """

    job_id: UUID
    attempt_id: UUID
    images: int
    passes: tuple[SampledPass, ...]
    costs: Costs
    cold: bool = False
    phase: Phase = Phase.LOADING
    preview: bool = False
    _encoded: bool = False
    _sampled: dict[int, int] = field(default_factory=dict)
    _decoded: set[int] = field(default_factory=set)
    _saved: set[int] = field(default_factory=set)
    _current: tuple[int, ...] = ()
    _width: int = 1
    _last: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _floor: float = 0.0

    def begin(self, phase: Phase, now: float) -> None:
        """A phase begins."""
        before, self.phase = self.phase, phase
        if phase is not Phase.LOADING:
            self._encoded = self._encoded or phase is not Phase.ENCODING
        if phase is Phase.SAMPLING:
            self._last = now
            if before is Phase.UPSCALING:
                return  # the second pass goes on where the first one ended
            # What was sampled and never decoded is sampled anew: memory had run out.
            self._sampled = {index: step for index, step in self._sampled.items() if index in self._decoded}

    def expect(self, steps: int) -> None:
        """So many steps a picture are made in all, whatever was asked for: a workflow of the owner's says so itself."""
        if steps != self.steps and self.passes:
            self.passes = (SampledPass(steps, self.passes[0].pixels),)

    def stepped(self, indexes: Iterable[int], step: int, width: int, now: float) -> None:
        """Step `step` is done for these pictures of ours, in a pass of `width` pictures, others' included."""
        self._current, self._width = tuple(indexes), max(width, 1)
        self._sampled |= dict.fromkeys(self._current, step)
        if self._last is not None:
            self._recent.append((now - self._last) / self._weight(step))
        self._last = now

    def painted(self, index: int) -> None:
        """A picture is decoded and encoded."""
        self._decoded.add(index)

    def saved(self, index: int) -> None:
        """A picture is staged."""
        self._decoded.add(index)
        self._saved.add(index)

    def step_seconds(self) -> float | None:
        """Mean length of the latest steps, as if all were of the first pass; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def view(self) -> AttemptProgress:
        """The progress now; percent is at least what it was at the last call."""
        total = self._loading_cost() + self.costs.encoding + self.images * self._picture_cost()
        done = 0.0
        if self.phase is not Phase.LOADING:
            done += self._loading_cost()
        if self._encoded:
            done += self.costs.encoding
        for index in range(self.images):
            done += self._picture_done(index)
        percent = min(CEILING, 100 * done / total) if total > 0 else 0.0
        self._floor = max(self._floor, percent)
        sampling = self.phase is Phase.SAMPLING
        return AttemptProgress(
            job_id=self.job_id,
            attempt_id=self.attempt_id,
            phase=self.phase,
            step=self._sampled.get(self._current[0], 0) if sampling and self._current else (0 if sampling else None),
            steps=self.steps if sampling else None,
            image=min(self._current[0] if self._current else 0, self.images - 1),
            images=self.images,
            percent=round(self._floor, 1),
            eta_seconds=self._eta(),
            preview=self.preview,
        )

    @property
    def steps(self) -> int:
        """Of one picture, in all passes."""
        return sum(each.steps for each in self.passes)

    def _work(self, steps: int) -> float:
        """What the first steps of a picture cost, in steps of the first pass."""
        found, left = 0.0, steps
        for each in self.passes:
            found += min(left, each.steps) * each.pixels / self.passes[0].pixels
            left = max(left - each.steps, 0)
        return found

    def _weight(self, step: int) -> float:
        """What one step costs, from 1, in steps of the first pass."""
        return (self._work(step) - self._work(step - 1)) or 1.0

    def _loading_cost(self) -> float:
        return self.costs.loading if self.cold else 0.0

    def _picture_cost(self) -> float:
        return self._work(self.steps) * self.costs.step + self.costs.decoding + self.costs.saving

    def _picture_done(self, index: int) -> float:
        if index in self._saved:
            return self._picture_cost()
        if index in self._decoded:
            return self._work(self.steps) * self.costs.step + self.costs.decoding
        return self._work(self._sampled.get(index, 0)) * self.costs.step

    def _eta(self) -> float | None:
        """Seconds until the last picture is staged; None until a step was measured, here or in an earlier run."""
        step = self.step_seconds() or (self.costs.step if self.costs.measured else None)
        if step is None:
            return None
        unfinished = [index for index in range(self.images) if index not in self._decoded]
        whole = self._work(self.steps)
        in_work = [whole - self._work(self._sampled[index]) for index in unfinished if index in self._sampled]
        untouched = len(unfinished) - len(in_work)
        left = (max(in_work, default=0.0) + ceil(untouched / self._width) * whole) * step
        left += len(unfinished) * self.costs.decoding + (self.images - len(self._saved)) * self.costs.saving
        if self.cold and self.phase is Phase.LOADING:
            left += self.costs.loading
        return round(left, 2)


class Pacer:
    """At most `limit` messages in any `window` seconds: ordinary ones evenly spaced, `reserve` kept for urgent ones."""

    def __init__(self, limit: int = 10, window: float = 1.0, reserve: int = 3) -> None:
        self._limit = limit
        self._window = window
        self._room = limit - reserve
        self._sent: deque[float] = deque(maxlen=limit)

    def admit(self, now: float, *, urgent: bool = False) -> bool:
        """Whether a message may go out now; if so it counts."""
        if (self._full(now, self._limit) if urgent else self.wait(now)) > 0:
            return False
        self._sent.append(now)
        return True

    def wait(self, now: float) -> float:
        """Seconds until an ordinary message would be admitted."""
        spacing = self._sent[-1] + self._window / self._room - now if self._sent else 0.0
        return max(spacing, self._full(now, self._room), 0.0)

    def _full(self, now: float, room: int) -> float:
        """Seconds until fewer than `room` messages lie within the window."""
        return self._sent[-room] + self._window - now if len(self._sent) >= room else 0.0
