"""What the ledger knows of its workers from their heartbeats, and what follows from it: decisions are pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from anime_common.contracts.generator import AbandonAttempt, CancelAttempt, Control, Heartbeat, HeldAttempt, Renew
from anime_common.contracts.vocabulary import JobState, ModelInfo, Reached
from anime_jobs.model import Adopted, OfferFenced, OfferRepeated, Record, WorkerLost
from anime_jobs.scheduler import Worker

OWNED = (JobState.DISPATCHED, JobState.RUNNING)
MAX_TOLD = 4096
IN_HAND = (JobState.DISPATCHED, JobState.RUNNING, JobState.FILING)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last heartbeat of a worker. `at` is the monotonic time of its arrival."""

    heartbeat: Heartbeat
    at: float
    received: datetime


@dataclass(slots=True)
class Fleet:
    """The last heartbeat of each worker, which are news, who said goodbye, and who rests until when.

    `told` is how far attempts were when a heartbeat listed them last; of the newest `MAX_TOLD`.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)
    goodbyes: set[UUID] = field(default_factory=set)
    rests: dict[str, datetime] = field(default_factory=dict)
    told: dict[UUID, Reached] = field(default_factory=dict)

    def hear(self, heartbeat: Heartbeat, at: float, received: datetime) -> None:
        """Take a heartbeat; one that was sent before the last one of the same incarnation is stale and dropped."""
        last = self.seen.get(heartbeat.worker)
        if last is not None:
            old = last.heartbeat
            if old.incarnation == heartbeat.incarnation and heartbeat.sent_at < old.sent_at:
                return
            if old.incarnation != heartbeat.incarnation and heartbeat.started_at < old.started_at:
                return
            heartbeat = heartbeat.completed(old)
        if heartbeat.goodbye:
            self.goodbyes.add(heartbeat.incarnation)
        self.remember(heartbeat)
        self.news.add(heartbeat.worker)
        self.seen[heartbeat.worker] = Seen(heartbeat, at, received)

    def catalogue(self, heartbeat: Heartbeat) -> tuple[ModelInfo, ...]:
        """The models of a heartbeat, each with the LoRAs and embeddings that any worker has for it."""
        present = [*(seen.heartbeat for seen in self.seen.values() if not seen.heartbeat.goodbye), heartbeat]
        loras = {lora.key: lora for each in present for lora in each.loras}
        embeddings = {embedding.key: embedding for each in present for embedding in each.embeddings}
        united = {"loras": tuple(loras.values()), "embeddings": tuple(embeddings.values())}
        return heartbeat.model_copy(update=united).catalogue()

    def remember(self, heartbeat: Heartbeat) -> None:
        """Keep how far the attempts of a heartbeat are; the newest of an attempt is the last one remembered."""
        for held in heartbeat.attempts:
            self.told.pop(held.attempt_id, None)
            self.told[held.attempt_id] = held.reached()
        while len(self.told) > MAX_TOLD:
            del self.told[next(iter(self.told))]

    def lost(self, record: Record, reason: str, *, counts: bool) -> WorkerLost:
        """The attempt of a job is lost, as far as it had come."""
        reached = self.told.get(record.job.attempt_id) if record.job.attempt_id is not None else None
        return WorkerLost(reason, counts, reached)

    def forget_before(self, at: float) -> None:
        """Forget the workers that were not heard since that monotonic time, and that they said goodbye."""
        for worker, seen in list(self.seen.items()):
            if seen.at < at:
                del self.seen[worker]
                self.news.discard(worker)
                self.rests.pop(worker, None)
                self.goodbyes.discard(seen.heartbeat.incarnation)

    def held(self, record: Record) -> HeldAttempt | None:
        """What the owner of a job says about its current attempt."""
        seen = self.seen.get(record.job.worker or "")
        if seen is None or seen.heartbeat.incarnation != record.incarnation:
            return None
        return next((held for held in seen.heartbeat.attempts if held.attempt_id == record.job.attempt_id), None)


@dataclass(slots=True)
class Attention:
    """Since when we could hear without a break: we did, if the bus answered us at least every `most` seconds.

    A connection that is up proves nothing: the server may stand still, or we may have.
    """

    most: float
    since: float = float("inf")
    last: float = float("-inf")

    def answered(self, now: float) -> None:
        """The bus has answered, so what was sent to us before has come."""
        self.since = self.unbroken_since(now)
        self.last = now

    def unbroken_since(self, now: float) -> float:
        """Since when there was no break; now, if there is one."""
        return self.since if now - self.last <= self.most else now


@dataclass(frozen=True, slots=True)
class View:
    """What a judgement rests on; `now`, `deaf_until` are monotonic seconds.

    `news`: the workers heard since the last judgement. `facts_seen`: whether the ledger has consumed a worker's last
    fact. `deaf_until`: before it we may have missed heartbeats.
    """

    fleet: Fleet
    now: float
    deaf_until: float
    lost_after: float
    lost: frozenset[UUID]
    facts_seen: Mapping[str, bool]
    max_repeats: int
    at: datetime
    news: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows: messages for jobs, orders for workers, and incarnations to be stored as lost (with worker)."""

    inputs: tuple[tuple[Record, object], ...] = ()
    orders: tuple[Control, ...] = ()
    lost: tuple[tuple[str, UUID], ...] = ()


