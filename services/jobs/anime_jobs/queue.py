"""The queue as people see it: places, estimates, reasons to wait; and the progress of one job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from anime_common.contracts.generator import HeldAttempt
from anime_common.contracts.jobs import JobView, QueueEntry
from anime_common.contracts.vocabulary import JobState, Progress
from anime_jobs.model import Record
from anime_jobs.scheduler import Forecast, Waiting, Worker, ready_since

PLACES = 500
"""How many places of the queue are announced one by one."""


def waiting_of(record: Record) -> Waiting | None:
    """What the scheduler needs to know of a queued job; None while its model is not known."""
    job = record.job
    if job.settings is None or job.queued_at is None:
        return None
    settings = job.settings
    return Waiting(
        job_id=job.id,
        project_id=job.project_id,
        priority=job.priority,
        created_at=job.created_at,
        ready_at=ready_since(job.queued_at, job.not_before, record.next_try_at),
        model=settings.model,
        batch_key=settings.batch_key(),
        work=float(settings.width * settings.height * settings.steps * settings.count),
        pictures=settings.count,
        alone=record.run_alone,
    )


def entries(
    forecasts: Sequence[Forecast],
    waiting: Mapping[UUID, Record],
    sleeping: Iterable[Record],
    workers: Sequence[Worker],
    now: datetime,
) -> list[QueueEntry]:
    """The places of the ready jobs, then those that wait for a time, a model, Echo, or to be resumed."""
    runnable = frozenset().union(*(worker.models for worker in workers)) if workers else frozenset[str]()
    found = [
        _entry(waiting[each.job_id], each.position, each.eta_seconds, why_ready(waiting[each.job_id], runnable))
        for each in forecasts
    ]
    for position, record in enumerate(sleeping, start=len(found) + 1):
        found.append(_entry(record, position, None, why_sleeping(record, now)))
    return found[:PLACES]


def _entry(record: Record, position: int, eta: float | None, message: str | None) -> QueueEntry:
    job = record.job
    return QueueEntry(
        job_id=job.id,
        code=job.code,
        position=position,
        eta_seconds=None if eta is None else round(eta, 1),
        state=job.state,
        priority=job.priority,
        project=job.project,
        message=message or job.message,
    )


def why_ready(record: Record, runnable: frozenset[str]) -> str | None:
    """Why a job that could run does not: no live worker has its model."""
    settings = record.job.settings
    if settings is not None and settings.model not in runnable:
        return f"waits for a worker with the model {settings.model}"
    return None


def why_sleeping(record: Record, now: datetime) -> str | None:
    """Why a job may not run yet."""
    job = record.job
    if job.state is JobState.PREPARING:
        return "Echo improves the prompt"
    if job.paused:
        return "paused"
    if job.not_before is not None and job.not_before > now:
        return f"not before {job.not_before.isoformat(timespec='seconds')}"
    if record.next_try_at is not None and record.next_try_at > now:
        return f"{job.message or 'tried again'}; next try {record.next_try_at.isoformat(timespec='seconds')}"
    if job.settings is None:
        return "waits for a worker that knows its model"
    return None


def view(record: Record, held: HeldAttempt | None, entry: QueueEntry | None) -> JobView:
    """A job with its progress, from the ledger and from what its worker reported last."""
    job = record.job
    progress = Progress(job_id=job.id, state=job.state, attempt_id=job.attempt_id, message=job.message)
    update: dict[str, object] = {}
    if job.state is JobState.COMPLETED:
        update = {"percent": 100.0}
    elif job.state is JobState.FILING:
        update = {"percent": 99.0}
    elif held is not None and job.state in {JobState.RUNNING, JobState.DISPATCHED}:
        update = held.model_dump(include={"phase", "step", "steps", "percent", "eta_seconds"})
    elif entry is not None:
        update = {"position": entry.position, "eta_seconds": entry.eta_seconds, "message": entry.message}
    return JobView(**dict(job), progress=progress.model_copy(update=update))
