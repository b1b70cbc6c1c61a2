"""What the ledger remembers: SQL as functions of a connection. Every change of a job is guarded by its version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from anime_common.contracts.jobs import Job
from anime_common.contracts.vocabulary import JobState, StagedOutput
from anime_jobs.model import Record

Connection = Any
"""An asyncpg connection inside a transaction (or a pooled one)."""

_STAGED: TypeAdapter[tuple[StagedOutput, ...]] = TypeAdapter(tuple[StagedOutput, ...])

_JSON = ("request", "settings", "outputs", "timings", "warnings", "error", "reached")
# fmt: off
_PUBLIC = (
    "id", "code", "version", "epoch", "state", "client", "project_id", "priority", "prompt_note", "not_before",
    "paused", "attempt_id", "attempt", "failures", "worker", "cancel_requested", "parent_id", "message", "created_at",
    "updated_at", "queued_at", "dispatched_at", "started_at", "ended_at",
)
_PRIVATE = (
    "request_hash", "prompt", "negative_prompt", "seed", "traceparent", "incarnation", "offer_id", "repeat", "deadline",
    "next_try_at", "filing_date", "run_alone",
)
# fmt: on
_COLUMNS = (*_PUBLIC, *_JSON, *_PRIVATE, "staged", "end_as")
_FIXED = frozenset(
    {
        "id",
        "code",
        "epoch",
        "client",
        "project_id",
        "request",
        "request_hash",
        "created_at",
        "parent_id",
        "seed",
        "traceparent",
    }
)
_MUTABLE = tuple(name for name in _COLUMNS if name not in _FIXED)

# Statements are put together from our own column names alone; every value is a parameter.
_SELECT = (
    f"SELECT {', '.join(f'j.{name}' for name in _COLUMNS)}, p.slug AS project"  # noqa: S608
    " FROM jobs j JOIN projects p ON p.id = j.project_id"
)
_INSERT = (
    f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join(f'${i + 1}' for i in range(len(_COLUMNS)))})"  # noqa: S608
    " ON CONFLICT DO NOTHING RETURNING id"
)
_UPDATE = (
    f"UPDATE jobs SET {', '.join(f'{name} = ${i + 3}' for i, name in enumerate(_MUTABLE))}"  # noqa: S608
    " WHERE id = $1 AND version = $2 RETURNING id"
)


class Conflict(Exception):
    """A guarded change found another version: somebody else was first. The transaction is to be tried again."""


def _value(record: Record, name: str) -> Any:
    if name in _PRIVATE:
        return getattr(record, name)
    if name == "staged":
        return _STAGED.dump_python(record.staged, mode="json")
    if name == "end_as":
        return record.end_as.value
    value = getattr(record.job, name)
    if name in _JSON:
        return record.job.model_dump(mode="json", include={name})[name]
    return value.value if isinstance(value, JobState) else value


def _record(row: Mapping[str, Any]) -> Record:
    public = {name: row[name] for name in (*_PUBLIC, *_JSON, "project")}
    private = {name: row[name] for name in _PRIVATE}
    staged = _STAGED.validate_python(row["staged"])
    return Record(job=Job.model_validate(public), staged=staged, end_as=JobState(row["end_as"]), **private)


async def epoch(connection: Connection) -> int:
    """The ledger's epoch."""
    return int(await connection.fetchval("SELECT epoch FROM meta"))


async def lock(connection: Connection, ids: Iterable[UUID]) -> None:
    """Lock jobs in a fixed order, so that two transactions never wait for each other in a circle."""
    await connection.execute("SELECT 1 FROM jobs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", sorted(set(ids)))


async def find(connection: Connection, ref: UUID | str, *, update: bool = False) -> Record | None:
    """A job by id or code; locked for a change when `update`."""
    wanted, column = _reference(ref)
    suffix = " FOR UPDATE OF j" if update else ""
    row = await connection.fetchrow(f"{_SELECT} WHERE j.{column} = $1{suffix}", wanted)
    return _record(row) if row else None


def _reference(ref: UUID | str) -> tuple[UUID | str, str]:
    if isinstance(ref, UUID):
        return ref, "id"
    try:
        return UUID(ref), "id"
    except ValueError:
        return ref.lower(), "code"


async def insert(connection: Connection, record: Record) -> bool:
    """Add a job; False when its code is taken."""
    return await connection.fetchval(_INSERT, *(_value(record, name) for name in _COLUMNS)) is not None


async def save(connection: Connection, before: Record, after: Record) -> None:
    """Store a changed job, if nobody changed it since; raises Conflict."""
    if after == before:
        return
    values = [_value(after, name) for name in _MUTABLE]
    if await connection.fetchval(_UPDATE, before.job.id, before.job.version, *values) is None:
        raise Conflict(f"job {before.job.id} is no longer at version {before.job.version}")


async def open_attempt(connection: Connection, record: Record) -> None:
    """Note a new attempt of a dispatched job."""
    job, settings = record.job, record.job.settings
    work = float(settings.width * settings.height * settings.steps * settings.count) if settings else None
    await connection.execute(
        "INSERT INTO attempts (id, job_id, number, offer_id, worker, incarnation, model, work, dispatched_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        job.attempt_id,
        job.id,
        job.attempt,
        record.offer_id,
        job.worker,
        record.incarnation,
        settings.model if settings else None,
        work,
        job.dispatched_at,
    )


