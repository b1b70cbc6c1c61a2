"""When each waiting job should end: the plan, played into the future with the times that were measured. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from anime_jobs.estimate import Estimates
from anime_jobs.fleet import Fleet
from anime_jobs.model import Record
from anime_jobs.scheduler import Crew, Line, Rules, Waiting, Worker, choose, order

STEPS, FURTHER = 30, 1.1
"""How often the queue is put in order anew while a job rises by one class; the further ahead, the more seldom."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A waiting job's place (1 = next) and the seconds until it should end, when they can be told."""

    job_id: UUID
    position: int
    eta_seconds: float | None


def forecast(
    queue: Iterable[Waiting],
    workers: Sequence[Worker],
    times: Estimates,
    last_served: Mapping[UUID, datetime],
    now: datetime,
    rules: Rules,
    rooms: Mapping[UUID, int] | None = None,
    running: Mapping[str, Sequence[UUID]] | None = None,
) -> list[Forecast]:
    """The queue in the order in which its jobs begin; last those that nobody can do.

    `running` are the projects of the jobs that each worker has in hand: when they end, their projects have room again.
    Whatever comes after a job of a model that was never measured can end no sooner than told.
    """
    ordered = order(queue, last_served, now, rules)
    play = _Play(Line.of(ordered, rooms), times, now, rules, dict(last_served))
    begun = play.run(workers, running or {})
    never = [job.job_id for _, job in ordered if job.job_id not in begun]
    ends: dict[UUID, float | None] = {**begun, **dict.fromkeys(never)}
    return [Forecast(job_id, position, eta) for position, (job_id, eta) in enumerate(ends.items(), start=1)]


