"""The one progress contract, composed from what the ledger says and what the worker tells. Pure."""

from __future__ import annotations

from anime_common.contracts.jobs import Job, JobView, QueueEntry
from anime_common.contracts.vocabulary import AttemptProgress, JobState, Progress

ALMOST = 99.0
"""The most that is shown until a job is completed."""

IN_WORK = frozenset({JobState.DISPATCHED, JobState.RUNNING})
"""States in which a worker tells how far it is."""


def of_job(
    job: Job, told: AttemptProgress | None = None, place: QueueEntry | None = None, preview_url: str | None = None
) -> Progress:
    """The progress of a job as of its last event; `told` counts only if it is of the job's current attempt."""
    told = told if told is not None and told.attempt_id == job.attempt_id else None
    progress = Progress(job_id=job.id, state=job.state, attempt_id=job.attempt_id, message=job.message)
    match job.state:
        case JobState.PREPARING | JobState.QUEUED if place is not None:
            return of_place(place)
        case JobState.DISPATCHED | JobState.RUNNING if told is not None:
            return of_attempt(progress, told, preview_url)
        case JobState.FILING:
            return progress.model_copy(update={"percent": ALMOST, "preview_url": preview_url})
        case JobState.COMPLETED:
            return progress.model_copy(update={"percent": 100.0})
        case JobState.FAILED | JobState.CANCELLED if job.reached is not None:
            return progress.model_copy(update=job.reached.model_dump())
        case _:
            return progress


def of_attempt(progress: Progress, told: AttemptProgress, preview_url: str | None) -> Progress:
    """`progress` of a running job with what its worker tells of the attempt."""
    return progress.model_copy(
        update={
            "phase": told.phase,
            "step": told.step,
            "steps": told.steps,
            "percent": min(told.percent, ALMOST),
            "eta_seconds": told.eta_seconds,
            "preview_url": preview_url,
        }
    )


def of_place(place: QueueEntry) -> Progress:
    """The progress of a waiting job from its place in the queue."""
    return Progress(
        job_id=place.job_id,
        state=place.state,
        position=place.position,
        eta_seconds=place.eta_seconds,
        message=place.message,
    )


def told_by(view: JobView) -> AttemptProgress | None:
    """What the ledger heard of a running attempt, in the shape that workers tell it."""
    progress = view.progress
    if view.state not in IN_WORK or view.attempt_id is None or progress.phase is None:
        return None
    return AttemptProgress(
        job_id=view.id,
        attempt_id=view.attempt_id,
        phase=progress.phase,
        step=progress.step,
        steps=progress.steps,
        percent=min(progress.percent, ALMOST),
        eta_seconds=progress.eta_seconds,
    )


def later(known: AttemptProgress | None, told: AttemptProgress) -> AttemptProgress:
    """What is known after hearing `told`: within an attempt the percentage never falls."""
    if known is None or known.attempt_id != told.attempt_id or told.percent >= known.percent:
        return told
    return told.model_copy(update={"percent": known.percent})


def with_progress(job: Job, progress: Progress) -> JobView:
    """A job with its progress."""
    fields = {name: getattr(job, name) for name in Job.model_fields}
    return JobView.model_construct(**fields, progress=progress)
