"""The queue as people see it: places, estimates, reasons to wait; and the progress of one job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from anime_common.contracts.generator import HeldAttempt
from anime_common.contracts.jobs import JobView, QueueEntry
from anime_common.contracts.vocabulary import JobState, Progress
from anime_jobs.forecasting import Forecast
from anime_jobs.line import Hold, Lined
from anime_jobs.model import Record
from anime_jobs.scheduler import Worker

PLACES = 500
"""How many places of the queue are announced one by one."""


def entries(
    forecasts: Sequence[Forecast],
    ready: Mapping[UUID, Lined],
    sleeping: Iterable[Lined],
    workers: Sequence[Worker],
    now: datetime,
    hold: Hold,
) -> list[QueueEntry]:
    """The places of the ready jobs, then those that wait for a time, a model, Echo, or to be resumed."""
    found = [
        _entry(ready[each.job_id], each.position, each.eta_seconds, why_ready(ready[each.job_id], workers, hold))
        for each in forecasts
    ]
    for position, lined in enumerate(sleeping, start=len(found) + 1):
        found.append(_entry(lined, position, None, why_sleeping(lined, now)))
    return found[:PLACES]


def _entry(lined: Lined, position: int, eta: float | None, message: str | None) -> QueueEntry:
    return QueueEntry(
        job_id=lined.job_id,
        code=lined.code,
        position=position,
        eta_seconds=None if eta is None else round(eta, 1),
        state=lined.state,
        priority=lined.priority,
        project=lined.project,
        batch_id=lined.batch_id,
        message=message or lined.message,
    )


def why_ready(lined: Lined, workers: Sequence[Worker], hold: Hold) -> str | None:
    """Why a job that could run does not: all is held back, or no live worker has its model, or all of its LoRAs."""
    if hold.since is not None:
        return f"the queue is paused{f': {hold.reason}' if hold.reason else ''}"
    job = lined.waiting
    if job is None or any(worker.able(job) for worker in workers):
        return None
    if all(job.model not in worker.models for worker in workers):
        return f"waits for a worker with the model {job.model}"
    return f"waits for a worker with the model {job.model} and the LoRAs {', '.join(sorted(job.loras))}"


def why_sleeping(lined: Lined, now: datetime) -> str | None:
    """Why a job may not run yet."""
    if lined.state is JobState.PREPARING:
        return "Echo improves the prompt"
    if lined.paused or lined.batch_paused or lined.project_paused:
        return "paused" if lined.paused else f"its {'batch' if lined.batch_paused else 'project'} is paused"
    if lined.not_before is not None and lined.not_before > now:
        return f"not before {lined.not_before.isoformat(timespec='seconds')}"
    if lined.next_try_at is not None and lined.next_try_at > now:
        return f"{lined.message or 'tried again'}; next try {lined.next_try_at.isoformat(timespec='seconds')}"
    if lined.waiting is None:
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
    elif job.reached is not None:
        update = job.reached.model_dump()
    elif held is not None and job.state in {JobState.RUNNING, JobState.DISPATCHED}:
        update = held.model_dump(include={"phase", "step", "steps", "percent", "eta_seconds"})
    elif entry is not None:
        update = {"position": entry.position, "eta_seconds": entry.eta_seconds, "message": entry.message}
    return JobView(**dict(job), progress=progress.model_copy(update=update))
