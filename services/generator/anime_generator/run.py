"""One run in the engine process: what the engine tells becomes reports, and every attempt gets exactly one end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

from anime_common.contracts.vocabulary import Phase
from anime_generator import wire
from anime_generator.costing import Costs
from anime_generator.engines.protocol import (
    Costed,
    Drawn,
    EngineError,
    PhaseBegan,
    Previewed,
    Rendered,
    Stepped,
    Waited,
    Warned,
)
from anime_generator.finishing import Making, drawn, rendered
from anime_generator.inputs import RunInputs
from anime_generator.registry import settings_problem

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.engines.protocol import EngineEvent, Picture
    from anime_generator.line import Cancellations, Line

log = structlog.get_logger(__name__)


class Run:
    """One run: turns what the engine tells into reports, and gives every attempt exactly one end.

    `engines` are the engines' names by model, `inputs` what the jobs begin with. `note` is a warning that goes with
    every picture painted from now on.
    """

    def __init__(
        self,
        line: Line,
        order: wire.Draw,
        engines: Mapping[str, str],
        cancel: Cancellations,
        inputs: RunInputs | None = None,
    ) -> None:
        self._line = line
        self._run = order.run
        self._engines = engines
        self.cancel = cancel
        self.inputs = inputs or RunInputs()
        self.offer = order.offer
        self._open = {job.attempt_id: job for job in order.jobs}
        self._painted: dict[UUID, set[int]] = defaultdict(set)
        self._warnings: dict[UUID, tuple[str, ...]] = defaultdict(tuple)
        self._used: dict[UUID, Settings] = {}
        self._costs: dict[UUID, Costs] = defaultdict(Costs)
        self.note = ""
        self._timings: dict[Phase, float] = defaultdict(float)
        self._phase = Phase.LOADING
        self._since = time.perf_counter()

    @property
    def phase(self) -> Phase:
        """What the run does now, or did when it failed."""
        return self._phase

    @property
    def done(self) -> frozenset[tuple[UUID, int]]:
        """The pictures that are painted, as (attempt, index)."""
        return frozenset((attempt_id, index) for attempt_id, indexes in self._painted.items() for index in indexes)

    def left(self, jobs: tuple[OfferedJob, ...]) -> tuple[OfferedJob, ...]:
        """Those of the jobs that have not ended and are still wanted, as they are to be drawn now."""
        ids = (job.attempt_id for job in jobs)
        return tuple(self._open[each] for each in ids if each in self._open and not self.cancel.asked(each))

    def pictures(self, jobs: tuple[OfferedJob, ...]) -> int:
        """How many pictures of these jobs are still to be painted."""
        return sum(job.settings.count - len(self._painted[job.attempt_id]) for job in jobs)

    def guarded(self, draw: Callable[[tuple[OfferedJob, ...]], None], info: ModelInfo | None) -> bool:
        """Draw whatever can be drawn and end every attempt; True when this process must be replaced."""
        self._refuse(info)
        if not self._open:
            return False
        try:
            draw(tuple(self._open.values()))
        except EngineError as error:
            log.exception("run_failed", code=error.code, attempts=[str(attempt) for attempt in self._open])
            self._end_all(error)
            return error.poisoned
        except Exception as error:
            log.exception("run_failed", attempts=[str(attempt) for attempt in self._open])
            self._end_all(EngineError("engine_error", f"the engine failed: {error!r}"))
            return False
        self._end_all(EngineError("engine_error", "the engine drew fewer pictures than asked"))
        return False

    def begin(self, phase: Phase, attempts: tuple[UUID, ...]) -> None:
        """A phase begins for these attempts."""
        self._clock(phase)
        self._line.send(wire.Began(run=self._run, phase=phase, attempts=attempts))

    def on_event(self, event: EngineEvent) -> None:
        """The engine's callback."""
        if isinstance(event, PhaseBegan):
            self.begin(event.phase, tuple(dict.fromkeys(picture.attempt_id for picture in event.pictures)))
        elif isinstance(event, Stepped):
            pictures = tuple((picture.attempt_id, picture.index) for picture in event.pictures)
            self._line.send(wire.Stepped(run=self._run, pictures=pictures, step=event.step, steps=event.steps))
        elif isinstance(event, Previewed):
            self._line.send(wire.Preview(run=self._run, attempt_id=event.picture.attempt_id), event.jpeg)
        elif isinstance(event, Warned):
            self._warn(event.attempt_id, event.text)
        elif isinstance(event, Costed):
            self._costs[event.picture.attempt_id].add(event.workflow, event.costs)
        elif isinstance(event, Waited):
            self._line.send(wire.Waited(run=self._run))
        else:
            self._save(event)

    def fail(self, job: OfferedJob, error: EngineError) -> None:
        """A job that was tried alone cannot be drawn."""
        if job.attempt_id in self._open:
            self._end(job.attempt_id, "failed", error)

    def substitute(self, job: OfferedJob, model: str, reason: str) -> OfferedJob:
        """From now on a job is drawn with another model. What is painted already stays, and its maker too."""
        changed = job.model_copy(update={"settings": job.settings.model_copy(update={"model": model})})
        self._open[job.attempt_id] = changed
        if painted := self._painted[job.attempt_id]:
            drawn = ", ".join(str(index + 1) for index in range(job.settings.count) if index not in painted)
            reason = f"{reason} (of the pictures: {drawn})"
        else:
            self._used[job.attempt_id] = changed.settings
        self._warn(job.attempt_id, reason)
        return changed

    def _warn(self, attempt_id: UUID, text: str) -> None:
        if text not in self._warnings[attempt_id]:
            self._warnings[attempt_id] += (text,)

    def _save(self, event: Drawn | Rendered) -> None:
        picture: Picture = event.picture
        job = self._open[picture.attempt_id]
        before = self._phase
        self._clock(Phase.SAVING)
        if self.note:
            self._warn(picture.attempt_id, self.note)
        warnings = self._warnings[picture.attempt_id]
        engine = self._engines[job.settings.model]
        making = Making(job, picture, engine, warnings, self.inputs.sha256)
        data, media = drawn(event.image, making) if isinstance(event, Drawn) else rendered(event.data, making)
        painted = wire.Painted(
            run=self._run,
            attempt_id=picture.attempt_id,
            index=picture.index,
            seed=picture.seed,
            width=media.width,
            height=media.height,
            media_type=media.media_type,
            duration=media.duration,
            frames=media.frames,
        )
        self._line.send(painted, data)
        self._clock(before)
        self._painted[picture.attempt_id].add(picture.index)
        if len(self._painted[picture.attempt_id]) == job.settings.count:
            self._end(picture.attempt_id, "painted")

    def _refuse(self, info: ModelInfo | None) -> None:
        """End the attempts that this model cannot do, or that begin with what is no picture."""
        for attempt_id, job in tuple(self._open.items()):
            if info is None:
                text = f"model: {job.settings.model} cannot be run here (any more)"
                self._end(attempt_id, "failed", EngineError("model_unavailable", text))
            elif (problem := settings_problem(info, job.settings)) is not None:
                self._end(attempt_id, "failed", EngineError("bad_settings", problem))
            elif (error := self.inputs.problem(job.settings)) is not None:
                self._end(attempt_id, "failed", error)

    def _end_all(self, error: EngineError) -> None:
        lone = len(self._open) == 1
        for attempt_id in tuple(self._open):
            if self.cancel.asked(attempt_id):
                self._end(attempt_id, "cancelled")
            else:
                self._end(attempt_id, "failed", error, lone=lone)

    def _end(
        self,
        attempt_id: UUID,
        outcome: Literal["painted", "cancelled", "failed"],
        error: EngineError | None = None,
        *,
        lone: bool = True,
    ) -> None:
        del self._open[attempt_id]
        self._clock(self._phase)
        self._line.send(
            wire.Ended(
                run=self._run,
                attempt_id=attempt_id,
                outcome=outcome,
                timings={phase: round(seconds, 4) for phase, seconds in self._timings.items()},
                warnings=self._warnings[attempt_id],
                settings=self._used.get(attempt_id),
                workflow=self._costs[attempt_id].workflow,
                costs=self._costs[attempt_id].told(),
                code=error.code if error else "",
                message=error.message if error else "",
                lone=lone,
            )
        )

    def _clock(self, phase: Phase) -> None:
        now = time.perf_counter()
        self._timings[self._phase] += now - self._since
        self._phase, self._since = phase, now
