"""What the ledger decides about one job: pure. One table of state × message; time and chance are arguments.

`decide(record, message, now)` returns the changed record and the messages to send, or raises: `Refused` when a person
asked for what cannot be, `IllegalTransition` when we have a bug. Nothing changes then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from anime_common.contracts import errors
from anime_common.contracts.echo import OptimizeFailed, OptimizePrompt, PromptOptimized
from anime_common.contracts.files import Filed, FileDeleted, FilingFailed
from anime_common.contracts.generation import Settings
from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFact,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import (
    CancelJob,
    Job,
    JobCancelled,
    JobCompleted,
    JobDispatched,
    JobEvent,
    JobFailed,
    JobFiling,
    JobQueued,
    JobStarted,
    JobUpdated,
    PrioritizeJob,
    RetryJob,
)
from anime_common.contracts.vocabulary import JobError, JobState, ModelInfo, Phase, Reached, StagedOutput
from anime_common.messages import Message
from anime_common.outcomes import Refused
from anime_jobs.admission import resolve
from anime_jobs.composition import Production, Target, compose


class IllegalTransition(Exception):
    """A message that can never meet a job in this state: our bug, not a person's mistake."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds, and how often a job may fail."""

    max_failures: int = 3
    retry_base: float = 2.0
    retry_cap: float = 300.0
    prepare_bound: float = 30.0
    prepare_nudge: float = 10.0
    filing_nudge: float = 15.0
    offer_repeat: float = 2.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What a decision may depend on besides job and message: `chance` in [0, 1), `today` in the configured zone."""

    now: datetime
    today: date
    chance: float = 0.5
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Record:
    """A job as the ledger keeps it: what everybody sees, and what only the ledger needs.

    `place` orders the waiting jobs of a project, in seconds since 1970; `foreseen_end` is when the job was to end, as
    it was told first, at `foreseen_at`.
    """

    job: Job
    request_hash: str
    prompt: str
    negative_prompt: str | None
    seed: int
    traceparent: str | None = None
    incarnation: UUID | None = None
    offer_id: UUID | None = None
    repeat: int = 0
    deadline: datetime | None = None
    next_try_at: datetime | None = None
    staged: tuple[StagedOutput, ...] = ()
    filing_date: date | None = None
    end_as: JobState = JobState.COMPLETED
    run_alone: bool = False
    batch_index: int | None = None
    place: float = 0.0
    foreseen_at: datetime | None = None
    foreseen_end: datetime | None = None
    production: Production = field(default_factory=Production)

    @property
    def state(self) -> JobState:
        """Of the job."""
        return self.job.state


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The scheduler gives the job to one incarnation of a worker, as a new attempt.

    `seconds` is how long it should take there, if that is known.
    """

    worker: str
    incarnation: UUID
    attempt_id: UUID
    offer_id: UUID
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """The job goes to another place among the waiting jobs of its project."""

    place: float


@dataclass(frozen=True, slots=True)
class OfferRepeated:
    """The offer was neither listed nor started in time: it is sent again."""


@dataclass(frozen=True, slots=True)
class OfferFenced:
    """The offer was repeated in vain: the job is taken back; an old copy of the offer changes nothing any more."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker is gone, or no longer lists the attempt. `counts` when the attempt may be to blame.

    `reached` is how far it was when the worker last told.
    """

    reason: str
    counts: bool
    reached: Reached | None = None


@dataclass(frozen=True, slots=True)
class Adopted:
    """A new incarnation of the same worker goes on with the attempt."""

    incarnation: UUID


