"""What the ledger does with commands and facts: load, decide, save guarded, answer; inside one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from anime_common.consume import Delivery
from anime_common.contracts.echo import OptimizeFailed, PromptOptimized
from anime_common.contracts.files import Filed, FileDeleted, FilingFailed, SheetFailed, SheetMade
from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import (
    CancelJob,
    CommandDone,
    CommandRefused,
    Job,
    JobAccepted,
    PrioritizeJob,
    RetryJob,
    SubmitJob,
)
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import TOKEN, Message, Outgoing
from anime_common.outcomes import Refused, not_found
from anime_jobs import admission, batches, projects, store
from anime_jobs.books import Books
from anime_jobs.changes import moment, outgoing
from anime_jobs.metrics import ENDED, ETA_RATIO, SUBMITTED
from anime_jobs.model import Moment, Placed, Record, optimize
from anime_jobs.moving import place_for
from anime_jobs.preparing import accepted, prepare

if TYPE_CHECKING:
    from anime_common.pull import Pulled
    from anime_jobs.settings import JobsSettings


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the handlers need: settings and the epoch."""

    settings: JobsSettings
    epoch: int

    def moment(self) -> Moment:
        """Now, for a decision."""
        return moment(self.settings.policy(), self.settings.zone())


Handler = Callable[[Ledger, Books, Delivery], Awaitable[Sequence[Outgoing]]]


