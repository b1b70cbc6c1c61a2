"""Runs offers, one after another: hands them to the engine process and turns its reports into decisions and telemetry.

While the engine draws the next offer, pictures of the last one are still being staged and its facts published.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from anime_common.contracts.vocabulary import Phase, StagedOutput
from anime_common.failpoints import hit
from anime_common.tracing import span
from anime_generator import metrics, model, wire
from anime_generator.feed import Feed
from anime_generator.model import Attempt, Failure, Made, Stage
from anime_generator.progress import History, Tracker
from anime_generator.residency import Tier
from anime_generator.staging import NotOurs, Staging, StagingFailed
from anime_generator.supply import NOTHING

if TYPE_CHECKING:
    from uuid import UUID

    from anime_common.bus import Bus
    from anime_generator.desk import Desk
    from anime_generator.engine_host import EngineHost
    from anime_generator.hearing import Heard
    from anime_generator.registry.live import Catalogue
    from anime_generator.reporter import Spawn
    from anime_generator.supply import Supplies, Supply

log = structlog.get_logger(__name__)

MAX_SAVING = 64
"""Attempts whose pictures may be on their way to the store while the next run begins."""


@dataclass(slots=True)
class _Work:
    """One attempt of the run in hand; `source` is where the model's weights lay when it began."""

    attempt: Attempt
    feed: Feed
    source: Tier | None
    staging: list[asyncio.Task[StagedOutput]] = field(default_factory=list)
    saving: float = 0.0


