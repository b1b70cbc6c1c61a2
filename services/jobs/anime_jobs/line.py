"""The line of waiting jobs, as light rows: what the scheduler and the queue's display need, and no more.

A plan looks at hundreds of waiting jobs many times a second, so these rows carry no request and no history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from anime_common.contracts.generation import FREE_IN_A_BATCH
from anime_common.contracts.vocabulary import JobState, Priority
from anime_jobs.scheduler import Waiting, ready_since
from anime_jobs.store import Connection

_FREE = ", ".join(f"'{name}'" for name in FREE_IN_A_BATCH)
_SELECT = (
    "SELECT j.id, j.code, j.project_id, p.slug AS project, j.state, j.priority, j.message,"  # noqa: S608 - our own text
    " j.paused, coalesce(b.paused, false) AS batch_paused, p.paused AS project_paused, j.batch_id, j.not_before,"
    " j.next_try_at, j.created_at, j.queued_at, j.place, j.foreseen_at, j.run_alone, j.settings ->> 'model' AS model,"
    f" (j.settings - ARRAY[{_FREE}])::text AS batch_key,"
    " coalesce((j.settings ->> 'count')::int, 1) AS pictures,"
    " ARRAY(SELECT l ->> 'key' FROM jsonb_array_elements(coalesce(j.settings -> 'loras', '[]'::jsonb)) l) AS loras,"
    " (j.settings ->> 'width')::float * (j.settings ->> 'height')::float * (j.settings ->> 'steps')::float"
    "   * (j.settings ->> 'count')::float AS work FROM jobs j JOIN projects p ON p.id = j.project_id"
    " LEFT JOIN batches b ON b.id = j.batch_id"
)


_NOT_HELD = (
    "(batch_id IS NULL OR batch_id NOT IN (SELECT id FROM batches WHERE paused))"
    " AND project_id NOT IN (SELECT id FROM projects WHERE paused)"
)
"""Of jobs whose batch and project are not paused."""


@dataclass(frozen=True, slots=True)
class Lined:
    """A waiting job. `waiting` is what the scheduler sees; None while it cannot be planned: no model is known yet."""

    job_id: UUID
    code: str
    project: str
    state: JobState
    priority: Priority
    message: str | None
    paused: bool
    batch_paused: bool
    project_paused: bool
    batch_id: UUID | None
    not_before: datetime | None
    next_try_at: datetime | None
    foreseen_at: datetime | None
    waiting: Waiting | None


def _lined(row: Mapping[str, Any]) -> Lined:
    priority = Priority(row["priority"])
    waiting = None
    if row["model"] is not None and row["queued_at"] is not None:
        waiting = Waiting(
            job_id=row["id"],
            project_id=row["project_id"],
            priority=priority,
            created_at=row["created_at"],
            ready_at=ready_since(row["queued_at"], row["not_before"], row["next_try_at"]),
            model=row["model"],
            batch_key=(row["batch_key"],),
            work=row["work"],
            pictures=row["pictures"],
            loras=frozenset(row["loras"]),
            alone=row["run_alone"],
            place=row["place"],
        )
    return Lined(
        job_id=row["id"],
        code=row["code"],
        project=row["project"],
        state=JobState(row["state"]),
        priority=priority,
        message=row["message"],
        paused=row["paused"],
        batch_paused=row["batch_paused"],
        project_paused=row["project_paused"],
        batch_id=row["batch_id"],
        not_before=row["not_before"],
        next_try_at=row["next_try_at"],
        foreseen_at=row["foreseen_at"],
        waiting=waiting,
    )


async def ready(connection: Connection, per_project: int) -> list[Lined]:
    """The first queued jobs of each project and priority class that could run now."""
    rows = await connection.fetch(
        f"{_SELECT} JOIN (SELECT id,"  # noqa: S608 - our own text
        "   row_number() OVER (PARTITION BY priority, project_id ORDER BY place, id) AS turn FROM jobs"
        "   WHERE state = 'queued' AND NOT paused AND coalesce(not_before, '-infinity') <= now()"
        "   AND coalesce(next_try_at, '-infinity') <= now()"
        f"   AND {_NOT_HELD}) w ON w.id = j.id"
        " WHERE w.turn <= $1 ORDER BY j.place, j.id",
        per_project,
    )
    return [_lined(row) for row in rows]


async def sleeping(connection: Connection, limit: int) -> list[Lined]:
    """Queued jobs that wait for a time or are paused, and jobs that prepare."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE j.state = 'preparing' OR (j.state = 'queued' AND (j.paused OR b.paused OR p.paused"
        " OR j.not_before > now() OR j.next_try_at > now())) ORDER BY j.place, j.id LIMIT $1",
        limit,
    )
    return [_lined(row) for row in rows]


async def next_wake(connection: Connection) -> datetime | None:
    """When the next queued job that waits for a time becomes ready."""
    found = await connection.fetchval(
        "SELECT min(greatest(not_before, next_try_at)) FROM jobs WHERE state = 'queued' AND NOT paused"  # noqa: S608
        f" AND {_NOT_HELD} AND greatest(not_before, next_try_at) > now()"
    )
    return found if isinstance(found, datetime) else None


async def last_served(connection: Connection) -> dict[UUID, datetime]:
    """When a job of each project with waiting work was last given to a worker."""
    rows = await connection.fetch(
        "SELECT p.id, (SELECT max(j.dispatched_at) FROM jobs j WHERE j.project_id = p.id) AS at FROM projects p"
        " WHERE EXISTS (SELECT 1 FROM jobs q WHERE q.state = 'queued' AND q.project_id = p.id)"
    )
    return {row["id"]: row["at"] for row in rows if row["at"] is not None}


async def rooms(connection: Connection) -> dict[UUID, int]:
    """How many more jobs of each project with a bound may be given to workers now."""
    rows = await connection.fetch(
        "SELECT p.id, p.max_running - (SELECT count(*) FROM jobs j WHERE j.project_id = p.id"
        "   AND j.state IN ('dispatched', 'running')) AS room FROM projects p WHERE p.max_running IS NOT NULL"
    )
    return {row["id"]: max(row["room"], 0) for row in rows}


async def foresee(connection: Connection, ends: Mapping[UUID, float], now: datetime) -> None:
    """Keep in how many seconds jobs are to end, where nobody was told before; who is being changed is left out."""
    await connection.execute(
        "UPDATE jobs SET foreseen_at = $3::timestamptz,"
        " foreseen_end = $3::timestamptz + w.seconds * interval '1 second'"
        " FROM unnest($1::uuid[], $2::float[]) AS w (id, seconds) WHERE jobs.id = w.id AND jobs.id IN"
        " (SELECT id FROM jobs WHERE id = ANY($1::uuid[]) AND foreseen_at IS NULL FOR UPDATE SKIP LOCKED)",
        list(ends),
        list(ends.values()),
        now,
    )


@dataclass(frozen=True, slots=True)
class Hold:
    """Since when the whole queue is held back, and why; nothing new is started while `since` is there."""

    since: datetime | None
    reason: str


async def held(connection: Connection) -> Hold:
    """Whether the whole queue is held back."""
    row = await connection.fetchrow("SELECT paused_since, reason FROM queue")
    return Hold(row["paused_since"], row["reason"])


async def hold(connection: Connection, *, paused: bool, reason: str) -> None:
    """Hold the whole queue back, or let it go on; held back already, it stays so since when it was."""
    await connection.execute(
        "UPDATE queue SET paused_since = CASE WHEN $1 THEN coalesce(paused_since, now()) END, reason = $2",
        paused,
        reason if paused else "",
    )
