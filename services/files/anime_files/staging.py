"""Removes what was left in staging by attempts that are over.

The end of a job clears its staging at once (see `handlers`). A worker that was fenced may write later than that, and
nobody tells us; so what has lain there for a while is looked at again, and the ledger is asked whether it is needed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from anime_common import rpc
from anime_common.artifacts import Artifacts, staging_prefix
from anime_common.clock import happens
from anime_common.contracts.jobs import GET_JOB, Job, JobQuestion
from anime_common.outcomes import Refused, Unavailable
from anime_files import metrics, model

if TYPE_CHECKING:
    from anime_common.bus import Bus

log = structlog.get_logger(__name__)

STAGING = "staging"
GONE = frozenset({404, 410})
"""How the ledger says that there is no such job, or that it was refused: then nothing of it is needed."""


@dataclass(frozen=True, slots=True)
class StagingSweeper:
    """Runs until stopped; several may run at once. `interval` and `grace` in seconds."""

    bus: Bus
    artifacts: Artifacts
    stop: asyncio.Event
    interval: float
    grace: float

    async def run(self) -> None:
        """Sweep every `interval`; a store or ledger that is away is waited for."""
        while not await happens(self.stop, within=self.interval):
            try:
                await self.sweep()
            except (Unavailable, Refused) as error:
                log.warning("staging_sweeper_waits", error=str(error))

    async def sweep(self) -> int:
        """Remove the files of attempts that are over, `grace` after the last was written; returns how many.

        Raises Unavailable when the store is away, Refused when the ledger does not answer.
        """
        removed = 0
        before = datetime.now(UTC) - timedelta(seconds=self.grace)
        for job_id, attempts in model.abandoned(await self.artifacts.objects(STAGING), before).items():
            if self.stop.is_set():
                break
            job = await self._job(job_id)
            over = attempts if job is None else model.over(job, attempts)
            for attempt in over:
                removed += await self.artifacts.delete_all(staging_prefix(job_id, attempt))
                log.info("staging_cleared", job_id=str(job_id), attempt_id=str(attempt))
            await self.artifacts.remove_empty(staging_prefix(job_id))
        metrics.CLEARED.inc(removed)
        return removed

    async def _job(self, job_id: UUID) -> Job | None:
        try:
            return await rpc.call(self.bus, GET_JOB, JobQuestion(job=str(job_id)))
        except Refused as refusal:
            if refusal.status in GONE:
                return None
            raise
