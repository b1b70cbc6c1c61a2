"""Makes the contact sheets of batches: asked for by the ledger, drawn one at a time, beside everything else.

The event leaves a committed row; this works the rows off. Drawing takes seconds and holds no transaction. Whoever dies
in between leaves a row that is still asked for: the same id and key are reserved again, and the sheet is drawn anew.
A newer end of a batch supersedes an older one, and its sheet takes the older sheet's place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from anime_common import failpoints, outbox
from anime_common.artifacts import Artifacts, Missing
from anime_common.clock import happens
from anime_common.contracts.batches import BatchEnded, SheetPlan
from anime_common.contracts.files import FileDeleted, SheetFailed, SheetMade
from anime_common.messages import Message, Outgoing, uuid8
from anime_common.outbox import Connection, transaction
from anime_common.outcomes import Unavailable
from anime_files import catalogue, metrics, model, pictures, sheets
from anime_files.model import SERVICE
from anime_files.store import MAX_SUFFIX, NoFreeKey

log = structlog.get_logger(__name__)


class Nothing(Exception):
    """There is nothing to show; the text says why."""


async def ask(connection: Connection, event: BatchEnded) -> None:
    """Note that a sheet is wanted; asked again, nothing changes. Older ones of the batch are no longer."""
    await connection.execute(
        "INSERT INTO sheets (batch_id, version, epoch, asked) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        event.batch_id,
        event.batch.version,
        event.epoch,
        event.model_dump(mode="json"),
    )
    older = await connection.fetch(
        "UPDATE sheets SET state = 'superseded', decided_at = now() WHERE batch_id = $1 AND state = 'asked'"
        " AND version < (SELECT max(version) FROM sheets WHERE batch_id = $1) RETURNING version",
        event.batch_id,
    )
    await _withdraw(connection, [file_id(event.batch_id, row["version"]) for row in older])


async def _withdraw(connection: Connection, idents: Sequence[UUID]) -> None:
    """What was reserved or written of sheets that are not wanted is removed."""
    await connection.execute(
        "UPDATE files SET state = 'withdrawn', removed_at = NULL, updated_at = now()"
        " WHERE id = ANY($1::uuid[]) AND state IN ('reserved', 'withdrawn')",
        list(idents),
    )


def file_id(batch_id: UUID, version: int) -> UUID:
    """The id of the sheet of one end of a batch."""
    return uuid8("sheet", batch_id, version)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sheet, as PNG, with its measures in pixels and its thumbnail, if it is not its own."""

    data: bytes
    width: int
    height: int
    thumbnail: bytes | None


