"""The trash: where the files of a deleted project go, out of which they can be taken for some days.

A file in the trash keeps its row, its key and its bytes; only its state changes, so that putting it there and taking
it back are one committed statement each, and nothing is copied that could be lost on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

from anime_common import failpoints, outbox
from anime_common.clock import happens
from anime_common.contracts.files import FileDeleted, FileRef, FileRestored, FileTrashed, FileView
from anime_common.messages import Message, Outgoing
from anime_common.outbox import Connection, transaction
from anime_common.outcomes import Unavailable, not_found
from anime_files import catalogue
from anime_files.model import SERVICE

log = structlog.get_logger(__name__)

BATCH = 500
"""Files that share a transaction."""


async def discard_project(pool: asyncpg.Pool[asyncpg.Record], project_id: UUID) -> int:
    """Move all files of a project to the trash; returns how many were there to move. Again, it moves what is new."""
    moved = 0
    while True:
        async with transaction(pool) as connection:
            rows = await connection.fetch(
                "UPDATE files SET state = 'trashed', trashed_at = now(), version = version + 1, updated_at = now()"
                " WHERE id IN (SELECT id FROM files WHERE project_id = $1 AND state = 'filed'"
                "   ORDER BY id LIMIT $2 FOR UPDATE) RETURNING *",
                project_id,
                BATCH,
            )
            found = [catalogue.view(row) for row in rows]
            epoch = await catalogue.epoch(connection)
            await _tell(connection, [FileTrashed(file_id=file.id, epoch=epoch, file=file) for file in found])
            await failpoints.hit("files.trash.before_commit")
        moved += len(found)
        if len(found) < BATCH:
            return moved


async def restore(connection: Connection, file_id: UUID) -> FileView:
    """Take a file out of the trash; one that is in the library already stays there. Refuses with 404."""
    row = await connection.fetchrow(
        "UPDATE files SET state = 'filed', trashed_at = NULL, version = version + 1, updated_at = now()"
        " WHERE id = $1 AND state = 'trashed' RETURNING *",
        file_id,
    )
    if row is None:
        file = await catalogue.get(connection, file_id)
        if file is None:
            raise not_found("file", file_id, "id")
        return file
    file = catalogue.view(row)
    event = FileRestored(file_id=file.id, epoch=await catalogue.epoch(connection), file=file)
    await _tell(connection, [event])
    return file


async def empty(connection: Connection, older_than_days: float, limit: int) -> list[FileView]:
    """Delete, for good, up to `limit` files that have lain in the trash for so many days; their objects go later."""
    rows = await connection.fetch(
        "UPDATE files SET state = 'deleted', version = version + 1, updated_at = now() WHERE id IN"
        " (SELECT id FROM files WHERE state = 'trashed' AND trashed_at <= now() - make_interval(secs => $1)"
        "   ORDER BY trashed_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING *",
        older_than_days * 86_400,
        limit,
    )
    found = [catalogue.view(row) for row in rows]
    epoch = await catalogue.epoch(connection)
    gone = [
        Outgoing(event, event.ident(version=file.version))
        for file in found
        for event in [FileDeleted(file_id=file.id, epoch=epoch, job_id=file.job_id, key=file.key)]
    ]
    await outbox.add(connection, gone, SERVICE)
    return found


async def _tell(connection: Connection, events: Sequence[Message]) -> None:
    await outbox.add(connection, [Outgoing(event, event.ident()) for event in events], SERVICE)


@dataclass(frozen=True, slots=True)
class Trash:
    """Answers questions about the trash, and empties it of what has lain there for `days`; `interval` in seconds.

    `committed` is called when there may be something to publish or to remove.
    """

    pool: asyncpg.Pool[asyncpg.Record]
    stop: asyncio.Event
    interval: float
    days: float
    committed: Callable[[], None]

    async def restore(self, question: FileRef) -> FileView:
        """Take a file out of the trash; refuses with 404."""
        async with transaction(self.pool) as connection:
            file = await restore(connection, question.id)
        self.committed()
        return file

    async def run(self) -> None:
        """Empty it every `interval`, until stopped; several may at once. A database that is away is waited for."""
        while True:
            try:
                while await self.sweep() == BATCH:
                    pass
            except Unavailable as error:
                log.warning("trash_waits", error=str(error))
            if await happens(self.stop, within=self.interval):
                return

    async def sweep(self) -> int:
        """Delete up to `BATCH` files that have lain there long enough; returns how many. Raises Unavailable."""
        async with transaction(self.pool) as connection:
            found = await empty(connection, self.days, BATCH)
        if found:
            log.info("trash_emptied", files=len(found))
            self.committed()
        return len(found)
