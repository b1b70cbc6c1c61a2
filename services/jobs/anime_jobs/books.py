"""The jobs of one transaction: locked and read at once, decided about in memory, written at once at its end.

Statements are most of what a job costs the ledger, so a batch of messages shares them: one locks and reads all jobs,
one a kind of change writes them, and what several submits ask is asked once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common import outbox
from anime_common.contracts.casting import Cast
from anime_common.contracts.files import FilingFailed
from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import CancelJob
from anime_common.contracts.projects import Project
from anime_common.contracts.vocabulary import JobState, ModelInfo
from anime_common.messages import Outgoing
from anime_jobs import batches, characters, projects, roster, store
from anime_jobs.changes import outgoing
from anime_jobs.composition import Member
from anime_jobs.model import WORKER_LOST, Dispatch, Moment, OfferFenced, Record, WorkerLost, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anime_common.consume import Delivery

OUTCOMES: dict[type, str] = {
    AttemptFinished: "finished",
    AttemptFailed: "failed",
    AttemptCancelled: "cancelled",
    AttemptReleased: "released",
    WorkerLost: "lost",
    OfferFenced: "fenced",
    CancelJob: "cancelled",
}
_OWNED = (JobState.DISPATCHED, JobState.RUNNING)


@dataclass(slots=True)
class Books:
    """Made by `opened`. What is decided about a job is seen by whoever finds it afterwards, and written at the end."""

    connection: store.Connection
    _read: dict[UUID, Record]
    _absent: set[UUID]
    _now: dict[UUID, Record] = field(init=False)
    _added: list[UUID] = field(default_factory=list)
    _opened: list[Record] = field(default_factory=list)
    _started: list[tuple[UUID, datetime]] = field(default_factory=list)
    _ended: list[store.AttemptEnd] = field(default_factory=list)
    _unfiled: list[store.AttemptEnd] = field(default_factory=list)
    _spent: list[tuple[UUID, AttemptFinished | AttemptFailed]] = field(default_factory=list)
    _models: list[ModelInfo] | None = None
    _projects: dict[str, Project | None] = field(default_factory=dict)
    _casts: dict[tuple[UUID, Cast], tuple[Member, ...]] = field(default_factory=dict)
    _finished: dict[UUID, Moment] = field(default_factory=dict)
    _reopened: dict[UUID, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._now = dict(self._read)

    async def find(self, ref: UUID | str) -> Record | None:
        """A job by id or code, locked, as it is after what was decided so far."""
        if isinstance(ref, UUID):
            if ref in self._now:
                return self._now[ref]
            if ref in self._absent:
                return None
        record = await store.find(self.connection, ref, update=True)
        if record is None:
            return None
        self._read.setdefault(record.job.id, record)
        return self._now.setdefault(record.job.id, record)

    def add(self, record: Record) -> None:
        """Add a new job."""
        self._now[record.job.id] = record
        self._added.append(record.job.id)

    def advance(self, record: Record, message: object, at: Moment) -> tuple[Record, list[Outgoing]]:
        """Apply a message to a job that was found here; returns the changed job and what to send."""
        after, messages = decide(record, message, at)
        self._now[record.job.id] = after
        self._keep_attempt(record, after, message, at)
        if after.job.batch_id is not None and after.state.ended != record.state.ended:
            if after.state.ended:
                self._finished[after.job.batch_id] = at
            else:
                self._reopened[after.job.batch_id] = None
        return after, [outgoing(each) for each in messages]

    def _keep_attempt(self, before: Record, after: Record, message: object, at: Moment) -> None:
        if isinstance(message, Dispatch):
            self._opened.append(after)
        attempt = before.job.attempt_id
        if attempt is None:
            return
        if isinstance(message, FilingFailed) and before.state is JobState.FILING and after is not before:
            self._unfiled.append(_end(attempt, "finished", after, message, at))
        if before.state not in _OWNED:
            return
        if isinstance(message, AttemptStarted):
            self._started.append((attempt, message.started_at))
        elif after.state not in _OWNED and (outcome := OUTCOMES.get(type(message))) is not None:
            self._ended.append(_end(attempt, outcome, after, message, at))
            if isinstance(message, AttemptFinished | AttemptFailed):
                self._spent.append((attempt, message))

    async def models(self) -> list[ModelInfo]:
        """Every model ever announced, the default first."""
        if self._models is None:
            self._models = await roster.models(self.connection)
        return self._models

    async def project(self, ref: str) -> Project | None:
        """A project by id or slug, its jobs not counted."""
        if ref not in self._projects:
            self._projects[ref] = await projects.find(self.connection, ref, count=False)
        return self._projects[ref]

    async def find_all(self, ids: Sequence[UUID]) -> list[Record]:
        """Jobs by id, locked all at once, as they are after what was decided so far."""
        for ident, record in (
            await store.lock(self.connection, [each for each in ids if each not in self._now])
        ).items():
            self._read.setdefault(ident, record)
            self._now.setdefault(ident, record)
        return [self._now[ident] for ident in ids if ident in self._now]

    async def cast(self, project_id: UUID, uses: Cast) -> tuple[Member, ...]:
        """The characters that a request names, each cast looked up once."""
        if (project_id, uses) not in self._casts:
            self._casts[project_id, uses] = await characters.cast(self.connection, project_id, uses)
        return self._casts[project_id, uses]

    async def write(self) -> None:
        """Store all that was decided, once; raises Conflict when somebody else was first."""
        await store.insert(self.connection, [self._now[ident] for ident in self._added])
        await store.save(self.connection, [(before, self._now[ident]) for ident, before in self._read.items()])
        await store.open_attempts(self.connection, self._opened)
        await store.start_attempts(self.connection, self._started)
        await store.spend_attempts(self.connection, self._spent)
        await store.end_attempts(self.connection, self._ended)
        await store.unfiled_attempts(self.connection, self._unfiled)
        await self._end_batches()
        self._settle()

    async def _end_batches(self) -> None:
        if self._reopened:
            await batches.reopen(self.connection, self._reopened)
        if not self._finished:
            return
        today = max(at.today for at in self._finished.values())
        epoch = await store.epoch(self.connection)
        await outbox.add(self.connection, await batches.end(self.connection, self._finished, epoch, today), "jobs")

    def _settle(self) -> None:
        """What was written is what was read: writing again changes nothing."""
        self._read = dict(self._now)
        for each in (
            self._added,
            self._opened,
            self._started,
            self._ended,
            self._spent,
            self._unfiled,
            self._finished,
            self._reopened,
        ):
            each.clear()


def _end(attempt: UUID, outcome: str, after: Record, message: object, at: Moment) -> store.AttemptEnd:
    """What is kept of an attempt's end. The job's own error may be of an earlier attempt: the message's is taken."""
    code: str | None = None
    text: str | None = None
    match message:
        case AttemptFailed() | FilingFailed():
            code, text = message.code, message.message
        case WorkerLost():
            code, text = WORKER_LOST, message.reason
        case AttemptReleased():
            text = message.reason
    delay: float | None = None
    if after.state is JobState.QUEUED:
        delay = (after.next_try_at - at.now).total_seconds() if after.next_try_at is not None else 0.0
    reached = message.reached if isinstance(message, AttemptFailed | AttemptCancelled | WorkerLost) else None
    ended = message.finished_at if isinstance(message, AttemptFinished) else at.now
    return store.AttemptEnd(attempt, outcome, ended, text, code, delay, reached)


@asynccontextmanager
async def opened(connection: store.Connection, ids: Iterable[UUID]) -> AsyncIterator[Books]:
    """Books about these jobs, all locked, for one block of a transaction; written when it ends well."""
    wanted = set(ids)
    found = await store.lock(connection, wanted)
    books = Books(connection, found, wanted - found.keys())
    yield books
    await books.write()


@asynccontextmanager
async def of_batch(connection: store.Connection, batch: Sequence[Delivery]) -> AsyncIterator[Books]:
    """Books about every job that a batch of messages names by its id."""
    ids = [getattr(delivery.message, "job_id", None) for delivery in batch]
    async with opened(connection, [each for each in ids if isinstance(each, UUID)]) as books:
        yield books
