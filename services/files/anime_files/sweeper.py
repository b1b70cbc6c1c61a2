"""Removes objects from the store: those of deleted files, and those of filings that failed after they were copied.

Nothing else removes anything from the library. It goes by committed rows alone, so whoever dies in between, or writes
an object late, leaves work that the next round finds. What lies in staging is another matter: see `staging`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import asyncpg
import structlog

from anime_common import failpoints
from anime_common.artifacts import Artifacts
from anime_common.outbox import transaction
from anime_common.outcomes import Unavailable
from anime_files import metrics, model, store

log = structlog.get_logger(__name__)

BATCH = 100


@dataclass(slots=True)
class Sweeper:
    """Runs until stopped; several may run at once. `interval` in seconds."""

    pool: asyncpg.Pool[asyncpg.Record]
    artifacts: Artifacts
    stop: asyncio.Event
    interval: float
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There may be something to remove."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep, wait to be woken or for `interval`, and so on; a store or database that is away is waited for."""
        while not self.stop.is_set():
            self._wake.clear()
            try:
                while await self.sweep() == BATCH:
                    pass
            except Unavailable as error:
                log.warning("sweeper_waits", error=str(error))
            await self._rest()

    async def sweep(self) -> int:
        """Remove the objects of up to `BATCH` files; returns of how many. Raises Unavailable."""
        async with transaction(self.pool) as connection:
            found = await store.to_remove(connection, BATCH)
            for file in found:
                await self.artifacts.delete(file.key)
                await self.artifacts.delete(model.thumbnail_key(file.id))
                await failpoints.hit("files.sweeper.removed")
            await store.removed(connection, [file.id for file in found])
        metrics.REMOVED.inc(len(found))
        return len(found)

    async def _rest(self) -> None:
        waiting = {asyncio.ensure_future(event.wait()) for event in (self._wake, self.stop)}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
