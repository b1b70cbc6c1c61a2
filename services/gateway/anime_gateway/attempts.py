"""What this gateway knows of the attempts in work: how far each is, and its last preview picture.

Filled from ledger events and telemetry as they pass, and from the ledger's answers; a frame of an attempt that is not
the current one of a running job changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common.contracts.jobs import Job, JobView
from anime_common.contracts.vocabulary import AttemptProgress, JobState
from anime_gateway import progress
from anime_gateway.public import job_url

if TYPE_CHECKING:
    from anime_common.contracts.jobs import QueueEntry

WITH_A_WORKER = progress.IN_WORK | {JobState.FILING}
MAX_PREVIEWS = 64
MAX_PREVIEW_SIZE = 512 * 1024


@dataclass(frozen=True, slots=True)
class Preview:
    """The last preview picture of an attempt: JPEG bytes, and how many came before."""

    attempt_id: UUID
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """A job that a worker has, and what was told of its attempt."""

    job: Job
    told: AttemptProgress | None = None


class Attempts:
    """The attempts in work, by job."""

    def __init__(self) -> None:
        self._known: dict[UUID, Known] = {}
        self._previews: dict[UUID, Preview] = {}
        self._seen: set[UUID] | None = None

    def __len__(self) -> int:
        """How many attempts are in work."""
        return len(self._known)

    def clear(self) -> None:
        """Forget everything: the streams were replaced."""
        self._known.clear()
        self._previews.clear()

    def see(self, job: Job) -> None:
        """Take in the job of a ledger event."""
        if self._seen is not None:
            self._seen.add(job.id)
        before = self._known.get(job.id)
        if before is not None and (before.job.epoch, before.job.version) > (job.epoch, job.version):
            return
        same = before is not None and before.job.attempt_id == job.attempt_id
        now = Known(job, before.told if before is not None and same else None)
        if job.state in WITH_A_WORKER:
            self._known[job.id] = now
        else:
            self._known.pop(job.id, None)
        if not same or job.state not in WITH_A_WORKER:
            self._previews.pop(job.id, None)

    def tell(self, told: AttemptProgress) -> Known | None:
        """Take in telemetry; returns what is known now, or None when it is not of an attempt in work."""
        known = self._known.get(told.job_id)
        if known is None or known.job.attempt_id != told.attempt_id or known.job.state not in progress.IN_WORK:
            return None
        now = replace(known, told=progress.later(known.told, told))
        self._known[told.job_id] = now
        return now

    def show(self, job_id: UUID, attempt_id: UUID, data: bytes) -> None:
        """Keep the preview picture of a current attempt; the oldest makes room."""
        known = self._known.get(job_id)
        if known is None or known.job.attempt_id != attempt_id or len(data) > MAX_PREVIEW_SIZE:
            return
        before = self._previews.pop(job_id, None)
        number = before.number + 1 if before is not None else 1
        self._previews[job_id] = Preview(attempt_id, number, data)
        while len(self._previews) > MAX_PREVIEWS:
            del self._previews[next(iter(self._previews))]

    def preview(self, job_id: UUID) -> Preview | None:
        """The last preview of a job in work."""
        return self._previews.get(job_id)

    def preview_url(self, job_id: UUID) -> str | None:
        """Where the last preview is; changes with each, so that browsers ask anew."""
        preview = self._previews.get(job_id)
        return f"{job_url(job_id)}/preview?n={preview.number}" if preview is not None else None

    def running(self) -> Iterable[Known]:
        """The attempts in work of which something was told."""
        known = self._known.values()
        return [each for each in known if each.job.state in progress.IN_WORK and each.told is not None]

    def begin_learning(self) -> None:
        """The ledger is about to be asked which jobs run; what happens to a job meanwhile outdates the answer."""
        self._seen = set()

    def learn(self, views: Iterable[JobView]) -> None:
        """Take in the ledger's answer to the question announced by `begin_learning`."""
        seen, self._seen = self._seen or set(), None
        for view in views:
            if view.id not in seen and view.id not in self._known and view.state in WITH_A_WORKER:
                self._known[view.id] = Known(view, progress.told_by(view))

    def view(self, view: JobView) -> JobView:
        """A job from the ledger's answer, with the newest progress of the same attempt."""
        known = self._known.get(view.id)
        if known is None or view.state not in progress.IN_WORK or known.job.attempt_id != view.attempt_id:
            return view
        heard, told = progress.told_by(view), known.told
        if heard is not None and (told is None or heard.percent > told.percent):
            self._known[view.id] = replace(known, told=heard)
            told = heard
        if told is None:
            return view
        shown = progress.of_attempt(view.progress, told, self.preview_url(view.id))
        return view.model_copy(update={"progress": shown})

    def compose(self, job: Job, place: QueueEntry | None = None) -> JobView:
        """A job from an event or an answer, with what is known of its attempt."""
        known = self._known.get(job.id)
        told = known.told if known is not None else None
        return progress.with_progress(job, progress.of_job(job, told, place, self.preview_url(job.id)))