@dataclass(slots=True)
class _Play:
    """The future of a queue; `ends` are the seconds until each job that begins in it should end."""

    line: Line
    times: Estimates
    now: datetime
    rules: Rules
    served: dict[UUID, datetime]
    ends: dict[UUID, float | None] = field(default_factory=dict)
    _next_order: float = field(init=False)
    _free: list[tuple[float, str]] = field(default_factory=list)
    _parked: list[str] = field(default_factory=list)
    _hands: dict[str, Worker] = field(default_factory=dict)
    _running: dict[str, Sequence[UUID]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next_order = self.rules.aging / STEPS

    def run(self, workers: Sequence[Worker], running: Mapping[str, Sequence[UUID]]) -> dict[UUID, float | None]:
        """Give each worker its next jobs as soon as it is free, until nothing is left that anybody can do."""
        self._hands = {each.worker: each for each in workers}
        self._running = dict(running)
        self._free = [(each.busy_seconds, each.worker) for each in workers]
        heapq.heapify(self._free)
        while self._free and self.line:
            # All that are free in this moment choose together, as in a plan.
            clock, together = self._free[0][0], list[str]()
            while self._free and self._free[0][0] <= clock:
                together.append(heapq.heappop(self._free)[1])
                self._release(together[-1], clock)
            self._order_anew(clock)
            self._give(together, clock)
        return self.ends

    def _order_anew(self, clock: float) -> None:
        """Meanwhile jobs have risen by a class, and projects were served."""
        if clock >= self._next_order:
            self._next_order = max(clock * FURTHER, clock + self.rules.aging / STEPS)
            at = self.now + timedelta(seconds=clock)
            self.line = Line.of(order(self.line.left(), self.served, at, self.rules), self.line.rooms)

    def _release(self, name: str, clock: float) -> None:
        """What it had in hand is done: projects with a bound have room again, and who waited for that looks again."""
        projects = [each for each in self._running.pop(name, ()) if each in self.line.rooms]
        for project in projects:
            self.line.rooms[project] += 1
        if projects:
            for each in self._parked:
                heapq.heappush(self._free, (clock, each))
            self._parked.clear()

    def _give(self, names: Sequence[str], clock: float) -> None:
        crew = Crew({name: self._hands[name] for name in names})
        at = self.now + timedelta(seconds=clock)
        while crew.workers and (found := choose(self.line, crew, at, self.rules)) is not None:
            worker, batch = found
            self.line.take(batch)
            end = self._end(worker, batch, clock)
            for job in batch:
                self.ends[job.job_id] = end
                self.served[job.project_id] = at
            self._running[worker.worker] = [job.project_id for job in batch]
            self._hands[worker.worker] = _loaded(worker, batch[0].model)
            heapq.heappush(self._free, (clock if end is None else end, worker.worker))
            crew.leave(worker.worker)
        self._parked.extend(crew.workers)

    def _end(self, worker: Worker, batch: Sequence[Waiting], clock: float) -> float | None:
        """When the jobs that share an offer end."""
        model, engine = batch[0].model, worker.engines.get(batch[0].model, "")
        spent = [self.times.seconds(worker.worker, engine, model, job.size, job.work) for job in batch]
        known = [each for each in spent if each is not None]
        if len(known) < len(batch):
            return None
        loading = 0.0 if model in worker.resident else self.times.loading(worker.worker, engine, model)
        return clock + loading + sum(known)


def _loaded(worker: Worker, model: str) -> Worker:
    """A worker after a run: it holds the model, and gave up the others to hold no more than it did."""
    if model in worker.resident:
        return worker
    kept = sorted(worker.resident)[: len(worker.resident) - 1]
    return replace(worker, resident=frozenset({model, *kept}))


def in_hand(
    workers: Iterable[Worker], owned: Iterable[Record], fleet: Fleet, times: Estimates, now: datetime
) -> list[Worker]:
    """The workers with what they have in hand measured: as they say themselves, else by what was learned.

    `owned` are the jobs that are dispatched or running.
    """
    told: dict[UUID | None, float] = {
        each.attempt_id: each.eta_seconds
        for seen in fleet.seen.values()
        for each in seen.heartbeat.attempts
        if each.eta_seconds is not None and not each.ended
    }
    offers: dict[str, dict[UUID | None, list[Record]]] = {}
    for record in owned:
        offers.setdefault(record.job.worker or "", {}).setdefault(record.offer_id, []).append(record)
    return [
        replace(worker, busy_seconds=sum(_left(worker, members, told, times, now) for members in found.values()))
        if (found := offers.get(worker.worker))
        else worker
        for worker in workers
    ]


def _left(
    worker: Worker, members: Sequence[Record], told: Mapping[UUID | None, float], times: Estimates, now: datetime
) -> float:
    """Seconds until an offer is done."""
    said = [left for record in members if (left := told.get(record.job.attempt_id)) is not None]
    if said:
        return max(said)
    started = min((record.job.started_at for record in members if record.job.started_at is not None), default=now)
    return max((expected(worker, members, times) or 0.0) - (now - started).total_seconds(), 0.0)


def expected(worker: Worker, offer: Sequence[Record], times: Estimates) -> float | None:
    """Seconds that the jobs of an offer should take on a worker once they begin there; None while nobody knows."""
    spent = loading = 0.0
    for record in offer:
        settings = record.job.settings
        if settings is None:
            return None
        engine, size = worker.engines.get(settings.model, ""), settings.width * settings.height * settings.steps
        seconds = times.seconds(worker.worker, engine, settings.model, size, size * settings.count)
        if seconds is None:
            return None
        spent += seconds
        if settings.model not in worker.resident:
            loading = times.loading(worker.worker, engine, settings.model)
    return loading + spent


@dataclass(slots=True)
class Hands:
    """Workers as they get one offer after another."""

    workers: dict[str, Worker]
    times: Estimates

    def give(self, name: str, offer: Sequence[Record]) -> float | None:
        """An offer goes to a worker; returns in how many seconds it should be done, None while nobody knows."""
        worker = self.workers[name]
        spent = expected(worker, offer, self.times)
        if spent is None:
            return None
        done = worker.busy_seconds + spent
        self.workers[name] = replace(worker, busy_seconds=done)
        return done