class Runner:
    """Draws what the desk says is next."""

    def __init__(
        self,
        bus: Bus,
        desk: Desk,
        host: EngineHost,
        supply: Supply,
        staging: Staging,
        registry: Catalogue,
        spawn: Spawn,
    ) -> None:
        self._bus = bus
        self._desk = desk
        self._host = host
        self._supply = supply
        self._staging = staging
        self._registry = registry
        self._spawn = spawn
        self._history = History()

    async def run(self) -> None:
        """Run offers until cancelled. Waiting ones are given back when the engine process does not start."""
        while True:
            if not self._desk.worker.next_run() or len(self._desk.worker.in_stage(Stage.SAVING)) > MAX_SAVING:
                await self._desk.news()
            elif await self._host.wait_usable():
                await hit("generator.before_started")
                if attempts := self._desk.worker.next_run():
                    await self._draw_or_return(attempts)
            else:
                self._give_back("the engine process does not start")

    async def _draw_or_return(self, attempts: tuple[Attempt, ...]) -> None:
        """Run an offer; what waits for a model that has left the registry meanwhile goes back to the ledger."""
        attempts, supplies = await self._supplied(attempts)
        if not attempts:
            return
        key = attempts[0].job.settings.model
        if key in self._registry.current.models:
            await self._draw(attempts, supplies)
        else:
            reason = f"the model {key} has left this worker's registry"
            ids = [attempt.id for attempt in attempts]
            log.warning("attempts_released", attempts=len(ids), reason=reason)
            self._desk.apply(model.release(self._desk.worker, ids, reason, datetime.now(UTC)))

    async def _supplied(self, attempts: tuple[Attempt, ...]) -> tuple[tuple[Attempt, ...], Supplies]:
        """The attempts that can begin, with what they begin with. Meanwhile they wait, and can be cancelled at once."""
        if not any(wire.named(attempt.job.settings) for attempt in attempts):
            return attempts, NOTHING

        def waiting() -> tuple[Attempt, ...]:
            found = (self._desk.worker.attempts.get(attempt.id) for attempt in attempts)
            return tuple(each for each in found if each is not None and each.stage is Stage.WAITING)

        with span("inputs", traceparent=attempts[0].traceparent):
            supplies = await self._supply.bring([attempt.job for attempt in attempts], lambda: bool(waiting()))
        able = []
        for attempt in waiting():
            if (failure := supplies.failures.get(attempt.id)) is None:
                able.append(attempt)
                continue
            log.warning("input_failed", attempt_id=str(attempt.id), code=failure.code, message=failure.message)
            engine, now = self._registry.engine(attempt.job.settings.model), datetime.now(UTC)
            self._desk.apply(model.begin(self._desk.worker, (attempt.id,), engine, now))
            self._desk.apply(model.fail(self._desk.worker, attempt.id, failure, now))
        return tuple(able), supplies

    async def _draw(self, attempts: tuple[Attempt, ...], supplies: Supplies) -> None:
        settings = attempts[0].job.settings
        engine = self._registry.engine(settings.model)
        ids = tuple(attempt.id for attempt in attempts)
        with span("generate", traceparent=attempts[0].traceparent, model=settings.model, engine=engine):
            self._desk.apply(model.begin(self._desk.worker, ids, engine, datetime.now(UTC)))
            source = self._host.tier(settings.model)
            work = {attempt.id: _Work(attempt, self._feed(attempt, source), source) for attempt in attempts}
            for each in work.values():
                await each.feed.tell()
            first = attempts[0]
            offer = wire.Offered(worker=self._desk.worker.name, offer_id=first.offer_id, epoch=first.epoch)
            async for heard in self._host.draw(tuple(attempt.job for attempt in attempts), supplies, offer):
                await self._on_heard(work, heard)

    def _feed(self, attempt: Attempt, source: Tier | None) -> Feed:
        settings = attempt.job.settings
        costs = self._history.costs(settings.model, settings.width * settings.height, source)
        cold = source is not Tier.DEVICE
        tracker = Tracker(attempt.job.job_id, attempt.id, settings.count, settings.sampled(), costs, cold=cold)
        return Feed(self._bus, self._desk, tracker, self._spawn)

    async def _on_heard(self, work: dict[UUID, _Work], heard: Heard) -> None:
        report, now = heard.report, time.monotonic()
        if isinstance(report, wire.Began):
            for attempt_id in report.attempts:
                work[attempt_id].feed.tracker.begin(report.phase, now)
                await work[attempt_id].feed.tell()
        elif isinstance(report, wire.Stepped):
            await self._on_step(work, report, now)
        elif isinstance(report, wire.Preview):
            if self._desk.holds(report.attempt_id):
                await work[report.attempt_id].feed.preview(heard.blob)
        elif isinstance(report, wire.Painted):
            await self._on_painted(work[report.attempt_id], report, heard.blob)
        else:
            self._on_ended(work[report.attempt_id], report)

    async def _on_step(self, work: dict[UUID, _Work], report: wire.Stepped, now: float) -> None:
        mine: dict[UUID, list[int]] = {}
        for attempt_id, index in report.pictures:
            mine.setdefault(attempt_id, []).append(index)
        for attempt_id, indexes in mine.items():
            feed = work[attempt_id].feed
            feed.tracker.expect(report.steps)
            feed.tracker.stepped(indexes, report.step, len(report.pictures), now)
            await feed.tell()
        await hit("generator.step")

    async def _on_painted(self, each: _Work, report: wire.Painted, picture: bytes) -> None:
        tracker = each.feed.tracker
        tracker.painted(report.index)
        if len(each.staging) + 1 == tracker.images:
            tracker.begin(Phase.SAVING, time.monotonic())
        each.staging.append(asyncio.create_task(self._stage(each, report, picture), name=f"stage {report.attempt_id}"))
        await each.feed.tell()

    async def _stage(self, each: _Work, report: wire.Painted, picture: bytes) -> StagedOutput:
        began = time.monotonic()
        output = await self._staging.store(
            each.attempt.job, report, picture, lambda: self._desk.holds(report.attempt_id)
        )
        each.saving += time.monotonic() - began
        each.feed.tracker.saved(report.index)
        await each.feed.tell()
        return output

    def _on_ended(self, each: _Work, ended: wire.Ended) -> None:
        if ended.outcome == "painted":
            self._desk.apply((model.painted(self._desk.worker, ended.attempt_id), ()))
        self._spawn(self._settle(each, ended), f"settle {ended.attempt_id}")

    async def _settle(self, each: _Work, ended: wire.Ended) -> None:
        """Once its pictures are staged, or cannot be, report how an attempt ended."""
        results = await asyncio.gather(*each.staging, return_exceptions=True)
        each.feed.end()
        outputs = tuple(result for result in results if isinstance(result, StagedOutput))
        problem: StagingFailed | None = None
        for result in results:
            if isinstance(result, StagingFailed):
                problem = result
            elif isinstance(result, BaseException) and not isinstance(result, NotOurs):
                raise result
        attempt_id = ended.attempt_id
        if ended.outcome == "failed":
            engine = self._registry.engine(each.attempt.job.settings.model)
            spent = (engine, dict(ended.timings), ended.workflow, ended.costs)
            failure = Failure(ended.code, ended.message, ended.lone, *spent)
            self._desk.apply(model.fail(self._desk.worker, attempt_id, failure, datetime.now(UTC)))
        elif ended.outcome == "cancelled":
            self._desk.apply(model.stopped(self._desk.worker, attempt_id, outputs, datetime.now(UTC)))
        elif problem is not None:
            failure = Failure("staging_failed", str(problem))
            self._desk.apply(model.fail(self._desk.worker, attempt_id, failure, datetime.now(UTC)))
        else:
            await hit("generator.before_finished")
            made = self._made(each, ended, outputs)
            self._desk.apply(model.finish(self._desk.worker, attempt_id, made, datetime.now(UTC)))

    def _made(self, each: _Work, ended: wire.Ended, outputs: tuple[StagedOutput, ...]) -> Made:
        settings = ended.settings or each.attempt.job.settings
        timings = dict(ended.timings)
        timings[Phase.SAVING] = round(timings.get(Phase.SAVING, 0.0) + each.saving, 4)
        if ended.settings is None:  # else the times are those of two models
            self._history.learn(
                settings.model,
                settings.width * settings.height,
                pictures=len(outputs),
                step=each.feed.tracker.step_seconds(),
                timings=timings,
                source=each.source,
            )
        metrics.PICTURES.labels(model=settings.model).inc(len(outputs))
        for phase, seconds in timings.items():
            metrics.PHASE_SECONDS.labels(model=settings.model, phase=phase).observe(seconds)
        device = self._host.device.name if self._host.device else ""
        engine = self._registry.engine(settings.model)
        return Made(engine, device, outputs, timings, ended.warnings, ended.settings, ended.workflow, ended.costs)

    def _give_back(self, reason: str) -> None:
        waiting = [attempt.id for attempt in self._desk.worker.in_stage(Stage.WAITING)]
        log.warning("attempts_released", attempts=len(waiting), reason=reason)
        self._desk.apply(model.release(self._desk.worker, waiting, reason, datetime.now(UTC)))