async def on_submit(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """Make a job, or answer with the one that is there; a refusal is kept by job id."""
    command: Any = delivery.message
    client = delivery.envelope.last_token
    try:
        return await _accept(ledger, books, command, client, delivery.id)
    except Refused as refusal:
        answer = refused(ledger, delivery.id, client, refusal, command.job_id)
        await store.refuse(books.connection, command.job_id, delivery.id, client, answer.message.model_dump())
        SUBMITTED.labels(outcome=refusal.code).inc()
        return [answer]


async def _accept(ledger: Ledger, books: Books, command: SubmitJob, client: str, command_id: str) -> Sequence[Outgoing]:
    fingerprint = admission.request_hash(client, command.request)
    existing = await books.find(command.job_id)
    if existing is not None:
        return [_replayed(ledger, existing, fingerprint, command_id, client)]
    at = ledger.moment()
    if command.expires_at is not None and command.expires_at < at.now:
        raise Refused(410, "expired", f"the submit expired at {command.expires_at.isoformat()}", "expires_at")
    admission.check_client(client, command.request)
    found = await prepare(books, command.request, secrets.randbelow(2**32))
    record = accepted(command.request, found, job_id=command.job_id, client=client, epoch=ledger.epoch, at=at)
    books.add(record)
    SUBMITTED.labels(outcome="accepted").inc()
    messages: list[Message] = [JobAccepted(job=record.job)]
    if record.state is JobState.PREPARING:
        messages.append(optimize(record))
    return [*map(outgoing, messages), done(ledger, command_id, client, 201, record.job)]


def _replayed(ledger: Ledger, existing: Record, fingerprint: str, command_id: str, client: str) -> Outgoing:
    if existing.request_hash != fingerprint:
        text = f"job {existing.job.id} exists with another request: an id or Idempotency-Key stands for one request"
        raise Refused(409, "idempotency_conflict", text)
    return done(ledger, command_id, client, 200, existing.job)


async def on_command(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """Cancel or retry a job, or change when it runs; exactly one answer."""
    command: Any = delivery.message
    client = delivery.envelope.last_token
    job_id: UUID | None = None
    try:
        record = await books.find(command.job)
        if record is None:
            raise not_found("job", command.job)
        job_id = record.job.id
        after, messages = books.advance(record, command, ledger.moment())
    except Refused as refusal:
        return [refused(ledger, delivery.id, client, refusal, job_id)]
    _count_end(record, after)
    return [*messages, done(ledger, delivery.id, client, 200, after.job)]


async def on_prioritize(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """Change when a job runs, and where it stands among the others; all of it, or nothing."""
    command: Any = delivery.message
    if not command.changes.moves:
        return await on_command(ledger, books, delivery)
    client = delivery.envelope.last_token
    job_id: UUID | None = None
    try:
        record = await books.find(command.job)
        if record is None:
            raise not_found("job", command.job)
        job_id = record.job.id
        place = await place_for(books, record, command.changes, ledger.moment().now)
    except Refused as refusal:
        return [refused(ledger, delivery.id, client, refusal, job_id)]
    changed, messages = books.advance(record, command, ledger.moment())
    placed, moved = books.advance(changed, Placed(place), ledger.moment())
    return [*messages, *moved, done(ledger, delivery.id, client, 200, placed.job)]


async def on_fact(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """A service reports about a job; facts of another epoch or about unknown jobs change nothing."""
    fact: Any = delivery.message
    if fact.job_id is None or (fact.epoch != ledger.epoch and not isinstance(fact, FileDeleted)):
        return []
    record = await books.find(fact.job_id)
    if record is None:
        return []
    after, messages = books.advance(record, fact, ledger.moment())
    _count_end(record, after)
    return messages


async def on_file_gone(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """A file has left the library: it is no output of its job, and no cover of a project, any more."""
    fact: Any = delivery.message
    uncovered = await projects.forget_cover(books.connection, fact.file_id, ledger.epoch)
    unsheeted = await batches.forget_sheet(books.connection, fact.file_id, ledger.epoch)
    return [*uncovered, *unsheeted, *await on_fact(ledger, books, delivery)]


async def on_sheet(ledger: Ledger, books: Books, delivery: Delivery) -> Sequence[Outgoing]:
    """The contact sheet of a batch lies in the library, or none could be made, which changes nothing."""
    fact: Any = delivery.message
    if isinstance(fact, SheetFailed):
        log.warning("sheet_failed", batch_id=str(fact.batch_id), reason=fact.reason)
        return []
    return await batches.show_sheet(books.connection, fact.batch_id, fact.batch_version, fact.file.id, ledger.epoch)


def _count_end(before: Record, after: Record) -> None:
    if after.state.ended and not before.state.ended:
        ENDED.labels(state=after.state.value).inc()
    if after.state is JobState.COMPLETED and before.state is not JobState.COMPLETED:
        if after.foreseen_at is None or after.foreseen_end is None or after.job.ended_at is None:
            return
        took = (after.job.ended_at - after.foreseen_at).total_seconds()
        ETA_RATIO.observe((after.foreseen_end - after.foreseen_at).total_seconds() / max(took, 0.001))


def done(ledger: Ledger, command_id: str, client: str, status: int, job: Job) -> Outgoing:
    """The answer to a command that was carried out."""
    answer = CommandDone(command_id=command_id, client=client, status=status, job=job)
    return Outgoing(answer, answer.ident(epoch=ledger.epoch))


def refused(ledger: Ledger, command_id: str, client: str, refusal: Refused, job_id: UUID | None) -> Outgoing:
    """The answer to a command that was refused."""
    answer = CommandRefused(
        command_id=command_id,
        client=client,
        status=refusal.status,
        code=refusal.code,
        message=refusal.message,
        field=refusal.field,
        job_id=job_id,
    )
    return Outgoing(answer, answer.ident(epoch=ledger.epoch))


def dead_command(ledger: Ledger, message: Pulled, reason: str, field: str | None) -> Outgoing | None:
    """The answer to a command that cannot be handled at all; None when it does not even name itself."""
    command_id, client = message.headers.get("ce-id", ""), message.subject.rsplit(".", 1)[-1]
    if not TOKEN.fullmatch(command_id):
        return None
    return refused(ledger, command_id, client, Refused(422, "dead_letter", reason, field), None)


HANDLERS: Mapping[type[Message], Handler] = {
    SubmitJob: on_submit,
    CancelJob: on_command,
    RetryJob: on_command,
    PrioritizeJob: on_prioritize,
    PromptOptimized: on_fact,
    OptimizeFailed: on_fact,
    AttemptStarted: on_fact,
    AttemptFinished: on_fact,
    AttemptFailed: on_fact,
    AttemptCancelled: on_fact,
    AttemptReleased: on_fact,
    Filed: on_fact,
    FilingFailed: on_fact,
    FileDeleted: on_file_gone,
    SheetMade: on_sheet,
    SheetFailed: on_sheet,
}
