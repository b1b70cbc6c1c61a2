"""Makes the contact sheets of batches: asked for by the ledger, drawn one at a time, beside everything else.

The event leaves a committed row; this works the rows off. Drawing takes seconds and holds no transaction. Every try
writes to a key of its own, so that what is stored of a sheet is true of its bytes, however many makers there are.
Whoever dies in between leaves a row that is still asked for: the sheet is drawn anew, and what the dead one wrote is
withdrawn when this or a newer end of its batch is decided. A newer sheet takes the older one's place.

What is away is waited for. Any other trouble is final: it is logged, counted and told as `SheetFailed`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
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
from anime_common.messages import Message, Outgoing, uuid7
from anime_common.outbox import Connection, transaction
from anime_common.outcomes import Unavailable
from anime_files import catalogue, metrics, model, pictures, sheets
from anime_files.model import SERVICE
from anime_files.store import MAX_SUFFIX, NoFreeKey

log = structlog.get_logger(__name__)

NOTHING = "nothing that its jobs made is in the library"


async def ask(connection: Connection, event: BatchEnded) -> None:
    """Note that a sheet is wanted; asked again, nothing changes. Older ones of the batch are no longer."""
    await connection.execute(
        "INSERT INTO sheets (batch_id, version, epoch, asked) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        event.batch_id,
        event.batch.version,
        event.epoch,
        event.model_dump(mode="json"),
    )
    await connection.execute(
        "UPDATE sheets SET state = 'superseded', decided_at = now() WHERE batch_id = $1 AND state = 'asked'"
        " AND (epoch, version) < (SELECT epoch, version FROM sheets WHERE batch_id = $1"
        "   ORDER BY epoch DESC, version DESC LIMIT 1)",
        event.batch_id,
    )


async def _withdraw(connection: Connection, batch_id: UUID) -> None:
    """What was reserved for sheets of a batch that are decided, and not filed: the sweeper removes it."""
    await connection.execute(
        "UPDATE files SET state = 'withdrawn', removed_at = NULL, updated_at = now() WHERE state = 'reserved'"
        " AND id IN (SELECT t.file_id FROM sheet_tries t JOIN sheets s USING (batch_id, epoch, version)"
        "   WHERE t.batch_id = $1 AND s.state <> 'asked')",
        batch_id,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sheet that was asked for: the end of a batch that it shows. "Newer" compares (epoch, version)."""

    batch_id: UUID
    epoch: int
    version: int
    asked: Mapping[str, Any]


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
            except Exception:
                # Not even the failure could be written: sheets wait, the rest of the service goes on.
                metrics.SHEETS_FAILED.labels(code="unwritten").inc()
                log.exception("sheets_stuck")
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
        """Make the sheet that was asked for first, or say that it failed; False when none is wanted.

        Raises Unavailable when the store or the database is away: the sheet is still wanted then.
        """
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(
                "SELECT batch_id, epoch, version, asked FROM sheets WHERE state = 'asked'"
                " ORDER BY created_at, batch_id LIMIT 1"
            )
        if row is None:
            return False
        wanted = Wanted(**row)
        try:
            await self._make(wanted)
        except Unavailable:
            raise
        except Exception as error:
            log.exception("sheet_failed", batch_id=str(wanted.batch_id), version=wanted.version)
            await self._give_up(wanted, "error", f"it could not be made: {type(error).__name__}, see the log of files")
        return True

    async def _make(self, wanted: Wanted) -> None:
        event = BatchEnded.model_validate(wanted.asked, extra="ignore")
        if event.plan is None:
            raise ValueError("a sheet without a plan was asked for")
        with metrics.SHEET_SECONDS.time():
            drawn = await self._drawn(event, event.plan)
        if drawn is None:
            await self._give_up(wanted, "nothing", NOTHING)
            return
        ident = uuid7()
        key = await self._reserve(wanted, ident, event, event.plan, drawn)
        if key is None:
            return
        await failpoints.hit("files.sheet.after_reserve")
        await self.artifacts.put(key, drawn.data)
        thumbnail_key = key
        if drawn.thumbnail is not None:
            thumbnail_key = model.thumbnail_key(ident)
            await self.artifacts.put(thumbnail_key, drawn.thumbnail)
        await failpoints.hit("files.sheet.after_write")
        await self._finish(wanted, ident, drawn, thumbnail_key)
        await failpoints.hit("files.sheet.after_commit")

    async def _drawn(self, event: BatchEnded, plan: SheetPlan) -> Drawn | None:
        """The sheet of what is left of a batch's pictures; None when nothing is."""
        ids = list({cell.file_id for cell in event.cells})
        async with transaction(self.pool) as connection:
            rows = await connection.fetch(
                "SELECT id, thumbnail_key, type, width, height, duration FROM files"
                " WHERE id = ANY($1::uuid[]) AND state = 'filed'",
                ids,
            )
        known = {row["id"]: row for row in rows}
        if not known:
            return None
        shape = sheets.shape_of({ident: (row["width"], row["height"]) for ident, row in known.items()})
        layout = sheets.lay_out(plan, event.cells, shape)
        drawing = await asyncio.to_thread(sheets.Drawing, layout, sheets.fonts(self.font, layout.text))
        for index in range(len(layout.places)):
            row = known.get(event.cells[index].file_id)
            if row is not None and row["thumbnail_key"] is None:
                drawing.tell(index, sheets.said(row["type"], row["duration"]))
            else:
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

    async def _reserve(
        self, wanted: Wanted, ident: UUID, event: BatchEnded, plan: SheetPlan, drawn: Drawn
    ) -> str | None:
        """A key for this try, which nobody else ever writes to; None when the sheet is decided. Raises NoFreeKey."""
        async with transaction(self.pool) as connection:
            # Whoever decides it meanwhile waits for this row, and withdraws our try.
            state = await connection.fetchval(
                "SELECT state FROM sheets WHERE batch_id = $1 AND epoch = $2 AND version = $3 FOR SHARE",
                wanted.batch_id,
                wanted.epoch,
                wanted.version,
            )
            if state != "asked":
                return None
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
                if await self.artifacts.exists(key):
                    continue
                made = await connection.fetchval(
                    "INSERT INTO files (id, state, key, index, code, project_id, project, date, type, media_type, size,"
                    " width, height, sha256, name, search) VALUES ($1, 'reserved', $2, 0, $3, $4, $5, $6, 'grid',"
                    " 'image/png', $7, $8, $9, $10, $11, $12::text::tsvector) ON CONFLICT (key) DO NOTHING"
                    " RETURNING key",
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
                    await connection.execute(
                        "INSERT INTO sheet_tries (file_id, batch_id, epoch, version) VALUES ($1, $2, $3, $4)",
                        ident,
                        wanted.batch_id,
                        wanted.epoch,
                        wanted.version,
                    )
                    return str(made)
        raise NoFreeKey(event.batch.code)

    async def _finish(self, wanted: Wanted, ident: UUID, drawn: Drawn, thumbnail_key: str) -> None:
        """Make the sheet visible in place of an older one, and say so, once; what others wrote is withdrawn."""
        batch_id, epoch, version = wanted.batch_id, wanted.epoch, wanted.version
        async with transaction(self.pool) as connection:
            decided = await connection.fetchval(
                "UPDATE sheets SET state = 'made', file_id = $4, decided_at = now() WHERE batch_id = $1 AND epoch = $2"
                " AND version = $3 AND state = 'asked' RETURNING version",
                batch_id,
                epoch,
                version,
                ident,
            )
            if decided is None:
                # Somebody else has made it, or a newer one is wanted. What we wrote may have been swept too early.
                await connection.execute(
                    "UPDATE files SET state = 'withdrawn', removed_at = NULL, updated_at = now() WHERE id = $1", ident
                )
            else:
                await self._show(connection, wanted, ident, thumbnail_key)
        if decided is not None:
            metrics.FILED.labels(type="grid").inc()
            metrics.FILED_BYTES.labels(type="grid").inc(len(drawn.data))
        self.committed()

    async def _show(self, connection: Connection, wanted: Wanted, ident: UUID, thumbnail_key: str) -> None:
        row = await connection.fetchrow(
            "UPDATE files SET state = 'filed', thumbnail_key = $2, removed_at = NULL, created_at = now(),"
            " updated_at = now() WHERE id = $1 AND state = 'reserved' RETURNING *",
            ident,
            thumbnail_key,
        )
        if row is None:
            raise RuntimeError("a sheet that is still wanted was withdrawn")
        older = await connection.fetch(
            "UPDATE files SET state = 'deleted', version = version + 1, updated_at = now() WHERE state = 'filed'"
            " AND id IN (SELECT file_id FROM sheets WHERE batch_id = $1 AND (epoch, version) < ($2, $3)"
            " AND state = 'made') RETURNING *",
            wanted.batch_id,
            wanted.epoch,
            wanted.version,
        )
        await _withdraw(connection, wanted.batch_id)
        made = SheetMade(
            batch_id=wanted.batch_id, batch_version=wanted.version, epoch=wanted.epoch, file=catalogue.view(row)
        )
        gone = [FileDeleted(file_id=row["id"], epoch=wanted.epoch, job_id=None, key=row["key"]) for row in older]
        versions = {row["id"]: row["version"] for row in older}
        told = [Outgoing(each, each.ident(version=versions[each.file_id])) for each in gone]
        await outbox.add(connection, [*told, Outgoing(made, made.ident())], SERVICE)

    async def _give_up(self, wanted: Wanted, code: str, reason: str) -> None:
        """Say that there will be no sheet, once, unless it was decided otherwise meanwhile."""
        failed: Message = SheetFailed(
            batch_id=wanted.batch_id, batch_version=wanted.version, epoch=wanted.epoch, reason=reason
        )
        async with transaction(self.pool) as connection:
            changed = await connection.fetchval(
                "UPDATE sheets SET state = 'failed', decided_at = now(), reason = $4"
                " WHERE batch_id = $1 AND epoch = $2 AND version = $3 AND state = 'asked' RETURNING version",
                wanted.batch_id,
                wanted.epoch,
                wanted.version,
                reason,
            )
            if changed is not None:
                await _withdraw(connection, wanted.batch_id)
                await outbox.add(connection, [Outgoing(failed, failed.ident())], SERVICE)
        if changed is not None:
            metrics.SHEETS_FAILED.labels(code=code).inc()
        self.committed()
