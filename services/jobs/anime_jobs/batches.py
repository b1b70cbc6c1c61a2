"""Batches: accepted, found and moved inside one transaction each.

Whoever locks jobs and their batch locks the jobs first, in order, then the batch: as a fact that ends a last job does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anime_common.contracts.batches import (
    Axis,
    Batch,
    BatchChanged,
    BatchEnded,
    BatchMoved,
    BatchOffer,
    BatchPage,
    BatchQuery,
    BatchRef,
    CancelBatch,
    CreateBatch,
    NewBatch,
    RetryBatch,
    Sample,
    Sheet,
    SheetCell,
    UpdateBatch,
)
from anime_common.contracts.jobs import CancelJob, JobAccepted, JobChanges, PrioritizeJob, QueueEntry, RetryJob
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Message, Outgoing, uuid8
from anime_common.outbox import MAX_MESSAGE
from anime_common.outcomes import Refused, not_found
from anime_jobs import projects, store
from anime_jobs.admission import Place
from anime_jobs.changes import outgoing
from anime_jobs.codes import new_code
from anime_jobs.dynamic import DynamicPrompts
from anime_jobs.expansion import LABEL, Cell, Plan, expand, sheet_plan
from anime_jobs.model import optimize
from anime_jobs.preparing import Prepared, accepted, prepare
from anime_jobs.projects import check_version

if TYPE_CHECKING:
    from anime_jobs.books import Books
    from anime_jobs.handlers import Ledger

SAMPLES = 8
"""How many of its jobs an offer shows."""
MOST_BYTES = MAX_MESSAGE - (16 << 10)
"""Of the end of a batch, its headers and its growing numbers left aside."""
CLIENT = "gateway"
"""Batches come from people, through the gateway; other services submit jobs one by one."""

_COUNTS = (
    "(SELECT coalesce(jsonb_object_agg(c.state, c.n), '{}'::jsonb) FROM"
    " (SELECT j.state, count(*) AS n FROM jobs j WHERE j.batch_id = b.id GROUP BY j.state) c)"
)
_SELECT = (
    f"SELECT b.*, p.slug AS project, {_COUNTS} AS counts"  # noqa: S608 - our own text
    " FROM batches b JOIN projects p ON p.id = b.project_id"
)


def _batch(row: Mapping[str, Any]) -> Batch:
    counts = {JobState(state): count for state, count in row["counts"].items()}
    ended = sum(count for state, count in counts.items() if state.ended)
    percent = round(100 * ended / row["total"], 1) if row["total"] else 100.0
    return Batch.model_validate(dict(row) | {"counts": counts, "percent": percent}, extra="ignore")


async def find(connection: store.Connection, ref: BatchRef, *, update: bool = False) -> Batch:
    """A batch by id or code; raises Refused (404)."""
    row = await _row(connection, ref.batch, update=update)
    if row is None:
        raise not_found("batch", ref.batch, "batch")
    return _batch(row)


async def _row(connection: store.Connection, ref: str, *, update: bool = False) -> Any:
    wanted, column = store.reference(ref)
    suffix = " FOR UPDATE OF b" if update else ""
    return await connection.fetchrow(f"{_SELECT} WHERE b.{column} = $1{suffix}", wanted)


async def listing(connection: store.Connection, query: BatchQuery) -> BatchPage:
    """Batches, newest first, without their axes."""
    project = None
    if query.project is not None:
        found = await projects.find(connection, query.project, count=False)
        if found is None:
            raise Refused(422, "unknown_project", f"there is no project {query.project!r}", "project")
        project = found.id
    after = _position(query.cursor)
    rows = await connection.fetch(
        f"{_SELECT} WHERE ($1::uuid IS NULL OR b.project_id = $1)"
        " AND ($2::bool IS NULL OR (b.ended_at IS NULL) = $2)"
        " AND ($3::timestamptz IS NULL OR (b.created_at, b.id) < ($3, $4::uuid))"
        " ORDER BY b.created_at DESC, b.id DESC LIMIT $5",
        project,
        query.open,
        *(after or (None, None)),
        query.limit + 1,
    )
    items = tuple(_batch(row).model_copy(update={"axes": ()}) for row in rows[: query.limit])
    return BatchPage(items=items, next=_cursor(items[-1]) if len(rows) > query.limit else None)


def _cursor(last: Batch) -> str:
    return base64.urlsafe_b64encode(f"{last.created_at.isoformat()} {last.id}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[datetime, UUID] | None:
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, ident = text.partition(" ")
        return datetime.fromisoformat(at), UUID(ident)
    except (ValueError, binascii.Error) as error:
        raise Refused(422, "invalid", "not a cursor of this list: use the `next` of its last page", "cursor") from error


@dataclass(frozen=True, slots=True)
class _Made:
    """The jobs of a batch before they are written."""

    plan: Plan
    prepared: Sequence[Prepared]

    @property
    def warnings(self) -> tuple[str, ...]:
        found = (warning for each in self.prepared if each.resolved for warning in each.resolved.warnings)
        return tuple(dict.fromkeys(found))

    def samples(self) -> tuple[Sample, ...]:
        pairs = zip(self.plan.cells[:SAMPLES], self.prepared, strict=False)
        return tuple(
            Sample(
                prompt=each.resolved.settings.prompt if each.resolved else cell.request.prompt,
                seed=cell.request.seed,
                labels=cell.labels,
            )
            for cell, each in pairs
        )


async def create(ledger: Ledger, books: Books, question: CreateBatch) -> tuple[BatchOffer, list[Outgoing]]:
    """Accept a batch, all of its jobs at once; a repeat of the same call answers with the one that is there.

    Raises Refused (409, 422), naming the job at fault by its labels.
    """
    asked = question.batch
    fingerprint = hashlib.sha256(asked.model_dump_json(exclude_defaults=True).encode()).hexdigest()
    existing = await _row(books.connection, str(question.id))
    if existing is not None:
        if existing["asked_hash"] != fingerprint:
            text = f"batch {question.id} exists with another request: an id or Idempotency-Key stands for one request"
            raise Refused(409, "idempotency_conflict", text)
        batch = _batch(existing)
        return BatchOffer(total=batch.total, axes=batch.axes, batch=batch), []
    settings = ledger.settings
    reader = DynamicPrompts(asked.dynamic, settings.wildcards) if asked.dynamic else None
    plan = expand(asked, reader.variants if reader else _as_it_is, settings.batch_limit)
    if asked.sheet is not None:
        sheet_plan(plan.axes, asked.sheet, "", ledger.moment().today)
    made = _Made(plan, [await _prepared(books, cell) for cell in plan.cells])
    if question.dry_run:
        total = len(plan.cells)
        return BatchOffer(total=total, axes=plan.axes, samples=made.samples(), warnings=made.warnings), []
    sent = await _store(ledger, books, question, made, fingerprint)
    await books.write()
    batch = await find(books.connection, BatchRef(batch=str(question.id)))
    sent.append(_told(ledger, batch))
    offer = BatchOffer(total=batch.total, axes=batch.axes, samples=made.samples(), warnings=made.warnings, batch=batch)
    return offer, sent


def _as_it_is(text: str, _limit: int) -> Sequence[str]:
    return (text,)


async def _prepared(books: Books, cell: Cell) -> Prepared:
    try:
        return await prepare(books, cell.request, secrets.randbelow(2**32), cell.take * cell.request.count)
    except Refused as refusal:
        where = ", ".join(f"{axis}: {label}" for axis, label in cell.labels.items())
        text = f"{refusal.message} ({where})" if where else refusal.message
        field = f"request.{refusal.field}" if refusal.field else None
        raise Refused(refusal.status, refusal.code, text, field) from refusal


async def _store(ledger: Ledger, books: Books, question: CreateBatch, made: _Made, fingerprint: str) -> list[Outgoing]:
    at = ledger.moment()
    asked = question.batch
    project = made.prepared[0].project
    stored = await books.connection.fetchval(
        "INSERT INTO batches (id, code, name, client, project_id, asked, asked_hash, axes, total, created_at,"
        " updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10) ON CONFLICT DO NOTHING RETURNING id",
        question.id,
        new_code(),
        asked.name or _title(asked),
        CLIENT,
        project.id,
        asked.model_dump(mode="json", exclude_defaults=True),
        fingerprint,
        [axis.model_dump() for axis in made.plan.axes],
        len(made.plan.cells),
        at.now,
    )
    if stored is None:
        raise store.Conflict(f"the batch {question.id} was accepted meanwhile, or its code is taken")
    sent: list[Message] = []
    for index, (cell, found) in enumerate(zip(made.plan.cells, made.prepared, strict=True)):
        place = Place(question.id, index, cell.labels)
        record = accepted(
            cell.request,
            found,
            job_id=uuid8(question.id, index),
            client=CLIENT,
            epoch=ledger.epoch,
            at=at,
            place=place,
        )
        books.add(record)
        sent.append(JobAccepted(job=record.job))
        if record.state is JobState.PREPARING:
            sent.append(optimize(record))
    return [outgoing(message) for message in sent]


def _title(asked: NewBatch) -> str:
    """What a batch is called that nobody named: how its first prompt begins."""
    text = asked.prompts[0] if asked.prompts else asked.request.prompt
    return " ".join(text.split())[:60]


async def update(ledger: Ledger, books: Books, question: UpdateBatch) -> tuple[BatchMoved, list[Outgoing]]:
    """Rename, pause, resume or prioritise a batch. Raises Refused (404, 412)."""
    batch = await find(books.connection, question)
    changes = question.changes
    moved, sent = 0, list[Outgoing]()
    if changes.priority is not None:
        wanted = JobChanges(priority=changes.priority)
        waiting = (JobState.PREPARING, JobState.QUEUED, JobState.DISPATCHED)
        moved, sent = await _each(ledger, books, batch, waiting, lambda job: PrioritizeJob(job=job, changes=wanted))
    batch = await find(books.connection, question, update=True)
    check_version(question.expected_version, batch.version, "batch")
    name = changes.name if changes.name is not None else batch.name
    paused = changes.paused if changes.paused is not None else batch.paused
    if (name, paused) == (batch.name, batch.paused) and not moved:
        return BatchMoved(jobs=0, batch=batch), []
    if paused != batch.paused:
        moved = moved or sum(batch.counts.get(state, 0) for state in (JobState.PREPARING, JobState.QUEUED))
    return await _changed(ledger, books, batch, moved, sent, name=name, paused=paused)


async def cancel(ledger: Ledger, books: Books, question: CancelBatch) -> tuple[BatchMoved, list[Outgoing]]:
    """Stop every job of a batch that has not ended. Raises Refused (404)."""
    batch = await find(books.connection, question)
    alive = [state for state in JobState if not state.ended and state is not JobState.FILING]
    moved, sent = await _each(ledger, books, batch, alive, lambda job: CancelJob(job=job))
    if not moved:
        return BatchMoved(jobs=0, batch=batch), []
    return await _changed(ledger, books, batch, moved, sent)


async def retry(ledger: Ledger, books: Books, question: RetryBatch) -> tuple[BatchMoved, list[Outgoing]]:
    """Run failed jobs of a batch again. Raises Refused (404)."""
    batch = await find(books.connection, question)
    states = [JobState.FAILED, *([JobState.CANCELLED] if question.cancelled else [])]
    moved, sent = await _each(ledger, books, batch, states, lambda job: RetryJob(job=job), code=question.code)
    if not moved:
        return BatchMoved(jobs=0, batch=batch), []
    return await _changed(ledger, books, batch, moved, sent)


async def _each(
    ledger: Ledger,
    books: Books,
    batch: Batch,
    states: Iterable[JobState],
    order: Callable[[str], Message],
    code: str | None = None,
) -> tuple[int, list[Outgoing]]:
    """Give an order to every job of a batch in these states; returns how many it changed, and what to send."""
    rows = await books.connection.fetch(
        "SELECT id FROM jobs WHERE batch_id = $1 AND state = ANY($2) AND ($3::text IS NULL OR error ->> 'code' = $3)"
        " ORDER BY id",
        batch.id,
        [state.value for state in states],
        code,
    )
    moved, sent = 0, list[Outgoing]()
    at = ledger.moment()
    for record in await books.find_all([row["id"] for row in rows]):
        if record.state not in set(states):
            continue
        after, messages = books.advance(record, order(str(record.job.id)), at)
        moved += after is not record
        sent += messages
    return moved, sent


async def _changed(
    ledger: Ledger, books: Books, batch: Batch, moved: int, sent: list[Outgoing], **columns: Any
) -> tuple[BatchMoved, list[Outgoing]]:
    """Write a changed batch with its jobs, and tell of both."""
    names = list(columns)
    settings = "".join(f", {name} = ${number}" for number, name in enumerate(names, start=2))
    await books.connection.execute(
        f"UPDATE batches SET version = version + 1, updated_at = now(){settings} WHERE id = $1",  # noqa: S608 - our own names
        batch.id,
        *columns.values(),
    )
    await books.write()
    found = await find(books.connection, BatchRef(batch=str(batch.id)))
    return BatchMoved(jobs=moved, batch=found), [*sent, _told(ledger, found)]


def _told(ledger: Ledger, batch: Batch) -> Outgoing:
    return outgoing(BatchChanged(batch_id=batch.id, epoch=ledger.epoch, batch=batch))


async def end(connection: store.Connection, batch_ids: Iterable[UUID], epoch: int, today: date) -> list[Outgoing]:
    """Note the batches of which every job has ended, once each, and say so; their rows are locked in order.

    Whoever ends the last job of a batch holds its row, and sees what others have committed before.
    """
    ids = sorted(set(batch_ids))
    await connection.execute("SELECT 1 FROM batches WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", ids)
    rows = await connection.fetch(
        "UPDATE batches b SET ended_at = now(), updated_at = now(), version = version + 1"
        " WHERE b.id = ANY($1::uuid[]) AND b.ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM jobs j"
        "   WHERE j.batch_id = b.id AND j.state NOT IN ('completed', 'failed', 'cancelled')) RETURNING b.id, b.asked",
        ids,
    )
    sent: list[Outgoing] = []
    for row in rows:
        batch = await find(connection, BatchRef(batch=str(row["id"])))
        sheet = NewBatch.model_validate(row["asked"]).sheet
        # The axes stand in the plan: twice in one event they could be too much for it.
        event = BatchEnded(batch_id=batch.id, epoch=epoch, batch=batch.model_copy(update={"axes": ()}))
        if sheet is not None:
            event = await _with_sheet(connection, event, batch.axes, sheet, today)
        sent.append(outgoing(event))
    return sent


async def reopen(connection: store.Connection, batch_ids: Iterable[UUID]) -> None:
    """Jobs of batches that may have ended wait again."""
    await connection.execute(
        "UPDATE batches SET ended_at = NULL, updated_at = now(), version = version + 1"
        " WHERE id = ANY($1::uuid[]) AND ended_at IS NOT NULL",
        sorted(set(batch_ids)),
    )


async def _with_sheet(
    connection: store.Connection, event: BatchEnded, axes: Sequence[Axis], sheet: Sheet, today: date
) -> BatchEnded:
    plan = sheet_plan(axes, sheet, event.batch.name, today)
    rows = await connection.fetch(
        "SELECT labels, outputs FROM jobs WHERE batch_id = $1 AND state = 'completed' ORDER BY batch_index",
        event.batch_id,
    )
    cells = [
        (
            number,
            SheetCell(
                file_id=output["file_id"],
                row=_place(plan.rows, row["labels"].get(plan.row_axis)),
                column=_place(plan.columns, row["labels"].get(plan.column_axis)),
                label=_others(axes, row["labels"], {plan.row_axis, plan.column_axis}),
            ),
        )
        for row in rows
        for number, output in enumerate(row["outputs"])
    ]
    room = MOST_BYTES - len(event.model_copy(update={"plan": plan}).body())
    shown = _that_fit(cells, room)
    plan = plan.model_copy(update={"more": len(cells) - len(shown)})
    return event.model_copy(update={"plan": plan, "cells": shown})


def _that_fit(cells: Sequence[tuple[int, SheetCell]], room: int) -> tuple[SheetCell, ...]:
    """The cells that fit into so many bytes, in their order; each comes with its number among those of its job.

    First pictures go first, so that all jobs are shown before one of them is shown twice.
    """
    kept: set[int] = set()
    for index in sorted(range(len(cells)), key=lambda index: cells[index][0]):
        room -= len(cells[index][1].model_dump_json().encode()) + 1
        if room < 0:
            break
        kept.add(index)
    return tuple(cell for index, (_, cell) in enumerate(cells) if index in kept)


def _place(values: Sequence[str], label: str | None) -> int:
    return values.index(label) if label in values else 0


def _others(axes: Sequence[Axis], labels: Mapping[str, str], told: set[str]) -> str:
    several = [axis.name for axis in axes if len(axis.values) > 1 and axis.name not in told]
    return ", ".join(labels[name] for name in several if name in labels)[:LABEL]


async def show_sheet(
    connection: store.Connection, batch_id: UUID, version: int, file_id: UUID, epoch: int
) -> list[Outgoing]:
    """A contact sheet lies in the library; one of an earlier end of the batch changes nothing."""
    row = await connection.fetchrow(
        "UPDATE batches SET sheet = $3, version = version + 1, updated_at = now()"
        " WHERE id = $1 AND version >= $2 AND sheet IS DISTINCT FROM $3 RETURNING id",
        batch_id,
        version,
        file_id,
    )
    if row is None:
        return []
    batch = await find(connection, BatchRef(batch=str(batch_id)))
    return [outgoing(BatchChanged(batch_id=batch.id, epoch=epoch, batch=batch))]


async def forget_sheet(connection: store.Connection, file_id: UUID, epoch: int) -> list[Outgoing]:
    """A file has left the library: it is no contact sheet any more."""
    rows = await connection.fetch(
        "UPDATE batches SET sheet = NULL, version = version + 1, updated_at = now() WHERE sheet = $1 RETURNING id",
        file_id,
    )
    found = [await find(connection, BatchRef(batch=str(row["id"]))) for row in rows]
    return [outgoing(BatchChanged(batch_id=batch.id, epoch=epoch, batch=batch)) for batch in found]


def estimate(batch: Batch, entries: Sequence[QueueEntry]) -> float | None:
    """Seconds until the last job of a batch ends, from the places of its waiting jobs that are announced.

    Of a batch that reaches further back than those, the rest is taken to go on at the same pace. None while it is
    paused, or while nobody can know.
    """
    etas = [entry.eta_seconds for entry in entries if entry.batch_id == batch.id and entry.eta_seconds is not None]
    waiting = batch.counts.get(JobState.QUEUED, 0) + batch.counts.get(JobState.PREPARING, 0)
    if batch.paused or not waiting or not etas:
        return None
    return round(max(etas) * max(waiting / len(etas), 1.0), 1)
