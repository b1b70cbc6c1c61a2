"""The queue as it is, and what is ahead: when the waiting jobs should end, from what was measured of those that did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anime_common.contracts.jobs import QueueState
from anime_common.contracts.vocabulary import JobState
from anime_jobs import line, store
from anime_jobs.estimate import Estimates, Sample, learn
from anime_jobs.fleet import OWNED, Fleet, View, free_workers
from anime_jobs.forecasting import Forecast, forecast, in_hand
from anime_jobs.model import Record
from anime_jobs.queue import PLACES, entries
from anime_jobs.scheduler import Waiting, Worker
from anime_jobs.store import Connection

if TYPE_CHECKING:
    from anime_jobs.settings import JobsSettings

SAMPLES = 300
"""Finished attempts of a model that are looked at, the newest first."""
LEARN_AGAIN = 10.0
"""Seconds after which the estimates are learned anew."""


async def samples(connection: Connection) -> list[Sample]:
    """The newest finished attempts of each model. Members of one offer ran together: each has its share by work."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(
        "SELECT a.*, greatest(a.seconds - a.loading, 0) * a.work / sum(a.work) OVER (PARTITION BY a.offer_id) AS spent"
        " FROM models m CROSS JOIN LATERAL (SELECT t.worker, coalesce(t.engine, '') AS engine, t.model, t.work,"
        "   t.offer_id, extract(epoch FROM t.ended_at - t.started_at)::float AS seconds,"
        "   coalesce((t.timings ->> 'loading')::float, 0) AS loading,"
        "   greatest((j.settings ->> 'count')::int, 1) AS pictures FROM attempts t JOIN jobs j ON j.id = t.job_id"
        "   WHERE t.model = m.key AND t.outcome = 'finished' AND t.started_at IS NOT NULL AND t.work > 0"
        "   ORDER BY t.ended_at DESC LIMIT $1) a",
        SAMPLES,
    )
    return [
        Sample(
            row["worker"], row["engine"], row["model"], row["work"] / row["pictures"], row["work"], row["spent"],
            row["loading"],
        )
        for row in rows
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """The queue as of now; `untold` are the seconds until the end of jobs that nobody was told of before."""

    state: QueueState
    untold: Mapping[UUID, float]


@dataclass(slots=True)
class Outlook:
    """Sees the queue and forecasts it; what it learned is kept for some seconds."""

    fleet: Fleet
    settings: JobsSettings
    _active: store.Active = field(default_factory=store.Active)
    _learned: tuple[float, Estimates] | None = None

    async def estimates(self, connection: Connection) -> Estimates:
        """What is known of how long jobs take."""
        now = asyncio.get_running_loop().time()
        if self._learned is None or now - self._learned[0] > LEARN_AGAIN:
            self._learned = (now, await asyncio.to_thread(learn, await samples(connection)))
        return self._learned[1]

    async def look(self, connection: Connection) -> Look:
        """The queue from PostgreSQL and the fleet."""
        now = datetime.now(UTC)
        ready = {lined.job_id: lined for lined in await line.ready(connection, PLACES)}
        sleeping = await line.sleeping(connection, PLACES)
        counts = await store.counts(connection, ended=False)
        active = await self._active.read(connection)
        workers = free_workers(active, self._view(now), look_ahead=0)
        hold = await line.held(connection)
        queue = [lined.waiting for lined in ready.values() if lined.waiting is not None]
        forecasts = await self._forecasts(connection, queue, workers, active, now)
        if hold.since is not None:
            forecasts = [replace(each, eta_seconds=None) for each in forecasts]
        unsettled = [lined for lined in ready.values() if lined.waiting is None]
        state = QueueState(
            at=now,
            entries=tuple(entries(forecasts, ready, [*unsettled, *sleeping], workers, now, hold)),
            waiting=counts[JobState.PREPARING] + counts[JobState.QUEUED],
            counts=counts,
            workers=len(workers),
            paused_since=hold.since,
            pause_reason=hold.reason,
        )
        told = {each.job_id: each.eta_seconds for each in forecasts if each.eta_seconds is not None}
        return Look(state, {job: end for job, end in told.items() if ready[job].foreseen_at is None})

    async def _forecasts(
        self,
        connection: Connection,
        queue: Iterable[Waiting],
        workers: Sequence[Worker],
        active: Iterable[Record],
        now: datetime,
    ) -> list[Forecast]:
        times = await self.estimates(connection)
        owned = [record for record in active if record.state in OWNED]
        running: dict[str, list[UUID]] = {}
        for record in owned:
            running.setdefault(record.job.worker or "", []).append(record.job.project_id)
        served, rooms = await line.last_served(connection), await line.rooms(connection)
        hands = in_hand(workers, owned, self.fleet, times, now)
        return forecast(queue, hands, times, served, now, self.settings.rules(), rooms, running)

    def _view(self, now: datetime) -> View:
        return View(
            fleet=self.fleet,
            now=asyncio.get_running_loop().time(),
            deaf_until=0.0,
            lost_after=self.settings.worker_lost_after,
            lost=frozenset(),
            facts_seen={},
            max_repeats=0,
            at=now,
        )
