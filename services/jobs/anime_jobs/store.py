"""What the ledger remembers: SQL as functions of a connection. Every change of a job is guarded by its version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from anime_common.contracts.generator import AttemptFailed, AttemptFinished
from anime_common.contracts.jobs import Attempt, Job
from anime_common.contracts.vocabulary import JobState, NodeCost, Phase, Reached, StagedOutput
from anime_jobs.composition import Production
from anime_jobs.model import Record
from anime_jobs.profile import Spent

Connection = Any
"""An asyncpg connection inside a transaction (or a pooled one)."""

_STAGED: TypeAdapter[tuple[StagedOutput, ...]] = TypeAdapter(tuple[StagedOutput, ...])

_JSON = frozenset(
    {"request", "settings", "composition", "labels", "outputs", "timings", "warnings", "error", "reached"}
)
# fmt: off
_PUBLIC = (
    "id", "code", "version", "epoch", "state", "client", "project_id", "priority", "prompt_note", "not_before",
    "paused", "attempt_id", "attempt", "failures", "worker", "cancel_requested", "parent_id", "batch_id", "message",
    "created_at", "updated_at", "queued_at", "dispatched_at", "started_at", "ended_at",
)
_PRIVATE = (
    "request_hash", "prompt", "negative_prompt", "seed", "traceparent", "incarnation", "offer_id", "repeat", "deadline",
    "next_try_at", "filing_date", "run_alone", "batch_index", "place", "foreseen_at", "foreseen_end",
)
# fmt: on
_OWN = frozenset({*_PRIVATE, "staged", "end_as", "production"})
_COLUMNS = (*_PUBLIC, *sorted(_JSON), *_PRIVATE, "staged", "end_as", "production")
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
        "batch_id",
        "batch_index",
        "labels",
    }
)
_MUTABLE = tuple(name for name in _COLUMNS if name not in _FIXED)

# Statements are put together from our own column names alone; every value is a parameter.
_SELECT = (
    f"SELECT {', '.join(f'j.{name}' for name in _COLUMNS)}, p.slug AS project"  # noqa: S608
    " FROM jobs j JOIN projects p ON p.id = j.project_id"
)
_IN_HAND = "j.state IN ('preparing', 'dispatched', 'running', 'filing')"
_ACTIVE = f"{_SELECT.replace(' FROM ', ', j.xmin FROM ', 1)} WHERE {_IN_HAND}"
# A job that is accepted after all was not refused.
_INSERT = (
    "WITH forgotten AS (DELETE FROM refusals WHERE job_id = $1)"  # noqa: S608
    f" INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join(f'${i + 1}' for i in range(len(_COLUMNS)))})"
    " ON CONFLICT DO NOTHING RETURNING id"
)


class Conflict(Exception):
    """Somebody else was first: a job has another version, or is there already. The transaction is to be tried again."""


def _raw(record: Record, name: str) -> Any:
    return getattr(record if name in _OWN else record.job, name)


def _values(record: Record, names: Sequence[str]) -> list[Any]:
    """The values of columns, as they are stored."""
    public = record.job.model_dump(mode="json", include=set(_JSON.intersection(names)))
    return [public[name] if name in public else _value(record, name) for name in names]


def _value(record: Record, name: str) -> Any:
    if name == "staged":
        return _STAGED.dump_python(record.staged, mode="json")
    if name == "production":
        return record.production.model_dump(mode="json", exclude_defaults=True)
    value = _raw(record, name)
    return value.value if isinstance(value, JobState) else value


def _record(row: Mapping[str, Any]) -> Record:
    public = {name: row[name] for name in (*_PUBLIC, *_JSON, "project")}
    private = {name: row[name] for name in _PRIVATE}
    staged = _STAGED.validate_python(row["staged"])
    production = Production.model_validate(row["production"], extra="ignore")
    job = Job.model_validate(public, extra="ignore")
    return Record(job=job, staged=staged, end_as=JobState(row["end_as"]), production=production, **private)


async def epoch(connection: Connection) -> int:
    """The ledger's epoch."""
    return int(await connection.fetchval("SELECT epoch FROM meta"))


async def lock(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Record]:
    """Lock and read jobs in a fixed order, so that two transactions never wait for each other in a circle."""
    rows = await connection.fetch(f"{_SELECT} WHERE j.id = ANY($1::uuid[]) ORDER BY j.id FOR UPDATE OF j", list(ids))
    return {row["id"]: _record(row) for row in rows}


