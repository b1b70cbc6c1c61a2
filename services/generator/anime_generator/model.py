"""What a worker holds, and what it decides. Pure: functions take a `Worker` and return the next one, with effects.

An attempt's life here:

    waiting ──► running ──► saving ──► reporting ──► (gone)
       │           │           └── the engine is done with it, its pictures are being staged
       └───────────┴──► reporting: its last fact is on its way; it stays listed until the broker has confirmed it

`abandon` and `renew` drop an attempt from any stage without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anime_common.contracts import errors
from anime_common.contracts.generator import (
    AbandonAttempt,
    AttemptCancelled,
    AttemptFact,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
    CancelAttempt,
    Drain,
    HeldAttempt,
    Offer,
    OfferedJob,
    Renew,
    UnloadModel,
)
from anime_common.contracts.vocabulary import AttemptProgress, Phase, StagedOutput

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import Action
    from anime_common.contracts.vocabulary import NodeCost

REMEMBERED = 2048
"""How many attempts are remembered after their end, so that a late repeat of an offer does not run twice."""


class Stage(StrEnum):
    """Where an attempt is on this worker."""

    WAITING = "waiting"
    RUNNING = "running"
    SAVING = "saving"
    REPORTING = "reporting"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One job of an offer, as this worker holds it."""

    job: OfferedJob
    offer_id: UUID
    epoch: int
    progress: AttemptProgress
    stage: Stage = Stage.WAITING
    started: bool = False
    traceparent: str | None = None

    @property
    def id(self) -> UUID:
        """The attempt's id."""
        return self.job.attempt_id

    def held(self) -> HeldAttempt:
        """As heartbeats list it."""
        return HeldAttempt(
            **self.progress.model_dump(),
            offer_id=self.offer_id,
            started=self.started,
            ended=self.stage is Stage.REPORTING,
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """One incarnation of a worker: what it holds, in the order in which it was offered."""

    name: str
    incarnation: UUID
    started_at: datetime
    epoch: int = 0
    draining: bool = False
    attempts: Mapping[UUID, Attempt] = field(default_factory=dict)
    recent: tuple[UUID, ...] = ()

    def busy(self) -> int:
        """How many offers wait or run: pictures being staged and facts on their way occupy no slot."""
        return len({each.offer_id for each in self.attempts.values() if each.stage in {Stage.WAITING, Stage.RUNNING}})

    def in_stage(self, *stages: Stage) -> tuple[Attempt, ...]:
        """The attempts in these stages, oldest offer first."""
        return tuple(each for each in self.attempts.values() if each.stage in stages)

    def next_run(self) -> tuple[Attempt, ...]:
        """The waiting attempts of the oldest offer: they run together. Empty while something runs."""
        waiting = self.in_stage(Stage.WAITING)
        if not waiting or self.in_stage(Stage.RUNNING):
            return ()
        return tuple(each for each in waiting if each.offer_id == waiting[0].offer_id)


@dataclass(frozen=True, slots=True)
class Report:
    """Publish a fact until the broker confirms it."""

    fact: AttemptFact


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Stop these running attempts between two steps."""

    attempts: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Say nothing more about these attempts."""

    attempts: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Unload:
    """Give up a resident model, or all."""

    model: str | None


Effect = Report | Interrupt | Forget | Unload
Decision = tuple[Worker, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Made:
    """How an attempt came to its pictures; `timings` are seconds a phase, `settings` what was used if not as asked."""

    engine: str
    device: str
    outputs: tuple[StagedOutput, ...]
    timings: dict[Phase, float]
    warnings: tuple[str, ...] = ()
    settings: Settings | None = None
    workflow: str | None = None
    costs: tuple[NodeCost, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt has no pictures: a code of the table of errors.

    `lone` is whether it ran alone: a group's failure counts against nobody.

    The rest is what it spent until then: seconds a phase, and what the nodes of a workflow cost.
    """

    code: str
    message: str
    lone: bool = True
    engine: str = ""
    timings: Mapping[Phase, float] = field(default_factory=dict)
    workflow: str | None = None
    costs: tuple[NodeCost, ...] = ()


def take_offer(worker: Worker, offer: Offer, now: datetime, traceparent: str | None = None) -> Decision:
    """Hold the jobs of an offer that are new to us. Offers to another incarnation or of an older epoch change nothing.

    A draining worker gives them back at once.
    """
    if offer.worker != worker.name or offer.incarnation != worker.incarnation or offer.epoch < worker.epoch:
        return worker, ()
    attempts = dict(worker.attempts)
    new = [job for job in offer.jobs if job.attempt_id not in attempts and job.attempt_id not in worker.recent]
    for job in new:
        progress = AttemptProgress(
            job_id=job.job_id, attempt_id=job.attempt_id, phase=Phase.LOADING, images=job.settings.count
        )
        trace = job.traceparent or traceparent
        attempts[job.attempt_id] = Attempt(job, offer.offer_id, offer.epoch, progress, traceparent=trace)
    held = replace(worker, attempts=attempts, epoch=max(worker.epoch, offer.epoch))
    if worker.draining:
        return release(held, (job.attempt_id for job in new), "the worker drains", now)
    return held, ()


def obey(worker: Worker, order: Action, now: datetime, incarnation: UUID) -> Decision:
    """Carry out a control message; `incarnation` is the one to take if we must renew. Safe to repeat."""
    if isinstance(order, CancelAttempt):
        return _cancel(worker, order.attempt_id, now)
    if isinstance(order, AbandonAttempt):
        return _drop(worker, (order.attempt_id,))
    if isinstance(order, Renew):
        if order.incarnation != worker.incarnation:
            return worker, ()
        dropped, effects = _drop(worker, tuple(worker.attempts))
        return replace(dropped, incarnation=incarnation, started_at=now), effects
    if isinstance(order, Drain):
        return (replace(worker, draining=False), ()) if order.resume else drain(worker, "the worker drains", now)
    assert isinstance(order, UnloadModel)
    return worker, (Unload(order.model),)


def resume(worker: Worker, found: Iterable[tuple[OfferedJob, UUID, int]]) -> Worker:
    """Hold attempts of an earlier incarnation that go on without us: each with its job, offer and epoch."""
    attempts = dict(worker.attempts)
    for job, offer_id, epoch in found:
        progress = AttemptProgress(
            job_id=job.job_id, attempt_id=job.attempt_id, phase=Phase.LOADING, images=job.settings.count
        )
        attempts[job.attempt_id] = Attempt(job, offer_id, epoch, progress, started=True, traceparent=job.traceparent)
    epochs = (each.epoch for each in attempts.values())
    return replace(worker, attempts=attempts, epoch=max(worker.epoch, *epochs, 0))


def leave(worker: Worker) -> Worker:
    """Let go of what is in work without a word: it goes on elsewhere, for the next incarnation to take up."""
    return _without(worker, tuple(each.id for each in worker.in_stage(Stage.RUNNING, Stage.SAVING)))


def drain(worker: Worker, reason: str, now: datetime) -> Decision:
    """Take nothing new and give back what waits."""
    waiting = (each.id for each in worker.in_stage(Stage.WAITING))
    return release(replace(worker, draining=True), waiting, reason, now)


def release(worker: Worker, attempts: Iterable[UUID], reason: str, now: datetime) -> Decision:
    """Give attempts back unharmed; those on their way out already are left alone."""
    facts: list[Effect] = []
    for attempt_id in attempts:
        found = worker.attempts.get(attempt_id)
        if found is not None and found.stage is not Stage.REPORTING:
            worker = _to_stage(worker, found, Stage.REPORTING)
            facts.append(Report(AttemptReleased(**_who(worker, found), reason=reason, released_at=now)))
    return worker, tuple(facts)


def begin(worker: Worker, attempts: Iterable[UUID], engine: str, now: datetime) -> Decision:
    """The engine is about to run these waiting attempts."""
    facts: list[Effect] = []
    for attempt_id in attempts:
        found = worker.attempts.get(attempt_id)
        if found is not None and found.stage is Stage.WAITING:
            worker = _changed(worker, replace(found, stage=Stage.RUNNING, started=True))
            facts.append(Report(AttemptStarted(**_who(worker, found), engine=engine, started_at=now)))
    return worker, tuple(facts)


def advance(worker: Worker, progress: AttemptProgress) -> Worker:
    """Note how far an attempt is; nothing happens when it is not held any more."""
    found = worker.attempts.get(progress.attempt_id)
    return worker if found is None else _changed(worker, replace(found, progress=progress))


def painted(worker: Worker, attempt_id: UUID) -> Worker:
    """The engine is done with an attempt: what is left is to stage its pictures."""
    found = worker.attempts.get(attempt_id)
    if found is None or found.stage is not Stage.RUNNING:
        return worker
    return _to_stage(worker, found, Stage.SAVING)


def finish(worker: Worker, attempt_id: UUID, made: Made, now: datetime) -> Decision:
    """All pictures of an attempt are staged. A picture that finished first wins over a cancel."""
    found = _in_work(worker, attempt_id)
    if found is None:
        return worker, ()
    fact = AttemptFinished(
        **_who(worker, found),
        engine=made.engine,
        device=made.device,
        settings=made.settings or found.job.settings,
        outputs=made.outputs,
        timings=made.timings,
        warnings=made.warnings,
        workflow=made.workflow,
        costs=made.costs,
        finished_at=now,
    )
    return _to_stage(worker, found, Stage.REPORTING), (Report(fact),)


def fail(worker: Worker, attempt_id: UUID, failure: Failure, now: datetime) -> Decision:
    """An attempt in work ended without its pictures.

    Nobody knows which member a group failed of: each is tried again alone, where its own fault is final.
    """
    found = _in_work(worker, attempt_id)
    if found is None:
        return worker, ()
    fact = AttemptFailed(
        **_who(worker, found),
        code=failure.code,
        message=failure.message,
        retryable=errors.retryable(failure.code) or not failure.lone,
        counts=failure.lone,
        reached=found.progress.reached(),
        engine=failure.engine,
        timings=dict(failure.timings),
        workflow=failure.workflow,
        costs=failure.costs,
        failed_at=now,
    )
    return _to_stage(worker, found, Stage.REPORTING), (Report(fact),)


def stopped(worker: Worker, attempt_id: UUID, outputs: tuple[StagedOutput, ...], now: datetime) -> Decision:
    """An attempt in work was stopped as asked; `outputs` are its pictures that were staged before."""
    found = _in_work(worker, attempt_id)
    if found is None:
        return worker, ()
    fact = AttemptCancelled(
        **_who(worker, found),
        settings=found.job.settings,
        outputs=outputs,
        reached=found.progress.reached(),
        cancelled_at=now,
    )
    return _to_stage(worker, found, Stage.REPORTING), (Report(fact),)


def confirmed(worker: Worker, attempt_id: UUID) -> Worker:
    """The broker has stored the last fact about an attempt: it is gone."""
    found = worker.attempts.get(attempt_id)
    if found is None or found.stage is not Stage.REPORTING:
        return worker
    return _without(worker, (attempt_id,))


def _cancel(worker: Worker, attempt_id: UUID, now: datetime) -> Decision:
    found = worker.attempts.get(attempt_id)
    if found is None:
        return worker, ()
    if found.stage is Stage.WAITING:
        fact = AttemptCancelled(**_who(worker, found), cancelled_at=now)
        return _to_stage(worker, found, Stage.REPORTING), (Report(fact),)
    return worker, (Interrupt((attempt_id,)),) if found.stage is Stage.RUNNING else ()


def _drop(worker: Worker, attempts: tuple[UUID, ...]) -> Decision:
    held = tuple(attempt_id for attempt_id in attempts if attempt_id in worker.attempts)
    if not held:
        return worker, ()
    running = tuple(each for each in held if worker.attempts[each].stage is Stage.RUNNING)
    effects: tuple[Effect, ...] = (Interrupt(running),) if running else ()
    return _without(worker, held), (*effects, Forget(held))


def _in_work(worker: Worker, attempt_id: UUID) -> Attempt | None:
    found = worker.attempts.get(attempt_id)
    return found if found is not None and found.stage in {Stage.RUNNING, Stage.SAVING} else None


def _who(worker: Worker, attempt: Attempt) -> dict[str, Any]:
    return {
        "job_id": attempt.job.job_id,
        "attempt_id": attempt.id,
        "epoch": attempt.epoch,
        "worker": worker.name,
        "incarnation": worker.incarnation,
    }


def _to_stage(worker: Worker, attempt: Attempt, stage: Stage) -> Worker:
    return _changed(worker, replace(attempt, stage=stage))


def _changed(worker: Worker, attempt: Attempt) -> Worker:
    return replace(worker, attempts={**worker.attempts, attempt.id: attempt})


def _without(worker: Worker, attempts: tuple[UUID, ...]) -> Worker:
    left = {attempt_id: each for attempt_id, each in worker.attempts.items() if attempt_id not in attempts}
    return replace(worker, attempts=left, recent=(*worker.recent, *attempts)[-REMEMBERED:])
