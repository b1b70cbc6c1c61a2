"""Draws the jobs of one run, whatever it takes: what is tried, in which order, when memory runs out.

1. All other models leave the device, once.
2. Half as many pictures in a pass, and half of that, down to one.
3. Attention in slices, the autoencoder in tiles.
4. Each job alone, so that none suffers for another.
5. The model's fallback, if it can do what was asked for.

What is left then has failed for good, and says what would help. Pictures that are done stay done throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from anime_common.contracts.vocabulary import Phase
from anime_generator.batching import BatchLimits, Pass
from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError, Manner
from anime_generator.memory import in_words
from anime_generator.registry import settings_problem
from anime_generator.residents import DREW, Residents

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Engine
    from anime_generator.registry import ModelSpec
    from anime_generator.run import Run

log = structlog.get_logger(__name__)

Jobs = tuple["OfferedJob", ...]
Failed = list[tuple["OfferedJob", EngineError]]

IN_SLICES = "memory was short: drawn in slices and tiles, which may differ in detail"


@dataclass(frozen=True, slots=True)
class Studio:
    """What runs are drawn with."""

    device: Device
    specs: Mapping[str, ModelSpec]
    infos: Mapping[str, ModelInfo]
    engines: Mapping[str, Engine]
    residents: Residents
    limits: BatchLimits


@dataclass(frozen=True, slots=True)
class Drawing:
    """One run. Errors other than a lack of memory end it: they are raised."""

    studio: Studio
    run: Run

    def draw(self, jobs: Jobs, tried: tuple[str, ...] = ()) -> None:
        """Draw these jobs, which share a batch key, and end each of them; `tried` are models that had no room."""
        spec = self.studio.specs[jobs[0].settings.model]
        error = self._try_hard(spec, jobs)
        if error is None:
            return
        if len(jobs) > 1 and self.run.phase is not Phase.LOADING:
            alone = [(job, self._try_hard(spec, (job,))) for job in self.run.left(jobs)]
            failed = [(job, each) for job, each in alone if each is not None]
        else:
            failed = [(job, error) for job in self.run.left(jobs)]
        if failed:
            self._fall_back(spec, failed, (*tried, spec.key))

    def _try_hard(self, spec: ModelSpec, jobs: Jobs) -> EngineError | None:
        """Draw with this model; the lack of memory that nothing here could mend."""
        limits, pixels = self.studio.limits, jobs[0].settings.largest_pass()
        cleared = False
        while left := self.run.left(jobs):
            planned = limits.plan(spec.key, pixels, spec.batch_limit)
            width = min(planned.pictures, self.run.pictures(left))
            error = self._try(spec, left, planned)
            if error is None:
                limits.fitted(spec.key, pixels, planned, full=width >= planned.pictures)
                return None
            phase, width = self.run.phase, min(planned.pictures, self.run.pictures(self.run.left(jobs)))
            log.warning("memory_short", model=spec.key, phase=phase, pictures=width, error=error.message)
            if phase is Phase.LOADING and spec.key not in self.studio.residents.resident:
                return error  # all others have left the device for it already
            if not cleared and self.studio.residents.clear_for(spec.key):
                cleared = True
            elif phase is Phase.SAMPLING and width > 1:
                limits.overflowed(spec.key, pixels, Pass(width, planned.economical), halve=True)
            elif not planned.economical:
                limits.overflowed(spec.key, pixels, planned, halve=False)
            else:
                return error
        return None

    def _try(self, spec: ModelSpec, jobs: Jobs, planned: Pass) -> EngineError | None:
        """One go at it; the error is returned bare, so that nothing holds the memory of what failed."""
        manner = Manner(planned.pictures, planned.economical, self.run.done, self.run.offer)
        self.run.note = IN_SLICES if planned.economical else ""
        self.run.begin(Phase.LOADING, tuple(job.attempt_id for job in jobs))
        try:
            self.studio.residents.use(spec, DREW)
            engine = self.studio.engines[spec.engine]
            engine.generate(spec, jobs, self.run.on_event, self.run.cancel, manner, self.run.inputs)
        except EngineError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            found = error.bare()
        else:
            return None
        self.studio.device.release()
        return found

    def _fall_back(self, spec: ModelSpec, failed: Failed, tried: tuple[str, ...]) -> None:
        """Draw what failed with the next model, or end it with advice."""
        key, problem = self._substitute(spec, failed[0][0], tried)
        if key is None:
            for job, error in failed:
                self.run.fail(job, self._final(spec, job, error, problem))
            return
        log.warning("falling_back", model=spec.key, fallback=key, jobs=[job.code for job, _ in failed])
        reason = f"{spec.key} ran out of memory: drawn with {key}"
        self.draw(tuple(self.run.substitute(job, key, reason) for job, _ in failed), tried)

    def _substitute(self, spec: ModelSpec, job: OfferedJob, tried: tuple[str, ...]) -> tuple[str | None, str]:
        """The fallback that can do what the job asks for; else why there is none."""
        key = spec.fallback
        if key is None:
            return None, f"name a smaller model as models.{spec.key}.fallback"
        if key in tried:
            return None, f"its fallback {key} had no room either"
        info = self.studio.infos.get(key)
        if info is None:
            return None, f"its fallback {key} cannot be run here"
        problem = settings_problem(info, job.settings)
        if not problem and not self.studio.specs[key].has_loras(job.settings):
            problem = f"loras: they do not fit {key}"
        return (None, f"its fallback cannot do this ({problem})") if problem else (key, "")

    def _final(self, spec: ModelSpec, job: OfferedJob, error: EngineError, problem: str) -> EngineError:
        settings, memory = job.settings, self.studio.device.memory()
        others = max(memory.total - memory.free - self.studio.device.held(), 0)
        shared = f", {in_words(others)} of it in other programs' hands" if self.studio.device.kind != "cpu" else ""
        text = (
            f"{spec.key} does not fit into memory at {settings.width} x {settings.height} ({error.message}). "
            f"The device has {in_words(memory.total)}{shared}. Ask for a smaller picture or another model; {problem}"
        )
        return EngineError(OUT_OF_MEMORY, text)
