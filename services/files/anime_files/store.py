"""What the library remembers of filings, as SQL in functions of a connection (tables: see `migrations/`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from anime_common.contracts.vocabulary import Output
from anime_common.outbox import Connection
from anime_files import model
from anime_files.model import Entry, FilingId, Look, Verdict

MAX_SUFFIX = 1000


class NoFreeKey(RuntimeError):
    """So many files wanted the same key that something must be wrong with the template or the store."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Where one output of an attempt goes."""

    id: UUID
    index: int
    key: str


async def open_filings(connection: Connection, epochs: Mapping[FilingId, int]) -> set[FilingId]:
    """Record filings (with the epoch they were first asked under); returns those without a verdict."""
    ids = sorted(epochs)
    jobs, attempts = _columns(ids)
    await connection.execute(
        "INSERT INTO filings (job_id, attempt_id, epoch) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[])"
        " ON CONFLICT DO NOTHING",
        jobs,
        attempts,
        [epochs[ident] for ident in ids],
    )
    rows = await connection.fetch(
        "SELECT job_id, attempt_id FROM filings JOIN unnest($1::uuid[], $2::uuid[]) AS asked (job_id, attempt_id)"
        " USING (job_id, attempt_id) WHERE outcome IS NULL",
        jobs,
        attempts,
    )
    return {(row["job_id"], row["attempt_id"]) for row in rows}


async def reservations(connection: Connection, ids: Iterable[FilingId]) -> dict[FilingId, list[Reserved]]:
    """The files reserved for filings, by index."""
    rows = await connection.fetch(
        "SELECT job_id, attempt_id, id, index, key FROM files"
        " JOIN unnest($1::uuid[], $2::uuid[]) AS asked (job_id, attempt_id) USING (job_id, attempt_id) ORDER BY index",
        *_columns(ids),
    )
    found: dict[FilingId, list[Reserved]] = defaultdict(list)
    for row in rows:
        found[row["job_id"], row["attempt_id"]].append(Reserved(row["id"], row["index"], row["key"]))
    return found


async def reserve(connection: Connection, wanted: Sequence[Entry], taken: Callable[[str], Awaitable[bool]]) -> None:
    """Reserve an id and a key for each file that has none yet. `taken` tells of objects that no row knows of.

    A key that another row has, or that is `taken`, gets a suffix: nothing that lies in the library is overwritten.
    """
    left = list(wanted)
    for suffix in range(1, MAX_SUFFIX):
        free = [(entry, key) for entry in left if not await taken(key := entry.key_of(suffix))]
        # In the order of keys, so that instances that reserve the same ones never wait for each other in a ring.
        rows = [_row(entry, key) for entry, key in sorted(free, key=lambda pair: pair[1])]
        await connection.execute(
            "INSERT INTO files (id, state, key, job_id, attempt_id, index, code, project_id, project, date, type,"
            " media_type, size, width, height, sha256, seed, settings, search)"
            " SELECT id, 'reserved', key, job_id, attempt_id, index, code, project_id, project, date, type,"
            " media_type, size, width, height, sha256, seed, settings, search"
            " FROM jsonb_populate_recordset(NULL::files, $1::jsonb) ON CONFLICT DO NOTHING",
            rows,
        )
        done = await reservations(connection, {model.filing_id(entry.filing) for entry in left})
        left = [
            entry
            for entry in left
            if all(found.index != entry.staged.index for found in done.get(model.filing_id(entry.filing), ()))
        ]
        if not left:
            return
    raise NoFreeKey(left[0].key_of(1))


def _row(entry: Entry, key: str) -> dict[str, Any]:
    filing, staged = entry.filing, entry.staged
    return {
        "id": str(entry.id),
        "key": key,
        "job_id": str(filing.job.id),
        "attempt_id": str(filing.attempt_id),
        "index": staged.index,
        "code": filing.job.code,
        "project_id": str(filing.job.project_id),
        "project": filing.job.project,
        "date": filing.date.isoformat(),
        "type": model.file_type(staged.media_type),
        "media_type": staged.media_type,
        "size": staged.size,
        "width": staged.width,
        "height": staged.height,
        "sha256": staged.sha256,
        "seed": staged.seed,
        "settings": entry.settings.model_dump(mode="json"),
        "search": model.search_text(filing.settings.prompt, ()),
    }


async def lock_verdicts(connection: Connection, ids: Iterable[FilingId]) -> dict[FilingId, Verdict | None]:
    """The verdicts on filings, None where there is none yet; nobody else decides before this transaction ends."""
    rows = await connection.fetch(
        "SELECT filings.* FROM filings JOIN unnest($1::uuid[], $2::uuid[]) AS asked (job_id, attempt_id)"
        " USING (job_id, attempt_id) ORDER BY job_id, attempt_id FOR UPDATE OF filings",
        *_columns(ids),
    )
    return {(row["job_id"], row["attempt_id"]): _verdict(row) for row in rows}


