"""What files answers by rpc: look up, list, curate, delete, count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from anime_common import failpoints, outbox
from anime_common.contracts.files import (
    DELETE_FILE,
    GET_FILE,
    LIBRARY_STATS,
    LIBRARY_USE,
    LIST_FILES,
    UPDATE_FILE,
    FileDeleted,
    FilePage,
    FileQuery,
    FileRef,
    FileUpdated,
    FileView,
    LibraryStats,
    UpdateFile,
    Use,
    UseQuestion,
)
from anime_common.messages import Outgoing
from anime_common.outbox import Connection, transaction
from anime_common.outcomes import not_found
from anime_common.rpc import Answerer
from anime_common.rpc_contract import Empty, Rpc
from anime_files import catalogue
from anime_files.model import SERVICE


@dataclass(frozen=True, slots=True)
class Library:
    """Answers questions. `committed` is called when there may be something to publish or to remove."""

    pool: asyncpg.Pool[asyncpg.Record]
    committed: Callable[[], None]

    def answers(self) -> dict[Rpc[Any, Any], Answerer]:
        """Every question that files answers."""
        return {
            GET_FILE: self.get,
            LIST_FILES: self.list,
            UPDATE_FILE: self.update,
            DELETE_FILE: self.delete,
            LIBRARY_STATS: self.stats,
            LIBRARY_USE: self.use,
        }

    async def get(self, question: FileRef) -> FileView:
        """One file; refuses with 404."""
        async with transaction(self.pool) as connection:
            return await _existing(connection, question.id)

    async def list(self, question: FileQuery) -> FilePage:
        """One page of files, newest first."""
        async with transaction(self.pool) as connection:
            return await catalogue.find(connection, question)

    async def update(self, question: UpdateFile) -> FileView:
        """Change rating, favourite or tags; what stays the same is no change and tells nobody."""
        changes = question.changes
        async with transaction(self.pool) as connection:
            file = await _existing(connection, question.id, lock=True)
            rating = file.rating if changes.rating is None else changes.rating
            favourite = file.favourite if changes.favourite is None else changes.favourite
            tags = file.tags if changes.tags is None else tuple(dict.fromkeys(changes.tags))
            if (rating, favourite, tags) == (file.rating, file.favourite, file.tags):
                return file
            file = await catalogue.change(connection, file, rating=rating, favourite=favourite, tags=tags)
            epoch = await catalogue.epoch(connection)
            event = FileUpdated(file_id=file.id, epoch=epoch, file=file)
            await _tell(connection, Outgoing(event, event.ident()))
        self.committed()
        return file

    async def delete(self, question: FileRef) -> FileView:
        """Take a file out of library or trash for good; its object is removed soon after. Returns it as it last was."""
        async with transaction(self.pool) as connection:
            file = await _existing(connection, question.id, lock=True, trashed=True)
            file = await catalogue.delete(connection, file)
            epoch = await catalogue.epoch(connection)
            event = FileDeleted(file_id=file.id, epoch=epoch, job_id=file.job_id, key=file.key)
            await _tell(connection, Outgoing(event, event.ident(version=file.version)))
        await failpoints.hit("files.after_delete")
        self.committed()
        return file

    async def stats(self, _: Empty) -> LibraryStats:
        """How many files there are and how large they are together."""
        async with transaction(self.pool) as connection:
            return await catalogue.stats(connection)

    async def use(self, question: UseQuestion) -> Use:
        """How much the library holds of projects."""
        async with transaction(self.pool) as connection:
            return await catalogue.use(connection, question.project_ids)


async def _existing(connection: Connection, file_id: UUID, *, lock: bool = False, trashed: bool = False) -> FileView:
    file = await catalogue.get(connection, file_id, lock=lock, trashed=trashed)
    if file is None:
        raise not_found("file", file_id, "id")
    return file


async def _tell(connection: Connection, out: Outgoing) -> None:
    await outbox.add(connection, [out], SERVICE)