@dataclass(frozen=True, slots=True)
class ModelAnnounced:
    """A worker has made known what the job can be made with; None when nobody knows the model it names."""

    model: ModelInfo | None


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A waiting state has lasted too long: ask again, or go on without."""


OWN_WORDS = "original prompt used: "
"""How the note begins of a job whose prompt Echo did not improve."""
WORKER_LOST = "worker_lost"
DRAWN = Reached(phase=Phase.SAVING, percent=99.0)
"""How far an attempt came whose pictures were all made, and could not be filed."""

Decision = tuple[Record, list[Message]]
Rule = Callable[[Record, Any, Moment], Decision]


def retry_delay(failures: int, chance: float, policy: Policy) -> float:
    """Seconds before try number `failures + 1`: exponential with full jitter on the upper half."""
    ceiling = min(policy.retry_base * 2.0 ** max(failures - 1, 0), policy.retry_cap)
    return ceiling * (0.5 + chance / 2)


def decide(record: Record, message: object, moment: Moment) -> Decision:
    """What a message does to a job. A fact about an attempt that does not own the job changes nothing."""
    if isinstance(message, AttemptFact | Filed | FilingFailed) and message.attempt_id != record.job.attempt_id:
        return record, []
    rule = TABLE[record.state].get(type(message))
    if rule is None:
        raise IllegalTransition(f"job {record.job.id} is {record.state}: {type(message).__name__} cannot happen")
    return rule(record, message, moment)


def changed(record: Record, moment: Moment, event: type[JobEvent], /, **job: Any) -> tuple[Record, JobEvent]:
    """The record with a new version of its job, and the event that tells of it."""
    updates = {"version": record.job.version + 1, "updated_at": moment.now, **job}
    new = replace(record, job=record.job.model_copy(update=updates))
    return new, event(job=new.job)


def _ignore(record: Record, _message: object, _moment: Moment) -> Decision:
    return record, []


def _refuse(code: str, text: str) -> Rule:
    def refuse(record: Record, _message: object, _moment: Moment) -> Decision:
        raise Refused(409, code, text.format(job=record.job))

    return refuse


def _queue(record: Record, moment: Moment, message: str | None, *, delay: float = 0.0, **job: Any) -> Decision:
    """Back to the queue, owned by nobody, to start in `delay` seconds at the earliest."""
    bare = replace(
        record,
        incarnation=None,
        offer_id=None,
        repeat=0,
        deadline=None,
        staged=(),
        filing_date=None,
        end_as=JobState.COMPLETED,
        next_try_at=moment.now + timedelta(seconds=delay) if delay else None,
    )
    new, event = changed(
        bare,
        moment,
        JobQueued,
        state=JobState.QUEUED,
        attempt_id=None,
        worker=None,
        queued_at=moment.now,
        dispatched_at=None,
        started_at=None,
        ended_at=None,
        reached=None,
        message=message,
        **job,
    )
    return new, [event]


def _end(record: Record, moment: Moment, event: type[JobEvent], state: JobState, **job: Any) -> Decision:
    bare = replace(record, deadline=None, next_try_at=None, staged=())
    new, told = changed(bare, moment, event, state=state, ended_at=moment.now, cancel_requested=False, **job)
    return new, [told]


def _cancel_now(
    record: Record, moment: Moment, message: str = "cancelled", *, reached: Reached | None = None
) -> Decision:
    return _end(record, moment, JobCancelled, JobState.CANCELLED, message=message, reached=reached)


def _cancel(record: Record, _message: CancelJob, moment: Moment) -> Decision:
    return _cancel_now(record, moment)


def _fail(record: Record, moment: Moment, error: JobError, **job: Any) -> Decision:
    return _end(record, moment, JobFailed, JobState.FAILED, error=error, message=error.message, **job)


def _try_again(
    record: Record, moment: Moment, error: JobError, *, counts: bool, reached: Reached | None = None
) -> Decision:
    """Queue again with a delay while the retry budget lasts, else fail; a cancel that waits for the end wins."""
    failures = record.job.failures + (1 if counts else 0)
    if record.job.cancel_requested:
        return _cancel_now(record, moment, reached=reached)
    if not error.retryable or failures >= moment.policy.max_failures:
        return _fail(record, moment, error, failures=failures, reached=reached)
    delay = retry_delay(failures, moment.chance, moment.policy) if counts else 0.0
    return _queue(record, moment, f"tried again after: {error.message}", delay=delay, failures=failures, error=error)


def _prepared(record: Record, moment: Moment, note: str) -> Decision:
    settings = record.job.settings
    if settings is None:
        return _queue(record, moment, None, prompt_note=note)
    # Echo has looked at the user's own words: what stands around them is composed anew.
    target = record.production.target or Target(default_negative=settings.negative_prompt)
    found = compose(record.prompt, record.negative_prompt, record.production, target, own=record.job.request.prompt)
    composed = found.composition
    settings = settings.model_copy(update={"prompt": composed.prompt, "negative_prompt": composed.negative_prompt})
    warnings = tuple(dict.fromkeys((*record.job.warnings, *found.warnings)))
    return _queue(record, moment, None, prompt_note=note, settings=settings, composition=composed, warnings=warnings)


def _optimized(record: Record, message: PromptOptimized, moment: Moment) -> Decision:
    found = message.result
    better = replace(record, prompt=found.prompt, negative_prompt=found.negative_prompt or record.negative_prompt)
    what = "; ".join(change.text for change in found.changes) or "nothing to improve"
    return _prepared(better, moment, f"{found.provider}: {what}")


def _not_optimized(record: Record, message: OptimizeFailed, moment: Moment) -> Decision:
    return _prepared(record, moment, f"{OWN_WORDS}{message.reason}")


def _prepare_deadline(record: Record, _message: DeadlinePassed, moment: Moment) -> Decision:
    waited = moment.now - record.job.created_at
    if waited >= timedelta(seconds=moment.policy.prepare_bound):
        return _prepared(record, moment, f"{OWN_WORDS}no answer from Echo in {waited.total_seconds():.0f} s")
    again = replace(
        record, repeat=record.repeat + 1, deadline=moment.now + timedelta(seconds=moment.policy.prepare_nudge)
    )
    return again, [optimize(again)]


def optimize(record: Record) -> OptimizePrompt:
    """The question to Echo about a job that prepares."""
    return OptimizePrompt(
        job_id=record.job.id,
        job_version=record.job.version,
        repeat=record.repeat,
        epoch=record.job.epoch,
        prompt=record.prompt,
        negative_prompt=record.negative_prompt or "",
        family="",
    )


def _announced(record: Record, message: ModelAnnounced, moment: Moment) -> Decision:
    """Settle what the picture is made with, now that the model is known."""
    request = record.job.request
    if message.model is None:
        text = f"no worker knows the model {request.model or record.production.style.model!r}"
        return _fail(record, moment, JobError(code="unknown_model", message=text))
    try:
        resolved = resolve(
            request, message.model, record.production, record.prompt, record.negative_prompt, record.seed
        )
    except Refused as refusal:
        return _fail(record, moment, JobError(code=refusal.code, message=f"{refusal.field}: {refusal.message}"))
    known = {"settings": resolved.settings, "composition": resolved.composition, "warnings": resolved.warnings}
    settled = replace(record, production=resolved.production)
    new, event = changed(settled, moment, JobUpdated, **known, message=None)
    return new, [event]


def _dispatch(record: Record, message: Dispatch, moment: Moment) -> Decision:
    owned = replace(
        record,
        incarnation=message.incarnation,
        offer_id=message.offer_id,
        repeat=0,
        next_try_at=None,
        deadline=moment.now + timedelta(seconds=moment.policy.offer_repeat),
    )
    if record.foreseen_at is None and message.seconds is not None:
        end = moment.now + timedelta(seconds=message.seconds)
        owned = replace(owned, foreseen_at=moment.now, foreseen_end=end)
    new, event = changed(
        owned,
        moment,
        JobDispatched,
        state=JobState.DISPATCHED,
        attempt_id=message.attempt_id,
        attempt=record.job.attempt + 1,
        worker=message.worker,
        dispatched_at=moment.now,
        started_at=None,
        timings={},
        message=None,
    )
    return new, [event]


def _repeat_offer(record: Record, _message: OfferRepeated, moment: Moment) -> Decision:
    deadline = moment.now + timedelta(seconds=moment.policy.offer_repeat)
    return replace(record, repeat=record.repeat + 1, deadline=deadline), []


def _fence(record: Record, _message: OfferFenced, moment: Moment) -> Decision:
    return _queue(record, moment, f"{record.job.worker} did not take the offer")


def _started(record: Record, message: AttemptStarted, moment: Moment) -> Decision:
    new, event = changed(
        replace(record, deadline=None), moment, JobStarted, state=JobState.RUNNING, started_at=message.started_at
    )
    return new, [event]


def _file(
    record: Record, moment: Moment, staged: tuple[StagedOutput, ...], settings: Settings, end_as: JobState, **job: Any
) -> Decision:
    deadline = moment.now + timedelta(seconds=moment.policy.filing_nudge)
    bare = replace(record, staged=staged, filing_date=moment.today, end_as=end_as, repeat=0, deadline=deadline)
    new, _ = changed(bare, moment, JobUpdated, state=JobState.FILING, settings=settings, **job)
    return new, [filing(new)]


def filing(record: Record) -> JobFiling:
    """The event that `files` acts on."""
    job = record.job
    if job.attempt_id is None or job.settings is None or record.filing_date is None:
        raise IllegalTransition(f"job {job.id} is {job.state}: it has nothing to file")
    return JobFiling(
        job=job,
        attempt_id=job.attempt_id,
        repeat=record.repeat,
        staged=record.staged,
        settings=job.settings,
        date=record.filing_date,
    )


def _finished(record: Record, message: AttemptFinished, moment: Moment) -> Decision:
    late = "finished before the cancel reached it" if record.job.cancel_requested else None
    return _file(
        record,
        moment,
        message.outputs,
        message.settings,
        JobState.COMPLETED,
        timings=message.timings,
        warnings=tuple(dict.fromkeys((*record.job.warnings, *message.warnings))),
        message=late,
        cancel_requested=False,
        started_at=record.job.started_at or record.job.dispatched_at,
    )


def _failed(record: Record, message: AttemptFailed, moment: Moment) -> Decision:
    # A group's failure is nobody's: each member is tried again alone, whatever the code says of its own fault.
    again = errors.retryable(message.code, told=message.retryable) or not message.counts
    error = JobError(code=message.code, message=message.message, retryable=again)
    alone = record if message.counts else replace(record, run_alone=True)
    return _try_again(alone, moment, error, counts=message.counts, reached=message.reached)


def _stopped(record: Record, message: AttemptCancelled, moment: Moment) -> Decision:
    if not record.job.cancel_requested:
        return _queue(record, moment, f"{record.job.worker} stopped it unasked")
    if record.job.request.keep_partial and message.outputs and message.settings is not None:
        kept = {"message": "cancelled", "reached": message.reached}
        return _file(record, moment, message.outputs, message.settings, JobState.CANCELLED, **kept)
    return _cancel_now(record, moment, reached=message.reached)


def _released(record: Record, message: AttemptReleased, moment: Moment) -> Decision:
    if record.job.cancel_requested:
        return _cancel_now(record, moment)
    return _queue(record, moment, f"given back: {message.reason}")


def _lost(record: Record, message: WorkerLost, moment: Moment) -> Decision:
    error = JobError(code=WORKER_LOST, message=message.reason, retryable=errors.retryable(WORKER_LOST))
    return _try_again(record, moment, error, counts=message.counts, reached=message.reached)


def _adopt(record: Record, message: Adopted, _moment: Moment) -> Decision:
    return replace(record, incarnation=message.incarnation), []


def _request_cancel(record: Record, _message: CancelJob, moment: Moment) -> Decision:
    if record.job.cancel_requested:
        return record, []
    new, event = changed(record, moment, JobUpdated, cancel_requested=True, message="cancel requested")
    return new, [event]


def _filed(record: Record, message: Filed, moment: Moment) -> Decision:
    if record.end_as is JobState.CANCELLED:
        return _end(record, moment, JobCancelled, JobState.CANCELLED, outputs=message.outputs)
    return _end(record, moment, JobCompleted, JobState.COMPLETED, outputs=message.outputs, error=None)


def _not_filed(record: Record, message: FilingFailed, moment: Moment) -> Decision:
    if message.repeat < record.repeat:
        # A newer question is under way and will be answered: only the last answer may take the job out of filing.
        return record, []
    if record.end_as is JobState.CANCELLED:
        text = f"cancelled; its pictures could not be kept: {message.message}"
        return _cancel_now(record, moment, text, reached=record.job.reached)
    again = errors.retryable(message.code, told=message.retryable)
    error = JobError(code=message.code, message=message.message, retryable=again)
    return _try_again(record, moment, error, counts=True, reached=DRAWN)


def _filing_deadline(record: Record, _message: DeadlinePassed, moment: Moment) -> Decision:
    deadline = moment.now + timedelta(seconds=moment.policy.filing_nudge)
    again = replace(record, repeat=record.repeat + 1, deadline=deadline)
    return again, [filing(again)]


def _retry(record: Record, _message: RetryJob, moment: Moment) -> Decision:
    fresh = replace(record, run_alone=False)
    return _queue(fresh, moment, "tried again by hand", failures=0, error=None, outputs=(), timings={})


def _prioritize(record: Record, message: PrioritizeJob, moment: Moment) -> Decision:
    changes: dict[str, Any] = {}
    if message.changes.priority is not None:
        changes["priority"] = message.changes.priority
    if message.changes.paused is not None:
        changes["paused"] = message.changes.paused
    if message.changes.not_before is not None or message.clear_not_before:
        changes["not_before"] = message.changes.not_before
    if all(getattr(record.job, name) == value for name, value in changes.items()):
        return record, []
    new, event = changed(_unforeseen(record), moment, JobUpdated, **changes)
    return new, [event]


def _placed(record: Record, message: Placed, moment: Moment) -> Decision:
    if message.place == record.place:
        return record, []
    new, event = changed(replace(_unforeseen(record), place=message.place), moment, JobUpdated)
    return new, [event]


def _unforeseen(record: Record) -> Record:
    """The job as if nobody had told when it would end: that is to be told anew."""
    return replace(record, foreseen_at=None, foreseen_end=None)


def _file_gone(record: Record, message: FileDeleted, moment: Moment) -> Decision:
    left = tuple(output for output in record.job.outputs if output.file_id != message.file_id)
    if len(left) == len(record.job.outputs):
        return record, []
    new, event = changed(record, moment, JobUpdated, outputs=left)
    return new, [event]


_TOO_LATE = _refuse("too_late", "job {job.code} is {job.state}: its place in the queue can no longer be changed")
_NOT_RETRYABLE = _refuse("not_retryable", "job {job.code} is {job.state}: only failed or cancelled jobs can be retried")
_ENDED = _refuse("too_late", "job {job.code} is already {job.state}")
_BEING_FILED = _refuse("too_late", "job {job.code} has finished and is being filed")

_ANY_TIME: dict[type, Rule] = {FileDeleted: _file_gone}
_LATE_ANSWERS: dict[type, Rule] = {**_ANY_TIME, PromptOptimized: _ignore, OptimizeFailed: _ignore}
_LATE_FACTS: dict[type, Rule] = {
    AttemptStarted: _ignore,
    AttemptFinished: _ignore,
    AttemptFailed: _ignore,
    AttemptCancelled: _ignore,
    AttemptReleased: _ignore,
}

TABLE: dict[JobState, dict[type, Rule]] = {
    JobState.PREPARING: {
        CancelJob: _cancel,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _prioritize,
        Placed: _placed,
        PromptOptimized: _optimized,
        OptimizeFailed: _not_optimized,
        ModelAnnounced: _announced,
        DeadlinePassed: _prepare_deadline,
        **_ANY_TIME,
    },
    JobState.QUEUED: {
        CancelJob: _cancel,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _prioritize,
        Placed: _placed,
        **_LATE_ANSWERS,
        ModelAnnounced: _announced,
        Dispatch: _dispatch,
    },
    JobState.DISPATCHED: {
        CancelJob: _cancel,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _prioritize,
        **_LATE_ANSWERS,
        OfferRepeated: _repeat_offer,
        OfferFenced: _fence,
        AttemptStarted: _started,
        AttemptFinished: _finished,
        AttemptFailed: _failed,
        AttemptCancelled: _stopped,
        AttemptReleased: _released,
        WorkerLost: _lost,
        Adopted: _adopt,
    },
    JobState.RUNNING: {
        CancelJob: _request_cancel,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _TOO_LATE,
        **_LATE_ANSWERS,
        AttemptStarted: _ignore,
        AttemptFinished: _finished,
        AttemptFailed: _failed,
        AttemptCancelled: _stopped,
        AttemptReleased: _released,
        WorkerLost: _lost,
        Adopted: _adopt,
    },
    JobState.FILING: {
        CancelJob: _BEING_FILED,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _TOO_LATE,
        **_LATE_ANSWERS,
        **_LATE_FACTS,
        Filed: _filed,
        FilingFailed: _not_filed,
        DeadlinePassed: _filing_deadline,
    },
    JobState.COMPLETED: {
        CancelJob: _ENDED,
        RetryJob: _NOT_RETRYABLE,
        PrioritizeJob: _TOO_LATE,
        **_LATE_ANSWERS,
        **_LATE_FACTS,
        Filed: _ignore,
        FilingFailed: _ignore,
    },
    JobState.FAILED: {
        CancelJob: _ENDED,
        RetryJob: _retry,
        PrioritizeJob: _TOO_LATE,
        **_LATE_ANSWERS,
        **_LATE_FACTS,
        FilingFailed: _ignore,
    },
    JobState.CANCELLED: {
        CancelJob: _ignore,
        RetryJob: _retry,
        PrioritizeJob: _TOO_LATE,
        **_LATE_ANSWERS,
        **_LATE_FACTS,
        Filed: _ignore,
        FilingFailed: _ignore,
    },
}
"""Every pair of state and message that can happen. A pair that is absent is our bug."""
