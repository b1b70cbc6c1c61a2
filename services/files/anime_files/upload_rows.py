"""What the library remembers of uploads, as SQL in functions of a connection (table `files`: see `migrations/`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from anime_common.contracts.files import FileView, RegisterUpload
from anime_common.outbox import Connection
from anime_files import catalogue, model
from anime_files.model import NewUpload
from anime_files.store import MAX_SUFFIX, NoFreeKey

Row = Mapping[str, Any]


async def find(connection: Connection, upload_id: UUID) -> Row | None:
    """The row under an upload's id, in whatever state; nobody else changes it before this transaction ends."""
    row: Row | None = await connection.fetchrow("SELECT * FROM files WHERE id = $1 FOR UPDATE", upload_id)
    return row


def stands_for(row: Row, question: RegisterUpload) -> bool:
    """Whether a row is of the very upload that is asked about."""
    wanted = ("upload", question.sha256, question.size, question.project_id)
    return (row["type"], row["sha256"], row["size"], row["project_id"]) == wanted


async def reserve(connection: Connection, new: NewUpload, taken: Callable[[str], Awaitable[bool]]) -> str | None:
    """Reserve a key for an upload; None when there is a row of its id meanwhile.

    A key that another row has, or that is `taken` by an object that no row knows of, gets a suffix.
    """
    for suffix in range(1, MAX_SUFFIX):
        key = new.key_of(suffix)
        if await taken(key):
            continue
        asked, picture = new.question, new.picture
        made = await connection.fetchval(
            "INSERT INTO files (id, state, key, index, project_id, project, date, type, media_type, size, width,"
            " height, sha256, name, search) VALUES"
            " ($1, 'reserved', $2, 0, $3, $4, $5, 'upload', $6, $7, $8, $9, $10, $11, $12::text::tsvector)"
            " ON CONFLICT DO NOTHING RETURNING key",
            asked.id,
            key,
            asked.project_id,
            asked.project,
            new.day,
            picture.media_type,
            asked.size,
            picture.width,
            picture.height,
            asked.sha256,
            asked.name,
            model.search_text("", (), asked.name),
        )
        if made is not None:
            return key
        if await find(connection, asked.id) is not None:
            return None
    raise NoFreeKey(new.key_of(1))


async def revive(connection: Connection, upload_id: UUID) -> None:
    """Go on with an upload whose reservation was withdrawn; it gets the same key, which nobody else ever had."""
    await connection.execute(
        "UPDATE files SET state = 'reserved', removed_at = NULL, updated_at = now()"
        " WHERE id = $1 AND state = 'withdrawn'",
        upload_id,
    )


async def finish(connection: Connection, upload_id: UUID, thumbnail_key: str) -> FileView | None:
    """Make a reserved upload visible; None when it is not reserved any more."""
    row = await connection.fetchrow(
        "UPDATE files SET state = 'filed', thumbnail_key = $2, created_at = now(), updated_at = now()"
        " WHERE id = $1 AND state = 'reserved' RETURNING *",
        upload_id,
        thumbnail_key,
    )
    return None if row is None else catalogue.view(row)


async def remove_again(connection: Connection, upload_id: UUID) -> None:
    """What was copied for an upload that has gone meanwhile must be removed from the store (again)."""
    await connection.execute(
        "UPDATE files SET removed_at = NULL WHERE id = $1 AND state IN ('withdrawn', 'deleted')", upload_id
    )


async def withdraw(connection: Connection, before: datetime) -> int:
    """Withdraw the reservations of uploads that nobody has gone on with since a time; returns how many."""
    rows = await connection.fetch(
        "UPDATE files SET state = 'withdrawn', updated_at = now()"
        " WHERE type = 'upload' AND state = 'reserved' AND updated_at < $1 RETURNING id",
        before,
    )
    return len(rows)
