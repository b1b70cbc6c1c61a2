"""Putting a waiting job before or after another one of its project.

Places are numbers between which there is nearly always room for one more. Where there is none, because many jobs came
in one moment or were moved to one spot, those of the project and class are numbered anew.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from anime_common.contracts.jobs import JobChanges, Move
from anime_common.contracts.vocabulary import JobState
from anime_common.outcomes import Refused, not_found
from anime_jobs.books import Books
from anime_jobs.model import Record
from anime_jobs.store import Connection

WAITING = (JobState.PREPARING, JobState.QUEUED)
APART = 1e-3
"""Seconds between the places of jobs that are numbered anew, at least."""
_LANE = "project_id = $1 AND priority = $2 AND state IN ('preparing', 'queued')"


async def place_for(books: Books, record: Record, changes: JobChanges, now: datetime) -> float:
    """The place that a move asks for; a priority that changes with it counts. Raises Refused (404, 409, 422)."""
    if record.state not in WAITING:
        text = f"job {record.job.code} is {record.state}: its place in the queue can no longer be changed"
        raise Refused(409, "too_late", text)
    connection, lane = books.connection, (record.job.project_id, changes.priority or record.job.priority)
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('places ' || $1::text, 0))", str(record.job.project_id)
    )
    if changes.move is not None:
        return await _end(connection, lane, record.job.id, changes.move, now)
    field = "before" if changes.before is not None else "after"
    other = await _other(books, record, getattr(changes, field), field, lane[1])
    for _ in range(2):
        place = await connection.fetchval("SELECT place FROM jobs WHERE id = $1", other.job.id)
        beside = await _beside(connection, lane, record.job.id, other.job.id, place, before=field == "before")
        middle = (place + beside) / 2
        if min(place, beside) < middle < max(place, beside):
            return float(middle)
        await _number_anew(connection, lane)
    raise AssertionError("jobs that were numbered anew have room between them")


async def _other(books: Books, record: Record, ref: str, field: str, priority: str) -> Record:
    """The job beside which to stand."""
    other = await books.find(ref)
    if other is None:
        raise not_found("job", ref, field)
    job, code = other.job, other.job.code
    if job.id == record.job.id:
        raise Refused(422, "invalid", "a job cannot be moved beside itself", field)
    if job.project_id != record.job.project_id:
        text = f"job {code} is of the project {job.project}: only jobs of one project can be put in order"
        raise Refused(409, "other_project", text, field)
    if job.state not in WAITING:
        raise Refused(409, "not_waiting", f"job {code} is {job.state}: it waits no more", field)
    if job.priority != priority:
        text = f"job {code} waits as {job.priority}, this one as {priority}: give both the same priority"
        raise Refused(409, "other_priority", text, field)
    return other


async def _end(connection: Connection, lane: tuple[UUID, str], mover: UUID, move: Move, now: datetime) -> float:
    row = await connection.fetchrow(
        f"SELECT min(place) AS first, max(place) AS last FROM jobs WHERE {_LANE} AND id <> $3",  # noqa: S608
        *lane,
        mover,
    )
    if move is Move.FRONT:
        return float(row["first"]) - 1.0 if row["first"] is not None else now.timestamp()
    return max(now.timestamp(), (row["last"] or 0.0) + APART)


async def _beside(
    connection: Connection, lane: tuple[UUID, str], mover: UUID, other: UUID, place: float, *, before: bool
) -> float:
    """The place of who stands next to the other one, on the side where the mover goes."""
    sign, way = ("<", "DESC") if before else (">", "ASC")
    found = await connection.fetchval(
        f"SELECT place FROM jobs WHERE {_LANE} AND id <> $3 AND (place, id) {sign} ($4, $5)"  # noqa: S608
        f" ORDER BY place {way}, id {way} LIMIT 1",
        *lane,
        mover,
        place,
        other,
    )
    if found is None:
        return place - 1.0 if before else place + 1.0
    return float(found)


async def _number_anew(connection: Connection, lane: tuple[UUID, str]) -> None:
    """Spread the jobs of a project and class over the time that they took to come; their order stays."""
    await connection.execute(
        "UPDATE jobs SET place = w.last - (w.n - w.turn) * greatest((w.last - w.first) / w.n, $3::float)"  # noqa: S608
        " FROM (SELECT id, row_number() OVER (ORDER BY place, id) AS turn, count(*) OVER () AS n,"
        f"   min(place) OVER () AS first, max(place) OVER () AS last FROM jobs WHERE {_LANE}) w WHERE jobs.id = w.id",
        *lane,
        APART,
    )
