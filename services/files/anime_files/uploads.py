"""Takes what people have sent into the library: looked at, copied to a key of its own, with its thumbnail.

The gateway has left the bytes at `uploads/<id>`. As with filings, no transaction is held open over slow work, and
whoever dies between two steps leaves a state from which the same question, asked again, goes on: look, reserve the key,
copy, make visible. The bytes at `uploads/<id>` go last; what is never asked about expires (see `expiry`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

import asyncpg
import structlog

from anime_common import failpoints, outbox
from anime_common.artifacts import Artifacts, Corrupt, Missing, upload_key
from anime_common.contracts.files import FileUploaded, FileView, RegisterUpload
from anime_common.messages import Outgoing
from anime_common.outbox import Connection, transaction
from anime_common.outcomes import Refused, Unavailable
from anime_files import catalogue, metrics, model, pictures, upload_rows
from anime_files.model import SERVICE, NewUpload, Picture

log = structlog.get_logger(__name__)

FIELD = "file"
"""How people know the bytes."""

FINAL = frozenset({409, 422})
"""Refusals that asking again does not change: the bytes are of no more use."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """Registers uploads. One picture is looked at at a time, as a large one takes hundreds of megabytes.

    `committed` is called when there may be something to publish or to remove.
    """

    pool: asyncpg.Pool[asyncpg.Record]
    artifacts: Artifacts
    template: str
    zone: ZoneInfo
    max_pixels: int
    thumbnail_pixels: int
    committed: Callable[[], None]
    looking: asyncio.Semaphore
    _busy: WeakValueDictionary[UUID, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def register(self, question: RegisterUpload) -> FileView:
        """The file that an upload becomes; raises Refused (409, 422, 503), and Unavailable."""
        try:
            async with self._busy.setdefault(question.id, asyncio.Lock()):
                return await self._register(question)
        except Refused as refusal:
            metrics.REFUSED.labels(code=refusal.code).inc()
            if refusal.status in FINAL:
                await self._clear(question.id)
            raise

    async def _register(self, question: RegisterUpload) -> FileView:
        file = await self._known(question)
        if file is None:
            try:
                file = await self._take(question)
            except (Missing, Unavailable) as error:
                # Another instance that was asked the same may have finished meanwhile, and cleared up.
                file = await self._known(question)
                if file is None and isinstance(error, Missing):
                    text = "the bytes of the upload are not in the artifact store any more: send them again"
                    raise Refused(503, "upload_missing", text, FIELD) from error
                if file is None:
                    raise
            except Corrupt as error:
                text = "other bytes were sent under the same id or Idempotency-Key"
                raise Refused(409, "idempotency_conflict", text, FIELD) from error
        await self._clear(question.id)
        return file

    async def _known(self, question: RegisterUpload) -> FileView | None:
        async with transaction(self.pool) as connection:
            row = await upload_rows.find(connection, question.id)
        return None if row is None else checked(row, question)

    async def _take(self, question: RegisterUpload) -> FileView:
        picture = await self._look(question)
        reserved = await self._reserve(question, picture)
        if isinstance(reserved, FileView):
            return reserved
        await failpoints.hit("files.upload.after_reserve")
        await self.artifacts.copy(upload_key(question.id), reserved, question.sha256)
        thumbnail_key = reserved
        if picture.thumbnail is not None:
            thumbnail_key = model.thumbnail_key(question.id)
            await self.artifacts.put(thumbnail_key, picture.thumbnail)
        await failpoints.hit("files.upload.after_copy")
        file = await self._finish(question, thumbnail_key)
        await failpoints.hit("files.upload.after_commit")
        return file

    async def _look(self, question: RegisterUpload) -> Picture:
        """What the bytes show; raises Missing, Corrupt when they are not those announced, Refused for no picture."""
        source = upload_key(question.id)
        async with self.looking:
            if (await self.artifacts.stat(source)).size != question.size:
                raise Corrupt(f"{source} has another size than {question.size} bytes")
            data = await self.artifacts.get(source)
            try:
                return await asyncio.to_thread(self._seen, data, question.sha256)
            except pictures.NotAPicture as error:
                raise Refused(422, "not_a_picture", f"this cannot be taken: {error}", FIELD) from error

    def _seen(self, data: bytes, sha256: str) -> Picture:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"the bytes have another sha256 than {sha256}")
        return pictures.inspect(data, max_pixels=self.max_pixels, longest=self.thumbnail_pixels)

    async def _reserve(self, question: RegisterUpload, picture: Picture) -> str | FileView:
        """The key that is reserved for an upload; the file itself when it has been filed meanwhile."""
        new = NewUpload(question, picture, datetime.now(self.zone).date(), self.template)
        async with transaction(self.pool) as connection:
            key = await upload_rows.reserve(connection, new, self.artifacts.exists)
            if key is not None:
                return key
            row = await upload_rows.find(connection, question.id)
            assert row is not None
            file = checked(row, question)
            if file is not None:
                return file
            await upload_rows.revive(connection, question.id)
            return str(row["key"])

    async def _finish(self, question: RegisterUpload, thumbnail_key: str) -> FileView:
        async with transaction(self.pool) as connection:
            file = await upload_rows.finish(connection, question.id, thumbnail_key)
            if file is not None:
                await _tell(connection, file)
            else:
                await upload_rows.remove_again(connection, question.id)
        self.committed()
        if file is None:
            file = await self._known(question)
            if file is None:
                raise Unavailable(f"the upload {question.id} was given up while it was registered")
            return file
        metrics.FILED.labels(type=file.type).inc()
        metrics.FILED_BYTES.labels(type=file.type).inc(file.size)
        return file

    async def _clear(self, upload_id: UUID) -> None:
        try:
            await self.artifacts.delete(upload_key(upload_id))
        except Unavailable as error:
            log.warning("upload_left", upload_id=str(upload_id), reason="it expires later", error=str(error))


def checked(row: upload_rows.Row, question: RegisterUpload) -> FileView | None:
    """The file of a row, None if it is not filed yet; raises Refused when it can never become what is asked for."""
    if not upload_rows.stands_for(row, question):
        text = f"{question.id} is the id of another file: an id or Idempotency-Key stands for one upload"
        raise Refused(409, "idempotency_conflict", text)
    if row["state"] in {"deleted", "trashed"}:
        raise Refused(409, "upload_deleted", f"the upload {question.id} was deleted: send it under another key")
    return catalogue.view(row) if row["state"] == "filed" else None


async def _tell(connection: Connection, file: FileView) -> None:
    event = FileUploaded(file_id=file.id, epoch=await catalogue.epoch(connection), file=file)
    await outbox.add(connection, [Outgoing(event, event.ident())], SERVICE)
