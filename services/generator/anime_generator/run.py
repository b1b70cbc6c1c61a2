"""One run in the engine process: what the engine tells becomes reports, and every attempt gets exactly one end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

from anime_common.contracts.vocabulary import Phase
from anime_generator import wire
from anime_generator.engines.protocol import Drawn, EngineError, PhaseBegan, Previewed, Stepped, Warned
from anime_generator.metadata import encode_png
from anime_generator.registry import settings_problem

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.engines.protocol import EngineEvent, Picture
    from anime_generator.line import Cancellations, Line

log = structlog.get_logger(__name__)


class Run:
    """One run: turns what the engine tells into reports, and gives every attempt exactly one end."""

    def __init__(self, line: Line, order: wire.Draw, engine: str, cancel: Cancellations) -> None:
        self._line = line
        self._run = order.run
        self._engine = engine
        self._cancel = cancel
        self._open = {job.attempt_id: job for job in order.jobs}
        self._painted: dict[UUID, int] = defaultdict(int)
        self._warnings: dict[UUID, tuple[str, ...]] = defaultdict(tuple)
        self._timings: dict[Phase, float] = defaultdict(float)
        self._phase = Phase.LOADING
        self._since = time.perf_counter()

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
            self._end_all(EngineError("engine_error", f"the engine failed: {error!r}", retryable=True))
            return False
        self._end_all(EngineError("engine_error", "the engine drew fewer pictures than asked", retryable=True))
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
            self._warnings[event.attempt_id] += (event.text,)
        else:
            self._save(event)

    def _save(self, event: Drawn) -> None:
        picture: Picture = event.picture
        job = self._open[picture.attempt_id]
        before = self._phase
        self._clock(Phase.SAVING)
        warnings = self._warnings[picture.attempt_id]
        data = encode_png(event.image, job, picture, engine=self._engine, warnings=warnings)
        width, height = event.image.size
        painted = wire.Painted(
            run=self._run,
            attempt_id=picture.attempt_id,
            index=picture.index,
            seed=picture.seed,
            width=width,
            height=height,
        )
        self._line.send(painted, data)
        self._clock(before)
        self._painted[picture.attempt_id] += 1
        if self._painted[picture.attempt_id] == job.settings.count:
            self._end(picture.attempt_id, "painted")

    def _refuse(self, info: ModelInfo | None) -> None:
        """End the attempts that this model cannot do."""
        for attempt_id, job in tuple(self._open.items()):
            problem = f"model: {job.settings.model} cannot be run here"
            if info is not None and (problem := settings_problem(info, job.settings) or "") == "":
                continue
            self._end(attempt_id, "failed", EngineError("bad_settings", problem, retryable=False))

    def _end_all(self, error: EngineError) -> None:
        lone = len(self._open) == 1
        for attempt_id in tuple(self._open):
            if self._cancel.asked(attempt_id):
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
                code=error.code if error else "",
                message=error.message if error else "",
                retryable=error.retryable if error else False,
                lone=lone,
            )
        )

    def _clock(self, phase: Phase) -> None:
        now = time.perf_counter()
        self._timings[self._phase] += now - self._since
        self._phase, self._since = phase, now