def _verdict(row: Mapping[str, Any]) -> Verdict | None:
    if row["outcome"] is None:
        return None
    if row["outcome"] == "filed":
        return model.FILED
    return model.failed(row["code"], row["message"])


async def decide(connection: Connection, verdicts: Mapping[FilingId, Verdict], looks: Mapping[UUID, Look]) -> None:
    """Store verdicts: files become visible, with what they turned out to be, or their reservation is withdrawn."""
    ids = list(verdicts)
    jobs, attempts = _columns(ids)
    found = [verdicts[ident] for ident in ids]
    await connection.execute(
        "UPDATE filings SET outcome = CASE WHEN new.filed THEN 'filed' ELSE 'failed' END, decided_at = now(),"
        " code = CASE WHEN NOT new.filed THEN new.code END, message = CASE WHEN NOT new.filed THEN new.message END,"
        " retryable = CASE WHEN NOT new.filed THEN new.retryable END"
        " FROM unnest($1::uuid[], $2::uuid[], $3::bool[], $4::text[], $5::text[], $6::bool[])"
        " AS new (job_id, attempt_id, filed, code, message, retryable)"
        " WHERE filings.job_id = new.job_id AND filings.attempt_id = new.attempt_id",
        jobs,
        attempts,
        [verdict.filed for verdict in found],
        [verdict.code for verdict in found],
        [verdict.message for verdict in found],
        [verdict.retryable for verdict in found],
    )
    await connection.execute(
        "UPDATE files SET state = CASE WHEN new.filed THEN 'filed' ELSE 'withdrawn' END,"
        " created_at = now(), updated_at = now()"
        " FROM unnest($1::uuid[], $2::uuid[], $3::bool[]) AS new (job_id, attempt_id, filed)"
        " WHERE files.job_id = new.job_id AND files.attempt_id = new.attempt_id AND files.state = 'reserved'",
        jobs,
        attempts,
        [verdict.filed for verdict in found],
    )
    await connection.execute(
        "UPDATE files SET thumbnail_key = new.key, duration = new.duration, frames = new.frames"
        " FROM unnest($1::uuid[], $2::text[], $3::float8[], $4::int[]) AS new (id, key, duration, frames)"
        " WHERE files.id = new.id AND files.state = 'filed'",
        list(looks),
        [look.thumbnail_key for look in looks.values()],
        [look.duration for look in looks.values()],
        [look.frames for look in looks.values()],
    )


async def outputs(connection: Connection, ids: Iterable[FilingId]) -> dict[FilingId, list[Output]]:
    """The outputs of filings as `Filed` names them, by index; also those that a person has deleted since."""
    rows = await connection.fetch(
        "SELECT files.* FROM files JOIN unnest($1::uuid[], $2::uuid[]) AS asked (job_id, attempt_id)"
        " USING (job_id, attempt_id) ORDER BY index",
        *_columns(ids),
    )
    found: dict[FilingId, list[Output]] = defaultdict(list)
    for row in rows:
        output = Output(
            file_id=row["id"],
            key=row["key"],
            index=row["index"],
            seed=row["seed"],
            sha256=row["sha256"],
            size=row["size"],
            width=row["width"],
            height=row["height"],
            type=row["type"],
            media_type=row["media_type"],
            duration=row["duration"],
            frames=row["frames"],
        )
        found[row["job_id"], row["attempt_id"]].append(output)
    return found


async def remove_again(connection: Connection, ids: Iterable[FilingId]) -> None:
    """What we copied for filings that somebody else decided: objects of files that are gone must be removed (again)."""
    await connection.execute(
        "UPDATE files SET removed_at = NULL FROM unnest($1::uuid[], $2::uuid[]) AS asked (job_id, attempt_id)"
        " WHERE files.job_id = asked.job_id AND files.attempt_id = asked.attempt_id"
        " AND files.state IN ('withdrawn', 'deleted')",
        *_columns(ids),
    )


async def to_remove(connection: Connection, limit: int) -> list[Reserved]:
    """Files that are deleted or withdrawn and whose objects may still lie in the store; locked for this transaction."""
    rows = await connection.fetch(
        "SELECT id, index, key FROM files WHERE state IN ('withdrawn', 'deleted') AND removed_at IS NULL"
        " ORDER BY updated_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
    )
    return [Reserved(row["id"], row["index"], row["key"]) for row in rows]


async def removed(connection: Connection, ids: Sequence[UUID]) -> None:
    """Record that the objects of files are gone."""
    await connection.execute("UPDATE files SET removed_at = now() WHERE id = ANY($1::uuid[])", list(ids))


def _columns(ids: Iterable[FilingId]) -> tuple[list[UUID], list[UUID]]:
    pairs = list(ids)
    return [job for job, _ in pairs], [attempt for _, attempt in pairs]