def judge(active: Iterable[Record], known: Mapping[str, UUID], view: View) -> Verdict:
    """Compare what the ledger has given away with what the workers list.

    `active`: jobs in hand; `known`: worker → incarnation as stored, for workers that may not have been heard yet.
    """
    active = list(active)
    inputs: list[tuple[Record, object]] = []
    lost = _silent(known, view)
    gone = view.lost | {incarnation for _, incarnation in lost}
    for record in active:
        if record.state in OWNED:
            found = _judge_attempt(record, gone, known, view)
            if found is not None:
                inputs.append((record, found))
    return Verdict(tuple(inputs), tuple(_orders(active, view)), tuple(lost))


def _silent(known: Mapping[str, UUID], view: View) -> list[tuple[str, UUID]]:
    """Incarnations that have not been heard for `lost_after` seconds in which we could hear, facts consumed."""
    silent: list[tuple[str, UUID]] = []
    for worker, incarnation in known.items():
        seen = view.fleet.seen.get(worker)
        if seen is not None and seen.heartbeat.incarnation != incarnation:
            continue
        heard = max(seen.at if seen else view.deaf_until, view.deaf_until)
        quiet = view.now - heard > view.lost_after
        if quiet and incarnation not in view.lost and view.facts_seen.get(worker, False):
            silent.append((worker, incarnation))
    return silent


def _judge_attempt(record: Record, gone: frozenset[UUID], known: Mapping[str, UUID], view: View) -> object | None:
    """What follows for one attempt that a worker owns; None when all is as it should be."""
    job = record.job
    worker = job.worker or ""
    if record.incarnation in gone:
        return view.fleet.lost(record, f"the worker {worker} was lost", counts=job.state is JobState.RUNNING)
    seen = view.fleet.seen.get(worker)
    if seen is None:
        # Nobody is waited for in its place: the worker left, or came back as another, before we began to listen.
        replaced = known.get(worker) != record.incarnation and view.now - view.deaf_until > view.lost_after
        return view.fleet.lost(record, f"the worker {worker} is gone", counts=False) if replaced else None
    if view.fleet.held(record) is not None:
        return None
    if seen.heartbeat.incarnation != record.incarnation:
        return _judge_successor(record, seen, view)
    return _judge_unlisted(record, seen, view)


def _judge_unlisted(record: Record, seen: Seen, view: View) -> object | None:
    """The owner does not list the attempt: it never got the offer, or it has let the attempt go."""
    job = record.job
    consumed = view.facts_seen.get(seen.heartbeat.worker, False)
    if seen.heartbeat.goodbye:
        return view.fleet.lost(record, f"the worker {job.worker} said goodbye", counts=False) if consumed else None
    if job.state is JobState.RUNNING:
        fresh = job.started_at is None or seen.heartbeat.sent_at > job.started_at
        return (
            view.fleet.lost(record, f"the worker {job.worker} no longer has it", counts=True)
            if fresh and consumed
            else None
        )
    if record.deadline is not None and view.at >= record.deadline:
        return OfferRepeated() if record.repeat < view.max_repeats else OfferFenced()
    return None


