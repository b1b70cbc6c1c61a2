"""The library as people see it: find, look up, curate and delete files, as SQL in functions of a connection."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from anime_common.contracts.files import FilePage, FileQuery, FileView, LibraryStats, ProjectUse, Use
from anime_common.contracts.generation import Settings
from anime_common.outbox import Connection
from anime_common.outcomes import Refused
from anime_files import model


async def get(connection: Connection, file_id: UUID, *, lock: bool = False, trashed: bool = False) -> FileView | None:
    """A file of the library, with `trashed` also one of the trash; with `lock`, nobody else can change it meanwhile."""
    states = ["filed", "trashed"] if trashed else ["filed"]
    select = "SELECT * FROM files WHERE id = $1 AND state = ANY($2)"
    row = await connection.fetchrow(f"{select} FOR UPDATE" if lock else select, file_id, states)
    return None if row is None else view(row)


async def find(connection: Connection, query: FileQuery) -> FilePage:
    """One page of files, newest first; raises Refused on a cursor that is none of ours."""
    conditions, arguments = _conditions(query)
    # The conditions are fixed texts of this module; what people write goes through the arguments alone.
    rows = await connection.fetch(
        f"SELECT * FROM files WHERE {' AND '.join(conditions)}"  # noqa: S608 - see above
        f" ORDER BY created_at DESC, id DESC LIMIT ${len(arguments) + 1}",
        *arguments,
        query.limit + 1,
    )
    items = tuple(view(row) for row in rows[: query.limit])
    more = len(rows) > query.limit
    return FilePage(items=items, next=_cursor(items[-1]) if more else None)


def _conditions(query: FileQuery) -> tuple[Sequence[str], Sequence[object]]:
    conditions, arguments = [f"state = '{'trashed' if query.trashed else 'filed'}'"], list[object]()

    def add(condition: str, *values: object) -> None:
        places = range(len(arguments) + 1, len(arguments) + len(values) + 1)
        conditions.append(condition.format(*(f"${place}" for place in places)))
        arguments.extend(values)

    if query.q is not None and query.q.strip():
        # A text without any letter or digit has no words, so it is found nowhere.
        wanted = [f"{word}:*" for word in model.words(query.q)]
        add("search @@ {}::text::tsquery", " & ".join(wanted))
    if query.project is not None:
        add("(project = {0} OR project_id::text = lower({0}))", query.project)
    if query.job_id is not None:
        add("job_id = {}", query.job_id)
    if query.type is not None:
        add("type = {}", query.type)
    if query.tag is not None:
        add("tags @> {}", [query.tag])
    if query.favourite is not None:
        add("favourite = {}", query.favourite)
    if query.min_rating is not None:
        add("rating >= {}", query.min_rating)
    if query.cursor is not None:
        add("(created_at, id) < ({}, {})", *_read_cursor(query.cursor))
    return conditions, arguments


def _cursor(last: FileView) -> str:
    return base64.urlsafe_b64encode(f"{last.created_at.isoformat()} {last.id.hex}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        at, _, ident = text.partition(" ")
        moment, file_id = datetime.fromisoformat(at), UUID(hex=ident)
    except (ValueError, binascii.Error) as error:
        raise Refused(422, "bad_cursor", "this cursor was not given by a list of files", "cursor") from error
    if moment.tzinfo is None:
        raise Refused(422, "bad_cursor", "this cursor was not given by a list of files", "cursor")
    return moment, file_id


async def change(
    connection: Connection, file: FileView, *, rating: int, favourite: bool, tags: Sequence[str]
) -> FileView:
    """Store what a person thinks of a file that this transaction has locked; returns it as it is now."""
    prompt = file.settings.prompt if file.settings else ""
    row = await connection.fetchrow(
        "UPDATE files SET rating = $2, favourite = $3, tags = $4, search = $5::text::tsvector,"
        " version = version + 1, updated_at = now() WHERE id = $1 RETURNING *",
        file.id,
        rating,
        favourite,
        list(tags),
        model.search_text(prompt, tags, file.name),
    )
    return view(row)


async def delete(connection: Connection, file: FileView) -> FileView:
    """Take a file that this transaction has locked out of the library; the row stays and holds its key."""
    row = await connection.fetchrow(
        "UPDATE files SET state = 'deleted', version = version + 1, updated_at = now() WHERE id = $1 RETURNING *",
        file.id,
    )
    return view(row)


async def stats(connection: Connection) -> LibraryStats:
    """How much the library holds."""
    rows = await connection.fetch(
        "SELECT state, count(*) AS files, sum(size)::bigint AS bytes FROM files"
        " WHERE state IN ('filed', 'trashed') GROUP BY state"
    )
    found = {row["state"]: (row["files"], row["bytes"]) for row in rows}
    (files, size), (trashed, trashed_size) = (found.get(state, (0, 0)) for state in ("filed", "trashed"))
    return LibraryStats(files=files, bytes=size, trashed=trashed, trashed_bytes=trashed_size)


async def use(connection: Connection, project_ids: Sequence[UUID]) -> Use:
    """How much the library holds of each of these projects, in their order."""
    rows = await connection.fetch(
        "SELECT project_id, count(*) AS files, sum(size)::bigint AS bytes FROM files"
        " WHERE project_id = ANY($1::uuid[]) AND state = 'filed' GROUP BY project_id",
        list(project_ids),
    )
    found = {row["project_id"]: row for row in rows}
    return Use(
        items=tuple(
            ProjectUse(project_id=each, files=found[each]["files"], bytes=found[each]["bytes"])
            if each in found
            else ProjectUse(project_id=each, files=0, bytes=0)
            for each in project_ids
        )
    )


async def epoch(connection: Connection) -> int:
    """The newest epoch of the ledger that we have heard of; 0 before the first filing."""
    found: int = await connection.fetchval("SELECT coalesce(max(epoch), 0) FROM filings")
    return found


def view(row: Mapping[str, Any]) -> FileView:
    """A row of `files` as everybody sees it."""
    return FileView(
        id=row["id"],
        key=row["key"],
        thumbnail_key=row["thumbnail_key"],
        job_id=row["job_id"],
        attempt_id=row["attempt_id"],
        code=row["code"],
        name=row["name"],
        project_id=row["project_id"],
        project=row["project"],
        date=row["date"],
        index=row["index"],
        type=row["type"],
        media_type=row["media_type"],
        size=row["size"],
        width=row["width"],
        height=row["height"],
        duration=row["duration"],
        frames=row["frames"],
        sha256=row["sha256"],
        settings=None if row["settings"] is None else Settings.model_validate(row["settings"]),
        rating=row["rating"],
        favourite=row["favourite"],
        tags=tuple(row["tags"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        trashed_at=row["trashed_at"],
        version=row["version"],
    )
