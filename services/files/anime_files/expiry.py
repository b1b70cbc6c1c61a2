"""Removes uploads that were never taken into the library: somebody did not come to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog

from anime_common.artifacts import UPLOADS, Artifacts
from anime_common.clock import happens
from anime_common.outbox import transaction
from anime_common.outcomes import Unavailable
from anime_files import metrics, model, upload_rows

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadSweeper:
    """Runs until stopped; several may run at once. `interval` and `grace` in seconds.

    `committed` is called when there may be something to remove from the library.
    """

    pool: asyncpg.Pool[asyncpg.Record]
    artifacts: Artifacts
    stop: asyncio.Event
    interval: float
    grace: float
    committed: Callable[[], None]

    async def run(self) -> None:
        """Sweep every `interval`; a store or database that is away is waited for."""
        while not await happens(self.stop, within=self.interval):
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("upload_sweeper_waits", error=str(error))

    async def sweep(self) -> int:
        """Remove what was left `grace` or longer ago, and withdraw what was reserved for it; returns how many objects.

        Raises Unavailable.
        """
        before = datetime.now(UTC) - timedelta(seconds=self.grace)
        removed = await self.artifacts.remove_unfinished(UPLOADS, before)
        for key in model.expired_uploads(await self.artifacts.objects(UPLOADS), before):
            await self.artifacts.delete(key)
            removed += 1
            log.info("upload_expired", key=key)
        async with transaction(self.pool) as connection:
            withdrawn = await upload_rows.withdraw(connection, before)
        if withdrawn:
            self.committed()
        metrics.EXPIRED.inc(removed)
        return removed
