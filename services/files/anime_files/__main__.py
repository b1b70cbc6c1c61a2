"""Starts the files service: the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from zoneinfo import ZoneInfo

from anime_common import db, rpc
from anime_common.artifacts import Artifacts
from anime_common.consume import Loop
from anime_common.contracts.files import REGISTER_UPLOAD, RESTORE_FILE
from anime_common.http import Check
from anime_common.leader import Leader
from anime_common.outbox import Relay, transaction
from anime_common.outcomes import Unavailable
from anime_common.service import Runtime, run
from anime_common.topology import FILES, FILES_LEDGER
from anime_files.copying import Copier
from anime_files.expiry import UploadSweeper
from anime_files.handlers import Ledger
from anime_files.model import SERVICE
from anime_files.queries import Library
from anime_files.settings import FilesSettings
from anime_files.sheet_maker import SheetMaker
from anime_files.staging import StagingSweeper
from anime_files.sweeper import Sweeper
from anime_files.trash import Trash
from anime_files.uploads import Uploads

SCHEMA = "library"
APPLICATION = "anime-files"


async def build(runtime: Runtime[FilesSettings]) -> None:
    """Wire the service: consumer, relay, sweeper, questions, health."""
    settings, bus, stop = runtime.settings, runtime.bus, runtime.stop
    dsn, password = settings.postgres_dsn, settings.postgres_secret()
    pool = await db.create_pool(
        dsn, schema=SCHEMA, application_name=APPLICATION, password=password, max_size=settings.postgres_pool
    )
    connect = partial(db.connect, dsn, schema=SCHEMA, application_name=APPLICATION, password=password)
    runtime.closing.push_async_callback(db.close, pool)
    artifacts = Artifacts(settings.artifacts_url)
    relay = Relay(bus, SERVICE, poll=settings.files_relay_interval)
    sweeper = Sweeper(pool, artifacts, stop, settings.files_sweep_interval)

    def told() -> None:
        relay.wake()
        sweeper.wake()

    maker = SheetMaker(
        pool,
        artifacts,
        settings.files_key_template,
        stop,
        settings.files_sweep_interval,
        settings.files_thumbnail_pixels,
        settings.files_font,
        told,
    )

    def committed() -> None:
        told()
        maker.wake()

    copier = Copier(
        artifacts,
        asyncio.Semaphore(settings.files_parallel),
        max_pixels=settings.files_max_pixels,
        thumbnail_pixels=settings.files_thumbnail_pixels,
    )
    ledger = Ledger(pool, artifacts, copier, settings.files_key_template, committed)
    runtime.checks |= {"database": _database(pool), "artifacts": _artifacts(artifacts)}
    leader = Leader("library:relay", connect, stop)
    runtime.spawn(leader.run(relay.run), "relay")
    runtime.spawn(sweeper.run(), "sweeper")
    runtime.spawn(maker.run(), "contact sheets")
    staging = StagingSweeper(bus, artifacts, stop, settings.files_sweep_interval, settings.files_staging_grace)
    runtime.spawn(staging.run(), "staging sweeper")
    runtime.spawn(Loop(bus, FILES_LEDGER, ledger.handle, stop, batch=settings.files_batch).run(), "ledger events")
    expiry = UploadSweeper(pool, artifacts, stop, settings.files_sweep_interval, settings.files_upload_grace, committed)
    runtime.spawn(expiry.run(), "upload sweeper")
    uploads = _uploads(settings, pool, artifacts, committed)
    trash = Trash(pool, stop, settings.files_sweep_interval, settings.files_trash_days, committed)
    runtime.spawn(trash.run(), "trash")
    answers = Library(pool, committed).answers()
    await rpc.serve(bus, {**answers, REGISTER_UPLOAD: uploads.register, RESTORE_FILE: trash.restore})


def _uploads(settings: FilesSettings, pool: db.Pool, artifacts: Artifacts, committed: Callable[[], None]) -> Uploads:
    return Uploads(
        pool,
        artifacts,
        settings.files_key_template,
        ZoneInfo(settings.time_zone),
        max_pixels=settings.files_upload_pixels,
        thumbnail_pixels=settings.files_thumbnail_pixels,
        committed=committed,
        looking=asyncio.Semaphore(1),
    )


def _database(pool: db.Pool) -> Check:
    async def check() -> str | None:
        try:
            async with transaction(pool) as connection:
                await connection.execute("SELECT FROM filings LIMIT 1")
        except Unavailable as error:
            return str(error)
        return None

    return check


def _artifacts(artifacts: Artifacts) -> Check:
    async def check() -> str | None:
        try:
            await artifacts.put("health/files", b"ok")
        except (Unavailable, OSError) as error:
            return f"the artifact store cannot be written: {error}"
        return None

    return check


if __name__ == "__main__":
    run(SERVICE, FILES, FilesSettings, build)