async def find(connection: Connection, ref: UUID | str, *, update: bool = False) -> Record | None:
    """A job by id or code; locked for a change when `update`."""
    wanted, column = reference(ref)
    suffix = " FOR UPDATE OF j" if update else ""
    row = await connection.fetchrow(f"{_SELECT} WHERE j.{column} = $1{suffix}", wanted)
    return _record(row) if row else None


def reference(ref: UUID | str) -> tuple[UUID | str, str]:
    """What to look for, and in which column: an id, or a code."""
    if isinstance(ref, UUID):
        return ref, "id"
    try:
        return UUID(ref), "id"
    except ValueError:
        return ref.lower(), "code"


async def insert(connection: Connection, records: Sequence[Record]) -> None:
    """Add jobs, and forget that they were refused; raises Conflict when an id or a code is taken."""
    if not records:
        return
    rows = await connection.fetchmany(_INSERT, [_values(record, _COLUMNS) for record in records])
    if len(rows) < len(records):
        taken = {record.job.id for record in records} - {row["id"] for row in rows}
        raise Conflict(f"the id or the code of these jobs is taken: {', '.join(map(str, taken))}")
    cast = [(record.job.id, member.id, member.version) for record in records for member in record.production.cast]
    await _each(connection, "INSERT INTO job_characters (job_id, character_id, version) VALUES ($1, $2, $3)", cast)


async def save(connection: Connection, changes: Iterable[tuple[Record, Record]]) -> None:
    """Store changed jobs (before, after), if nobody changed them since; raises Conflict. Writes what differs alone."""
    alike: dict[tuple[str, ...], list[tuple[Record, Record]]] = {}
    for before, after in changes:
        if before is not after and (names := tuple(name for name in _MUTABLE if _differ(before, after, name))):
            alike.setdefault(names, []).append((before, after))
    for names, members in alike.items():
        columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, start=3))
        rows = await connection.fetchmany(
            f"UPDATE jobs SET {columns} WHERE id = $1 AND version = $2 RETURNING id",  # noqa: S608 - our own names
            [(before.job.id, before.job.version, *_values(after, names)) for before, after in members],
        )
        stored = {row["id"] for row in rows}
        for before, _ in members:
            if before.job.id not in stored:
                raise Conflict(f"job {before.job.id} is no longer at version {before.job.version}")


def _differ(before: Record, after: Record, name: str) -> bool:
    old, new = _raw(before, name), _raw(after, name)
    return old is not new and bool(old != new)


async def open_attempts(connection: Connection, records: Iterable[Record]) -> None:
    """Note the new attempts of dispatched jobs."""
    rows = [
        (
            record.job.attempt_id,
            record.job.id,
            record.job.attempt,
            record.offer_id,
            record.job.worker,
            record.incarnation,
            record.job.settings.model if record.job.settings else None,
            _work(record),
            record.job.dispatched_at,
        )
        for record in records
    ]
    await _each(
        connection,
        "INSERT INTO attempts (id, job_id, number, offer_id, worker, incarnation, model, work, dispatched_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        rows,
    )


def _work(record: Record) -> float | None:
    settings = record.job.settings
    return float(settings.width * settings.height * settings.steps * settings.count) if settings else None


async def start_attempts(connection: Connection, begun: Sequence[tuple[UUID, datetime]]) -> None:
    """Note when attempts were begun: (attempt, when)."""
    await _each(connection, "UPDATE attempts SET started_at = coalesce(started_at, $2) WHERE id = $1", begun)


async def spend_attempts(connection: Connection, spent: Sequence[tuple[UUID, AttemptFinished | AttemptFailed]]) -> None:
    """Note what attempts spent their time with."""
    rows = [
        (
            attempt,
            fact.engine or None,
            fact.workflow,
            dict(fact.timings),
            [cost.model_dump(mode="json") for cost in fact.costs],
        )
        for attempt, fact in spent
    ]
    await _each(
        connection,
        "UPDATE attempts SET engine = $2, workflow = $3, timings = $4, costs = $5 WHERE id = $1 AND outcome IS NULL",
        rows,
    )


async def spent_by_job(connection: Connection, job_id: UUID) -> list[Spent]:
    """What the last attempt of a job spent, finished or failed; none when there is none."""
    rows = await connection.fetch(
        f"{_SPENT} WHERE job_id = $1 AND outcome IN ('finished', 'failed') AND engine IS NOT NULL"
        " ORDER BY number DESC LIMIT 1",
        job_id,
    )
    return [_spent(row) for row in rows]