async def start_attempt(connection: Connection, attempt_id: UUID, at: datetime) -> None:
    """Note when an attempt was begun."""
    await connection.execute("UPDATE attempts SET started_at = coalesce(started_at, $2) WHERE id = $1", attempt_id, at)


async def end_attempt(connection: Connection, attempt_id: UUID, outcome: str, at: datetime, error: str | None) -> None:
    """Note how an attempt ended; the first end stays."""
    await connection.execute(
        "UPDATE attempts SET outcome = $2, ended_at = $3, error = $4 WHERE id = $1 AND outcome IS NULL",
        attempt_id,
        outcome,
        at,
        error,
    )


async def active(connection: Connection) -> list[Record]:
    """Every job that a worker, Echo or files has in hand."""
    states = "('preparing', 'dispatched', 'running', 'filing')"
    return [_record(row) for row in await connection.fetch(f"{_SELECT} WHERE j.state IN {states} ORDER BY j.id")]


async def unsettled(connection: Connection) -> list[Record]:
    """Waiting jobs whose model is not known yet."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE j.settings IS NULL AND j.state IN ('preparing', 'queued') LIMIT 200"
    )
    return [_record(row) for row in rows]


async def counts(connection: Connection, *, ended: bool) -> dict[JobState, int]:
    """Jobs by state; with `ended` false only those that have not ended, which stays quick however many have."""
    states = [state for state in JobState if ended or not state.ended]
    rows = await connection.fetch(
        "SELECT state, count(*) AS n FROM jobs WHERE state = ANY($1) GROUP BY state", [state.value for state in states]
    )
    return dict.fromkeys(states, 0) | {JobState(row["state"]): row["n"] for row in rows}


async def speeds(connection: Connection) -> dict[str, float]:
    """Median seconds per unit of work (pixels × steps × pictures) of each model, over its last 50 finished attempts."""
    rows = await connection.fetch(
        "SELECT m.key, (SELECT percentile_cont(0.5) WITHIN GROUP"
        "   (ORDER BY extract(epoch FROM a.ended_at - a.started_at) / a.work) FROM (SELECT * FROM attempts"
        "   WHERE model = m.key AND outcome = 'finished' AND started_at IS NOT NULL AND work > 0"
        "   ORDER BY ended_at DESC LIMIT 50) a) AS speed FROM models m"
    )
    return {row["key"]: float(row["speed"]) for row in rows if row["speed"] is not None}


async def refuse(
    connection: Connection, job_id: UUID, command_id: str, client: str, refusal: Mapping[str, Any]
) -> None:
    """Keep why a submit was refused, so that a 202 can be asked for later."""
    await connection.execute(
        "INSERT INTO refusals (job_id, command_id, client, status, code, message, field)"
        " SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = $1)"
        " ON CONFLICT (job_id) DO UPDATE SET command_id = $2, client = $3, status = $4, code = $5, message = $6,"
        " field = $7, at = now()",
        job_id,
        command_id,
        client,
        refusal["status"],
        refusal["code"],
        refusal["message"],
        refusal.get("field"),
    )


async def refusal(connection: Connection, job_id: UUID) -> Mapping[str, Any] | None:
    """Why the submit of this job was refused, if it was."""
    row: Mapping[str, Any] | None = await connection.fetchrow("SELECT * FROM refusals WHERE job_id = $1", job_id)
    return row


async def forget_refusal(connection: Connection, job_id: UUID) -> None:
    """The job was accepted after all."""
    await connection.execute("DELETE FROM refusals WHERE job_id = $1", job_id)


async def page(
    connection: Connection,
    *,
    states: Sequence[str],
    project: UUID | None,
    client: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Record]:
    """Jobs, newest first, after a (created_at, id) position."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE ($1::text[] = '{{}}' OR j.state = ANY($1)) AND ($2::uuid IS NULL OR j.project_id = $2)"
        " AND ($3::text IS NULL OR j.client = $3)"
        " AND ($4::timestamptz IS NULL OR (j.created_at, j.id) < ($4, $5))"
        " ORDER BY j.created_at DESC, j.id DESC LIMIT $6",
        list(states),
        project,
        client,
        after[0] if after else None,
        after[1] if after else None,
        limit,
    )
    return [_record(row) for row in rows]


async def ended_last_hour(connection: Connection) -> tuple[int, int]:
    """How many jobs were completed and how many failed in the last hour."""
    row = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE state = 'completed') AS completed,"
        " count(*) FILTER (WHERE state = 'failed') AS failed"
        " FROM jobs WHERE ended_at > now() - interval '1 hour'"
    )
    return row["completed"], row["failed"]


async def median_seconds(connection: Connection) -> float | None:
    """Median seconds from start to completion over the last day."""
    found = await connection.fetchval(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - started_at))"
        " FROM jobs WHERE state = 'completed' AND ended_at > now() - interval '1 day'"
    )
    return None if found is None else float(found)


async def outbox_size(connection: Connection) -> int:
    """Messages that are not yet published."""
    return int(await connection.fetchval("SELECT count(*) FROM outbox"))
