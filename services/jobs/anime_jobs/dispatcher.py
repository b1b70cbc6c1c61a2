"""The one active scheduler: hears heartbeats, compares, gives jobs to workers.

All writes go over the leader's connection.

One look at the whole (`_tick`) happens at each wake (a commit, a heartbeat) and at least every `tick` seconds:
heartbeats → stored workers and models → what is lost, repeated or due → plan → offers → orders → the queue's state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from pydantic import ValidationError

from anime_common import failpoints, outbox, provision, topology
from anime_common.bus import ApiError, Received
from anime_common.clock import happens
from anime_common.contracts.generator import Heartbeat, Offer, OfferedJob
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Unavailable
from anime_jobs import line, metrics, roster, store
from anime_jobs.books import Books, opened
from anime_jobs.changes import outgoing
from anime_jobs.consumers import Consumers
from anime_jobs.fleet import OWNED, Attention, Fleet, View, free_workers, judge
from anime_jobs.forecasting import Hands, in_hand
from anime_jobs.model import DeadlinePassed, Dispatch, ModelAnnounced, OfferFenced, OfferRepeated, Record, WorkerLost
from anime_jobs.scheduler import PlannedOffer, plan

if TYPE_CHECKING:
    from anime_common.bus import Bus
    from anime_jobs.handlers import Ledger
    from anime_jobs.queries import Queries

log = structlog.get_logger(__name__)

PER_PROJECT = 64
"""How many waiting jobs of each project and class one plan looks at."""

FACTS_CACHE = 0.2
STORE_HEARTBEAT = 10.0
PRUNE_INTERVAL = 3600.0
QUEUE_SHARE = 0.05
"""Of the time, what announcing the queue may take."""


@dataclass(slots=True)
class _Facts:
    """How far the ledger has consumed the facts: the stream's creation, and the ack floor of our consumer."""

    created: str = ""
    floor: int = 0
    at: float = 0.0