async def spent_by(connection: Connection, column: Literal["workflow", "model"], name: str, days: int) -> list[Spent]:
    """What the latest finished attempts of a workflow or model spent, at most 200 of so many days."""
    rows = await connection.fetch(
        f"{_SPENT} WHERE {column} = $1 AND outcome = 'finished' AND engine IS NOT NULL"
        " AND ended_at > now() - make_interval(days => $2) ORDER BY ended_at DESC LIMIT 200",
        name,
        days,
    )
    return [_spent(row) for row in rows]


_SPENT = "SELECT engine, model, workflow, timings, costs FROM attempts"


def _spent(row: Mapping[str, Any]) -> Spent:
    timings = {Phase(name): float(seconds) for name, seconds in row["timings"].items()}
    costs = tuple(NodeCost.model_validate(cost) for cost in row["costs"])
    return Spent(row["engine"] or "", row["model"] or "", row["workflow"], timings, costs)


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended. `delay` is seconds until the next one at the earliest; None when there is none to be."""

    attempt: UUID
    outcome: str
    at: datetime
    error: str | None = None
    code: str | None = None
    delay: float | None = None
    reached: Reached | None = None


async def end_attempts(connection: Connection, ends: Sequence[AttemptEnd]) -> None:
    """Note how attempts ended; the first end of each stays."""
    await _each(
        connection,
        "UPDATE attempts SET outcome = $2, ended_at = $3, error = $4, code = $5, retry_delay = $6, reached = $7"
        " WHERE id = $1 AND outcome IS NULL",
        [
            (
                end.attempt,
                end.outcome,
                end.at,
                end.error,
                end.code,
                end.delay,
                end.reached.model_dump(mode="json") if end.reached is not None else None,
            )
            for end in ends
        ],
    )


async def unfiled_attempts(connection: Connection, ends: Sequence[AttemptEnd]) -> None:
    """Note why what finished attempts drew could not be filed; they stay finished, for their speed is true."""
    await _each(
        connection,
        "UPDATE attempts SET error = $2, code = $3, retry_delay = $4 WHERE id = $1",
        [(end.attempt, end.error, end.code, end.delay) for end in ends],
    )


async def attempts_of(connection: Connection, job_id: UUID) -> tuple[Attempt, ...]:
    """Every attempt of a job, the first one first."""
    rows = await connection.fetch(
        "SELECT id, number, worker, model, engine, outcome, dispatched_at AS offered_at, started_at, ended_at, code,"
        " error, reached, retry_delay FROM attempts WHERE job_id = $1 ORDER BY number",
        job_id,
    )
    return tuple(Attempt.model_validate(dict(row)) for row in rows)


async def _each(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        await connection.executemany(statement, rows)


@dataclass(slots=True)
class Active:
    """Every job that a worker, Echo or files has in hand. It is looked at all the time: only changed rows are read."""

    _known: dict[UUID, tuple[int, Record]] = field(default_factory=dict)

    async def read(self, connection: Connection) -> list[Record]:
        """These jobs as they are now, by id."""
        rows = await connection.fetch(f"SELECT j.id, j.xmin FROM jobs j WHERE {_IN_HAND} ORDER BY j.id")  # noqa: S608
        same = {row["id"]: self._known[row["id"]] for row in rows if self._is_known(row)}
        changed = [row["id"] for row in rows if row["id"] not in same]
        if changed:
            news = await connection.fetch(f"{_ACTIVE} AND j.id = ANY($1::uuid[])", changed)
            same |= {row["id"]: (row["xmin"], _record(row)) for row in news}
        self._known = same
        return [same[row["id"]][1] for row in rows if row["id"] in same]

    def _is_known(self, row: Mapping[str, Any]) -> bool:
        known = self._known.get(row["id"])
        # The transaction that wrote a row is another one after every change of it.
        return known is not None and known[0] == row["xmin"]


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


async def page(
    connection: Connection,
    *,
    states: Sequence[str],
    project: UUID | None,
    client: str | None,
    batch: UUID | None,
    character: UUID | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Record]:
    """Jobs, newest first, after a (created_at, id) position."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE"  # noqa: S608 - our own text
        " ($1::text[] = '{}' OR j.state = ANY($1)) AND ($2::uuid IS NULL OR j.project_id = $2)"
        " AND ($3::text IS NULL OR j.client = $3)"
        " AND ($4::timestamptz IS NULL OR (j.created_at, j.id) < ($4, $5))"
        " AND ($7::uuid IS NULL OR j.id IN (SELECT c.job_id FROM job_characters c WHERE c.character_id = $7))"
        " AND ($8::uuid IS NULL OR j.batch_id = $8)"
        " ORDER BY j.created_at DESC, j.id DESC LIMIT $6",
        list(states),
        project,
        client,
        after[0] if after else None,
        after[1] if after else None,
        limit,
        character,
        batch,
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