def _judge_successor(record: Record, seen: Seen, view: View) -> object | None:
    """The worker has come back as another incarnation: it goes on with the attempt, or the attempt is lost."""
    job = record.job
    listed = {held.attempt_id for held in seen.heartbeat.attempts}
    if job.attempt_id in listed:
        return Adopted(seen.heartbeat.incarnation)
    if not view.facts_seen.get(job.worker or "", False):
        return None
    counts = job.state is JobState.RUNNING and record.incarnation not in view.fleet.goodbyes
    return view.fleet.lost(record, f"the worker {job.worker} was restarted", counts=counts)


def _orders(active: Iterable[Record], view: View) -> Iterable[Control]:
    """Renew lost incarnations, cancel what shall be cancelled, abandon what is nobody's any more.

    Orders about what has ended or was lost answer a new heartbeat only; those that stop work are repeated until heard.
    """
    current = {record.job.attempt_id: record for record in active if record.state in IN_HAND}
    for worker, seen in view.fleet.seen.items():
        heartbeat = seen.heartbeat
        if heartbeat.goodbye:
            continue
        news = worker in view.news
        if heartbeat.incarnation in view.lost:
            if news:
                yield Control(worker=worker, order=Renew(incarnation=heartbeat.incarnation))
            continue
        for held in heartbeat.attempts:
            record = current.get(held.attempt_id)
            if record is None:
                if news or not held.ended:
                    yield Control(worker=worker, order=AbandonAttempt(job_id=held.job_id, attempt_id=held.attempt_id))
            elif record.job.cancel_requested and record.state is JobState.RUNNING and not held.ended:
                yield Control(worker=worker, order=CancelAttempt(job_id=held.job_id, attempt_id=held.attempt_id))


def free_workers(active: Iterable[Record], view: View, *, look_ahead: int) -> list[Worker]:
    """The workers that may get offers: live, not draining, not resting, with room beside what they hold."""
    offers: dict[str, set[UUID]] = {}
    settled: set[UUID] = set()
    for record in active:
        if record.state in OWNED and record.offer_id is not None:
            offers.setdefault(record.job.worker or "", set()).add(record.offer_id)
        elif record.job.attempt_id is not None:
            settled.add(record.job.attempt_id)
    found: list[Worker] = []
    for worker, seen in view.fleet.seen.items():
        heartbeat = seen.heartbeat
        stale = view.now - seen.at > view.lost_after
        rest = view.fleet.rests.get(worker)
        if heartbeat.goodbye or heartbeat.draining or heartbeat.incarnation in view.lost or stale:
            continue
        held = {each.offer_id for each in heartbeat.attempts if not each.ended and each.attempt_id not in settled}
        used = len(held | offers.get(worker, set()))
        resting = rest is not None and view.at < rest
        free = max(heartbeat.slots - used, 0)
        found.append(
            Worker(
                worker=worker,
                incarnation=heartbeat.incarnation,
                models=frozenset(info.key for info in heartbeat.models),
                loras=frozenset(lora.key for lora in heartbeat.loras),
                resident=frozenset(heartbeat.resident),
                free=0 if resting else free,
                ahead=0 if resting or not heartbeat.slots else max(heartbeat.slots + look_ahead - used - free, 0),
                batch_limit=heartbeat.batch_limit,
                batch_limits=heartbeat.batch_limits,
                engines={info.key: info.engine for info in heartbeat.models},
                busy_seconds=sum(_seconds_left(heartbeat).values()),
            )
        )
    return found


def _seconds_left(heartbeat: Heartbeat) -> dict[UUID, float]:
    """How long each offer in hand still takes, as far as its worker knows; members of one offer run together."""
    left: dict[UUID, float] = {}
    for each in heartbeat.attempts:
        if not each.ended:
            left[each.offer_id] = max(left.get(each.offer_id, 0.0), each.eta_seconds or 0.0)
    return left