@dataclass(slots=True)
class SheetMaker:
    """Runs until stopped; several may run at once, which costs work and changes nothing. `interval` in seconds.

    `committed` is called when there may be something to publish or to remove.
    """

    pool: asyncpg.Pool[asyncpg.Record]
    artifacts: Artifacts
    template: str
    stop: asyncio.Event
    interval: float
    thumbnail_pixels: int
    font: Path | None
    committed: Callable[[], None]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """A sheet may be wanted."""
        self._wake.set()

    async def run(self) -> None:
        """Make what is wanted, wait to be woken or for `interval`, and so on; what is away is waited for."""
        while not self.stop.is_set():
            self._wake.clear()
            try:
                while await self.make_one() and not self.stop.is_set():
                    pass
            except Unavailable as error:
                log.warning("sheets_wait", error=str(error))
            await self._rest()

    async def _rest(self) -> None:
        stopping = asyncio.ensure_future(self.stop.wait())
        try:
            waking = asyncio.ensure_future(happens(self._wake, within=self.interval))
            await asyncio.wait({stopping, waking}, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
        finally:
            stopping.cancel()

    async def make_one(self) -> bool:
        """Make the sheet that was asked for first; False when none is wanted. Raises Unavailable."""
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(
                "SELECT asked FROM sheets WHERE state = 'asked' ORDER BY created_at, batch_id LIMIT 1"
            )
        if row is None:
            return False
        event = BatchEnded.model_validate(row["asked"], extra="ignore")
        assert event.plan is not None
        try:
            with metrics.SHEET_SECONDS.time():
                await self._make(event, event.plan)
        except Nothing as error:
            await self._give_up(event, str(error))
        except (Unavailable, failpoints.FailpointError):
            raise
        except Exception as error:
            # One sheet that cannot be made must hold up neither the others nor the filing of pictures.
            log.exception("sheet_failed", batch_id=str(event.batch_id), version=event.batch.version)
            await self._give_up(event, f"it could not be made ({type(error).__name__}); the log of files says why")
        return True

    async def _make(self, event: BatchEnded, plan: SheetPlan) -> None:
        drawn = await self._drawn(event, plan)
        key = await self._reserve(event, plan, drawn)
        await failpoints.hit("files.sheet.after_reserve")
        ident = file_id(event.batch_id, event.batch.version)
        await self.artifacts.put(key, drawn.data)
        thumbnail_key = key
        if drawn.thumbnail is not None:
            thumbnail_key = model.thumbnail_key(ident)
            await self.artifacts.put(thumbnail_key, drawn.thumbnail)
        await failpoints.hit("files.sheet.after_write")
        await self._finish(event, drawn, thumbnail_key)
        await failpoints.hit("files.sheet.after_commit")

    async def _drawn(self, event: BatchEnded, plan: SheetPlan) -> Drawn:
        """The sheet of what is left of a batch's pictures; raises Nothing when nothing is."""
        ids = list({cell.file_id for cell in event.cells})
        async with transaction(self.pool) as connection:
            rows = await connection.fetch(
                "SELECT id, key, thumbnail_key, media_type, width, height FROM files"
                " WHERE id = ANY($1::uuid[]) AND state = 'filed'",
                ids,
            )
        known = {row["id"]: row for row in rows if row["thumbnail_key"] is not None}
        if not known:
            raise Nothing("none of its files is a picture" if rows else "none of its pictures is in the library")
        shape = sheets.shape_of({ident: (row["width"], row["height"]) for ident, row in known.items()})
        layout = sheets.lay_out(plan, event.cells, shape)
        drawing = await asyncio.to_thread(sheets.Drawing, layout, sheets.fonts(self.font, layout.text))
        for index, cell in enumerate(event.cells):
            row = known.get(cell.file_id)
            await asyncio.to_thread(drawing.put, index, await self._bytes(row) if row is not None else None)
        return await asyncio.to_thread(self._ended, drawing)

    async def _bytes(self, row: Mapping[str, Any]) -> bytes | None:
        try:
            return await self.artifacts.get(row["thumbnail_key"])
        except Missing:
            return None

    def _ended(self, drawing: sheets.Drawing) -> Drawn:
        data, (width, height) = drawing.finished(), drawing.image.size
        small = pictures.thumbnail(drawing.image, self.thumbnail_pixels)
        return Drawn(data, width, height, small)

    async def _reserve(self, event: BatchEnded, plan: SheetPlan, drawn: Drawn) -> str:
        """The key of the sheet; the same one whenever it is made again."""
        ident = file_id(event.batch_id, event.batch.version)
        async with transaction(self.pool) as connection:
            for suffix in range(1, MAX_SUFFIX):
                key = model.library_key(
                    self.template,
                    project=event.batch.project,
                    day=plan.date,
                    code=event.batch.code,
                    index=0,
                    media_type="image/png",
                    suffix=suffix,
                    kind="grid",
                )
                known = await connection.fetchval("SELECT key FROM files WHERE id = $1", ident)
                if known is not None:
                    return str(known)
                if await self.artifacts.exists(key):
                    continue
                made = await connection.fetchval(
                    "INSERT INTO files (id, state, key, index, code, project_id, project, date, type, media_type, size,"
                    " width, height, sha256, name, search) VALUES ($1, 'reserved', $2, 0, $3, $4, $5, $6, 'grid',"
                    " 'image/png', $7, $8, $9, $10, $11, $12::text::tsvector) ON CONFLICT DO NOTHING RETURNING key",
                    ident,
                    key,
                    event.batch.code,
                    event.batch.project_id,
                    event.batch.project,
                    plan.date,
                    len(drawn.data),
                    drawn.width,
                    drawn.height,
                    hashlib.sha256(drawn.data).hexdigest(),
                    plan.title,
                    model.search_text("", (), plan.title),
                )
                if made is not None:
                    return str(made)
        raise NoFreeKey(event.batch.code)

    async def _finish(self, event: BatchEnded, drawn: Drawn, thumbnail_key: str) -> None:
        """Make the sheet visible in place of an older one, and say so, once."""
        ident, version = file_id(event.batch_id, event.batch.version), event.batch.version
        async with transaction(self.pool) as connection:
            state = await connection.fetchval(
                "SELECT state FROM sheets WHERE batch_id = $1 AND version = $2 FOR UPDATE", event.batch_id, version
            )
            if state != "asked":
                # Somebody else has made it, or a newer one is wanted: what we have written is not needed.
                await _withdraw(connection, [ident])
                return
            row = await connection.fetchrow(
                "UPDATE files SET state = 'filed', thumbnail_key = $2, size = $3, width = $4, height = $5, sha256 = $6,"
                " created_at = now(), updated_at = now() WHERE id = $1 AND state = 'reserved' RETURNING *",
                ident,
                thumbnail_key,
                len(drawn.data),
                drawn.width,
                drawn.height,
                hashlib.sha256(drawn.data).hexdigest(),
            )
            assert row is not None, "reserved by us, and decided by nobody"
            file = catalogue.view(row)
            older = await connection.fetch(
                "UPDATE files SET state = 'deleted', version = version + 1, updated_at = now() WHERE state = 'filed'"
                " AND id IN (SELECT file_id FROM sheets WHERE batch_id = $1 AND version < $2 AND state = 'made')"
                " RETURNING *",
                event.batch_id,
                version,
            )
            await connection.execute(
                "UPDATE sheets SET state = 'made', file_id = $3, decided_at = now()"
                " WHERE batch_id = $1 AND version = $2",
                event.batch_id,
                version,
                ident,
            )
            made = SheetMade(batch_id=event.batch_id, batch_version=version, epoch=event.epoch, file=file)
            gone = [FileDeleted(file_id=row["id"], epoch=event.epoch, job_id=None, key=row["key"]) for row in older]
            versions = {row["id"]: row["version"] for row in older}
            told = [Outgoing(each, each.ident(version=versions[each.file_id])) for each in gone]
            await outbox.add(connection, [*told, Outgoing(made, made.ident())], SERVICE)
        metrics.FILED.labels(type="grid").inc()
        metrics.FILED_BYTES.labels(type="grid").inc(len(drawn.data))
        self.committed()

    async def _give_up(self, event: BatchEnded, reason: str) -> None:
        failed: Message = SheetFailed(
            batch_id=event.batch_id, batch_version=event.batch.version, epoch=event.epoch, reason=reason
        )
        async with transaction(self.pool) as connection:
            changed = await connection.fetchval(
                "UPDATE sheets SET state = 'failed', decided_at = now()"
                " WHERE batch_id = $1 AND version = $2 AND state = 'asked' RETURNING version",
                event.batch_id,
                event.batch.version,
            )
            if changed is not None:
                await _withdraw(connection, [file_id(event.batch_id, event.batch.version)])
                await outbox.add(connection, [Outgoing(failed, failed.ident())], SERVICE)
        if changed is not None:
            metrics.SHEETS_FAILED.inc()
        self.committed()