@dataclass(slots=True)
class Dispatcher:
    """Made once a process; `run` works only while this process leads."""

    bus: Bus
    ledger: Ledger
    fleet: Fleet
    queries: Queries
    committed: Callable[[], None]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stored: dict[str, tuple[UUID, float, int]] = field(default_factory=dict)
    _facts: _Facts = field(default_factory=_Facts)
    _active: store.Active = field(default_factory=store.Active)
    _attention: Attention = field(init=False)
    _consumers: Consumers = field(init=False)
    _start_tail: tuple[str, int] = ("", 0)
    _since: float = 0.0
    _applied: float = 0.0
    _queue_due: float = 0.0
    _pruned: float = 0.0

    def __post_init__(self) -> None:
        self._attention = Attention(self.ledger.settings.worker_lost_after / 2)
        self._consumers = Consumers(self.bus, self.ledger.settings)

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    async def on_heartbeat(self, received: Received) -> None:
        """Take a heartbeat; every instance hears them."""
        try:
            heartbeat = Heartbeat.parse(received.data)
        except ValidationError as error:
            log.warning("bad_heartbeat", subject=received.subject, error=str(error))
            return
        if received.subject != heartbeat.subject_for():
            log.warning("bad_heartbeat", subject=received.subject, error=f"names the worker {heartbeat.worker}")
            return
        now = asyncio.get_running_loop().time()
        self.fleet.hear(heartbeat, now, datetime.now(UTC))
        self.fleet.forget_before(now - self.ledger.settings.worker_forget_after)
        self.wake()

    def topology_changed(self) -> None:
        """The bus has come back, perhaps without its streams: apply the topology at the next look."""
        self._applied = 0.0
        self._facts = _Facts()
        self.wake()

    async def run(self, connection: store.Connection) -> None:
        """Schedule while leading; raises when the leader's connection is lost."""
        settings = self.ledger.settings
        loop = asyncio.get_running_loop()
        self._since, self._stored, self._applied = loop.time(), {}, 0.0
        self._start_tail, self._active = ("", 0), store.Active()
        for row in await roster.workers(connection):
            if row["worker"] not in self.fleet.seen:
                self.fleet.remember(Heartbeat.model_validate(row["heartbeat"]))
        while True:
            self._wake.clear()
            began = loop.time()
            await self._tick(connection)
            metrics.PLAN_SECONDS.observe(loop.time() - began)
            pause = settings.tick
            soon = await line.next_wake(connection)
            if soon is not None:
                pause = min(pause, max((soon - datetime.now(UTC)).total_seconds(), 0.01))
            await happens(self._wake, within=pause)

    async def _tick(self, connection: store.Connection) -> None:
        news, self.fleet.news = frozenset(self.fleet.news), set()
        await self._apply_topology()
        await self._read_facts()
        await self._store_heartbeats(connection, news)
        known = {
            row["worker"]: row["incarnation"] for row in await roster.workers(connection) if row["status"] == "live"
        }
        active = await self._active.read(connection)
        view = await self._view(connection, known, active, news)
        verdict = judge(active, known, view)
        due = [(record, DeadlinePassed()) for record in active if _is_due(record, view.at)]
        announced = await self._announced(connection)
        for worker, incarnation in verdict.lost:
            log.warning("worker_lost", worker=worker, incarnation=str(incarnation))
            await roster.lose_worker(connection, worker, incarnation)
        inputs: list[tuple[Record, object]] = [*verdict.inputs, *due, *announced]
        if inputs:
            await self._advance(connection, inputs)
            active = await self._active.read(connection)
        await self._dispatch(connection, active, view)
        for order in verdict.orders:
            await self.bus.tell(order)
        await self._tell_queue(connection)
        for worker in await self._consumers.forget_absent(connection):
            self._stored.pop(worker, None)
        await self._prune(connection)

    async def _apply_topology(self) -> None:
        loop = asyncio.get_running_loop()
        if self._applied and loop.time() - self._applied < self.ledger.settings.topology_interval:
            return
        try:
            await provision.apply(self.bus, ack_wait=self.ledger.settings.ack_wait)
            await self._consumers.ensure_present(self.fleet)
        except (Unavailable, ApiError) as error:
            log.warning("topology_not_applied", error=str(error))
            return
        self._applied = loop.time()

    async def _read_facts(self) -> None:
        """Learn how far our consumer of facts is; on failure nothing counts as seen."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._facts.at < FACTS_CACHE:
            return
        consumer = topology.JOBS_FACTS
        try:
            info = await self.bus.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}", timeout=1.0)
            if self._facts.created == "" or self._start_tail[0] == "":
                state = await self.bus.stream_state(consumer.stream)
                self._facts.created = state.created
                if self._start_tail[0] == "":
                    self._start_tail = (state.created, state.last)
            self._facts.floor, self._facts.at = info["ack_floor"]["stream_seq"], loop.time()
            self._attention.answered(self._facts.at)
        except (Unavailable, ApiError):
            self._facts = _Facts()

    def _facts_seen(self, worker: str) -> bool:
        """Whether every fact that the worker named as its last has been consumed."""
        if not self._facts.created:
            return False
        seen = self.fleet.seen.get(worker)
        if seen is None:
            created, last = self._start_tail
        elif seen.heartbeat.last_fact is None:
            return True
        else:
            created, last = seen.heartbeat.last_fact.stream_created, seen.heartbeat.last_fact.sequence
        return created != self._facts.created or self._facts.floor >= last

    async def _store_heartbeats(self, connection: store.Connection, news: frozenset[str]) -> None:
        loop = asyncio.get_running_loop()
        heard = {worker: seen.heartbeat for worker, seen in self.fleet.seen.items() if worker in news}
        for worker, heartbeat in heard.items():
            models = 0 if heartbeat.brief else hash((heartbeat.models, heartbeat.loras, heartbeat.embeddings))
            known = self._stored.get(worker)
            same = known is not None and known[0] == heartbeat.incarnation and known[2] == models
            if same and known is not None and loop.time() - known[1] < STORE_HEARTBEAT and not heartbeat.goodbye:
                continue
            if await roster.lost_among(connection, [heartbeat.incarnation]):
                continue
            try:
                await self._consumers.ensure(worker)
            except (Unavailable, ApiError) as error:
                log.warning("worker_consumer_missing", worker=worker, error=str(error))
                self.fleet.news.add(worker)
                continue
            async with connection.transaction():
                await roster.keep_worker(connection, heartbeat, "gone" if heartbeat.goodbye else "live")
                if (known is None or known[2] != models) and not heartbeat.brief:
                    await roster.announce(connection, self.fleet.catalogue(heartbeat))
            self._stored[worker] = (heartbeat.incarnation, loop.time(), models)

    async def _view(
        self, connection: store.Connection, known: dict[str, UUID], active: Sequence[Record], news: frozenset[str]
    ) -> View:
        incarnations = {seen.heartbeat.incarnation for seen in self.fleet.seen.values()} | set(known.values())
        incarnations |= {record.incarnation for record in active if record.incarnation is not None}
        settings = self.ledger.settings
        workers = set(known) | set(self.fleet.seen)
        lost = await roster.lost_among(connection, incarnations)
        now = asyncio.get_running_loop().time()
        return View(
            fleet=self.fleet,
            now=now,
            deaf_until=max(self._since, self.bus.connected_since, self._attention.unbroken_since(now)),
            lost_after=settings.worker_lost_after,
            lost=lost,
            facts_seen={worker: self._facts_seen(worker) for worker in workers},
            max_repeats=settings.offer_repeats,
            at=datetime.now(UTC),
            news=news,
        )

    async def _announced(self, connection: store.Connection) -> list[tuple[Record, object]]:
        """Waiting jobs whose model can be settled now."""
        unsettled = await store.unsettled(connection)
        if not unsettled:
            return []
        models = await roster.models(connection)
        if not models:
            return []
        by_key = {info.key: info for info in models}
        wanted = [record.job.request.model or record.production.style.model for record in unsettled]
        return [
            (record, ModelAnnounced(by_key.get(key) if key else models[0]))
            for record, key in zip(unsettled, wanted, strict=True)
        ]

    async def _advance(self, connection: store.Connection, inputs: Sequence[tuple[Record, object]]) -> None:
        """Apply what follows to jobs that have not changed since they were read; offers to be repeated go out again."""
        sent: list[Outgoing] = []
        repeated: dict[UUID, list[Record]] = {}
        async with connection.transaction():
            async with opened(connection, [record.job.id for record, _ in inputs]) as books:
                for record, message in inputs:
                    fresh = await books.find(record.job.id)
                    if fresh is None or fresh.job.version != record.job.version or fresh.repeat != record.repeat:
                        continue
                    after, messages = books.advance(fresh, message, self.ledger.moment())
                    sent += _traced(messages, after)
                    self._note(record, after, message, repeated)
            sent += [outgoing(self._offer(records)) for records in repeated.values()]
            await outbox.add(connection, sent, "jobs")
        if sent:
            self._committed()

    def _note(self, before: Record, after: Record, message: object, repeated: dict[UUID, list[Record]]) -> None:
        worker = before.job.worker
        if isinstance(message, OfferRepeated) and after.offer_id is not None:
            metrics.OFFERS.labels(kind="repeated").inc()
            repeated.setdefault(after.offer_id, []).append(after)
        elif isinstance(message, OfferFenced) and worker is not None:
            metrics.OFFERS.labels(kind="fenced").inc()
            log.warning("offer_fenced", worker=worker, job_id=str(before.job.id))
            self.fleet.rests[worker] = datetime.now(UTC) + timedelta(seconds=self.ledger.settings.offer_rest)
        elif isinstance(message, WorkerLost):
            log.warning("attempt_lost", worker=worker, job_id=str(before.job.id), reason=message.reason)
        if after.state.ended and not before.state.ended:
            metrics.ENDED.labels(state=after.state.value).inc()

    async def _dispatch(self, connection: store.Connection, active: Sequence[Record], view: View) -> None:
        workers = [
            each
            for each in free_workers(active, view, look_ahead=self.ledger.settings.look_ahead)
            if each.worker in self._stored and self._stored[each.worker][0] == each.incarnation
        ]
        if not any(worker.free or worker.ahead for worker in workers) or not self.bus.connected:
            return
        if (await line.held(connection)).since is not None:
            return
        queue = [each.waiting for each in await line.ready(connection, PER_PROJECT) if each.waiting is not None]
        if not queue:
            return
        served = await line.last_served(connection)
        rooms = await line.rooms(connection)
        times = await self.queries.outlook.estimates(connection)
        owned = [record for record in active if record.state in OWNED]
        workers = in_hand(workers, owned, self.fleet, times, view.at)
        offers = plan(queue, workers, served, view.at, self.ledger.settings.rules(), rooms)
        if not offers:
            return
        hands = Hands({each.worker: each for each in workers}, times)
        sent: list[Outgoing] = []
        async with connection.transaction():
            async with opened(connection, [job_id for offer in offers for job_id in offer.job_ids]) as books:
                for offer in offers:
                    sent += await self._give(books, offer, hands)
            await outbox.add(connection, sent, "jobs")
            await failpoints.hit("jobs.dispatch.before_commit")
        await failpoints.hit("jobs.dispatch.after_commit")
        self._committed()

    def _committed(self) -> None:
        self.queries.changed()
        self.committed()

    async def _give(self, books: Books, offer: PlannedOffer, hands: Hands) -> list[Outgoing]:
        """Give the jobs of an offer that still wait to its worker; the offer goes out before their events."""
        offer_id = uuid7()
        found = [await books.find(job_id) for job_id in offer.job_ids]
        waiting = [each for each in found if each is not None and each.state is JobState.QUEUED and not each.job.paused]
        seconds = hands.give(offer.worker, waiting)
        given: list[Record] = []
        events: list[Outgoing] = []
        for record in waiting:
            message = Dispatch(offer.worker, offer.incarnation, uuid7(), offer_id, seconds)
            after, messages = books.advance(record, message, self.ledger.moment())
            given.append(after)
            events += _traced(messages, after)
        if not given:
            return []
        metrics.OFFERS.labels(kind="made").inc()
        return [outgoing(self._offer(given)), *events]

    def _offer(self, records: Sequence[Record]) -> Offer:
        first = records[0]
        if first.offer_id is None or first.incarnation is None or first.job.worker is None:
            raise TypeError(f"job {first.job.id} is {first.state}: it is not offered to anybody")
        jobs = tuple(
            OfferedJob(
                job_id=record.job.id,
                attempt_id=record.job.attempt_id,
                attempt=record.job.attempt,
                code=record.job.code,
                project=record.job.project,
                settings=record.job.settings,
                traceparent=record.traceparent,
            )
            for record in records
            if record.job.attempt_id is not None and record.job.settings is not None
        )
        return Offer(
            offer_id=first.offer_id,
            repeat=first.repeat,
            epoch=first.job.epoch,
            worker=first.job.worker,
            incarnation=first.incarnation,
            jobs=jobs,
        )

    async def _prune(self, connection: store.Connection) -> None:
        loop = asyncio.get_running_loop()
        if self._pruned == 0.0 or loop.time() - self._pruned > PRUNE_INTERVAL:
            self._pruned = loop.time()
            await roster.prune(connection)

    async def _tell_queue(self, connection: store.Connection) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._queue_due or not self.bus.connected:
            return
        look = await self.queries.outlook.look(connection)
        state = look.state
        if look.untold:
            await line.foresee(connection, look.untold, state.at)
        for name, count in state.counts.items():
            metrics.JOBS.labels(state=name.value).set(count)
        await self.bus.tell(state)
        # A long queue takes long to tell, so it is told less often: a job is worth more than its place.
        took = loop.time() - now
        self._queue_due = now + max(self.ledger.settings.queue_interval, took / QUEUE_SHARE)


def _traced(messages: Iterable[Outgoing], record: Record) -> list[Outgoing]:
    """Messages in the trace of the request behind the job: the scheduler itself runs in nobody's."""
    return [replace(each, traceparent=record.traceparent) for each in messages]


def _is_due(record: Record, now: datetime) -> bool:
    waits = record.state in {JobState.PREPARING, JobState.FILING}
    return waits and record.deadline is not None and now >= record.deadline
