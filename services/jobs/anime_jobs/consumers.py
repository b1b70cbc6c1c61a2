"""The dispatch consumers of workers: made when a worker is heard, deleted when it has been away for long.

Only the active scheduler does either, one after the other; so a worker that comes back while its consumer is being
deleted gets a new one at its next heartbeat.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from anime_common import provision, topology
from anime_common.bus import ApiError
from anime_common.outcomes import Unavailable
from anime_jobs import roster

if TYPE_CHECKING:
    from anime_common.bus import Bus
    from anime_jobs.fleet import Fleet
    from anime_jobs.settings import JobsSettings
    from anime_jobs.store import Connection

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Consumers:
    """Keeps a consumer for each worker that is there."""

    bus: Bus
    settings: JobsSettings
    _looked: float = float("-inf")

    async def ensure(self, worker: str) -> None:
        """Make a worker's consumer, if there is none; raises Unavailable or ApiError."""
        await provision.ensure_consumer(self.bus, topology.worker_consumer(worker), ack_wait=self.settings.ack_wait)

    async def ensure_present(self, fleet: Fleet) -> None:
        """Make the consumers of all workers that were heard lately; raises Unavailable or ApiError."""
        now = asyncio.get_running_loop().time()
        for worker, seen in list(fleet.seen.items()):
            if now - seen.at <= self.settings.worker_lost_after and not seen.heartbeat.goodbye:
                await self.ensure(worker)

    async def forget_absent(self, connection: Connection) -> list[str]:
        """Delete the consumers, and then the rows, of workers that were lost or left long ago; returns these."""
        now = asyncio.get_running_loop().time()
        away = self.settings.worker_forget_after
        if now - self._looked < min(away / 4, 60.0) or not self.bus.connected:
            return []
        self._looked = now
        forgotten: list[str] = []
        for worker in await roster.absent(connection, away):
            consumer = topology.worker_consumer(worker)
            try:
                await provision.delete_consumer(self.bus, consumer.stream, consumer.name)
            except (Unavailable, ApiError) as error:
                log.warning("worker_consumer_stays", worker=worker, error=str(error))
                continue
            if await roster.forget(connection, worker, away):
                log.info("worker_forgotten", worker=worker)
                forgotten.append(worker)
        return forgotten
