"""A day of a studio in virtual time: mixed jobs over workers, given by the real plan, or first come, first served.

Nothing of the plan is copied: `plan`, `forecast` and `learn` are called as the ledger calls them, with the same window
of each project and class. What a job takes is drawn from a heavy-tailed distribution that only the simulation knows.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from statistics import median
from uuid import UUID, uuid5

from anime_common.contracts.vocabulary import Priority
from anime_jobs.dispatcher import PER_PROJECT
from anime_jobs.estimate import Estimates, Sample, learn
from anime_jobs.forecasting import forecast
from anime_jobs.outlook import SAMPLES
from anime_jobs.scheduler import PlannedOffer, Rules, Waiting, Worker, order, plan
from tests.builders import NOON

SPACE = UUID(int=7)
ENGINE = "engine"
MODELS = {"sd": 1.0, "sdxl": 4.0, "flux": 12.0, "pony": 4.0, "wan": 30.0}
"""Relative cost of a unit of work."""
LOADING = {"sd": 4.0, "sdxl": 12.0, "flux": 40.0, "pony": 12.0, "wan": 60.0}
"""Seconds to get a model into memory."""
SIZES = (512 * 512 * 20, 768 * 768 * 28, 1024 * 1024 * 30)
UNIT = 1.2 / SIZES[0]
"""Seconds a unit of work of `sd` takes on a worker of speed 1."""
CLASSES = {Priority.INTERACTIVE: 0.15, Priority.NORMAL: 0.45, Priority.BATCH: 0.4}
LEARN_EVERY = 200
"""Jobs that end between two lessons."""
LOOK_EVERY = 25
"""Jobs that arrive between two whose end is foretold."""

Policy = Callable[
    [Sequence[Waiting], Sequence[Worker], Mapping[UUID, datetime], datetime, Rules, Mapping[UUID, int]],
    list[PlannedOffer],
]


def fifo(
    queue: Sequence[Waiting],
    workers: Sequence[Worker],
    last_served: Mapping[UUID, datetime],
    now: datetime,
    rules: Rules,
    rooms: Mapping[UUID, int],
) -> list[PlannedOffer]:
    """First come, first served, by whoever is free: what a plain work queue does."""
    line = deque(sorted(queue, key=lambda job: (job.created_at, job.job_id)))
    free = [worker for worker in workers if worker.free]
    return [PlannedOffer(worker.worker, worker.incarnation, (line.popleft().job_id,)) for worker in free if line]


@dataclass(slots=True)
class Hand:
    """A worker: how fast it is, which models it holds (the last used last), and what it works on."""

    name: str
    speed: float
    holds: list[str] = field(default_factory=list)
    until: float = 0.0
    running: tuple[Waiting, ...] = ()
    switches: int = 0

    @property
    def incarnation(self) -> UUID:
        """Of the worker."""
        return uuid5(SPACE, self.name)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is done; times in seconds since the start, `foretold` is when it was to end, if anybody looked."""

    job: Waiting
    begun: float
    ended: float
    foretold: float | None

    @property
    def waited(self) -> float:
        """Seconds from submit to start."""
        return self.begun - (self.job.created_at - NOON).total_seconds()


@dataclass(slots=True)
class Simulation:
    """`jobs` mixed jobs over so many workers, kept busy to `load`; `bounds` is how many of a project may run.

    Without `surprises` each job takes exactly its time; `at_once`: all come in the first moment. `idle_beside_work`
    counts free workers beside work for them, `passed_by` plans in which the first in line had waited beyond the bound
    of affinity and yet got nothing, `bent` those that gave a project more than its bound.
    """

    workers: int
    jobs: int
    seed: int = 1
    load: float = 0.9
    policy: Policy = plan
    rules: Rules = field(default_factory=Rules)
    bounds: Mapping[UUID, int] = field(default_factory=dict)
    batch_limit: int = 4
    memory: int = 2
    projects: int = 6
    foretells: bool = True
    surprises: bool = True
    at_once: bool = False
    look_every: int = LOOK_EVERY
    ended: list[Ended] = field(default_factory=list)
    idle_beside_work: int = 0
    bent: int = 0
    passed_by: int = 0
    _hands: dict[str, Hand] = field(default_factory=dict)
    _lanes: dict[tuple[Priority, UUID], deque[Waiting]] = field(default_factory=dict)
    _served: dict[UUID, datetime] = field(default_factory=dict)
    _samples: dict[str, deque[Sample]] = field(default_factory=dict)
    _estimates: Estimates = field(default_factory=Estimates)
    _foretold: dict[UUID, float] = field(default_factory=dict)
    _begun: dict[UUID, float] = field(default_factory=dict)

    @property
    def switches(self) -> int:
        """How often a model was loaded."""
        return sum(hand.switches for hand in self._hands.values())

    def run(self) -> Simulation:
        """Until all jobs have ended."""
        chance, fleet = random.Random(self.seed), random.Random(self.workers)
        self._hands = {f"w{n:02d}": Hand(f"w{n:02d}", fleet.choice((0.6, 1.0, 1.0, 1.7))) for n in range(self.workers)}
        arrivals = deque(self._arrivals(chance))
        ends: list[tuple[float, str]] = []
        arrived = 0
        while arrivals or ends:
            now = min(
                arrivals[0][0] if arrivals else math.inf,
                ends[0][0] if ends else math.inf,
            )
            while ends and ends[0][0] <= now:
                self._end(self._hands[heapq.heappop(ends)[1]], now)
            fresh: list[Waiting] = []
            while arrivals and arrivals[0][0] <= now:
                job = arrivals.popleft()[1]
                self._lanes.setdefault((job.priority, job.project_id), deque()).append(job)
                arrived += 1
                if arrived % self.look_every == 0:
                    fresh.append(job)
            for name in self._give(now, chance):
                heapq.heappush(ends, (self._hands[name].until, name))
            if fresh and self.foretells:
                self._foretell(fresh, now)
        return self

    def learned_from(self, other: Simulation) -> None:
        """Know what another simulation has learned."""
        self._estimates, self._samples = other._estimates, other._samples

    def _arrivals(self, chance: random.Random) -> Iterator[tuple[float, Waiting]]:
        """Bursts of single jobs and of batches, so many that the workers are busy to `load`."""
        speed = sum(hand.speed for hand in self._hands.values())
        drawn = [self._draw(chance, number) for number in range(self.jobs)]
        span = sum(job.work * MODELS[job.model] * UNIT for job in drawn) / speed / self.load
        at, pause = 0.0, span / self.jobs
        number = 0
        while number < len(drawn):
            burst = 1 if chance.random() < 0.9 else chance.randint(5, 60)
            at += 0.0 if self.at_once else chance.expovariate(1.0) * pause * burst
            like = drawn[number]
            for job in drawn[number : number + burst]:
                mates = burst > 1
                moment = NOON + timedelta(seconds=at)
                made = Waiting(
                    job_id=job.job_id,
                    project_id=like.project_id if mates else job.project_id,
                    priority=(Priority.BATCH if like.priority is Priority.INTERACTIVE else like.priority)
                    if mates
                    else job.priority,
                    created_at=moment,
                    ready_at=moment,
                    model=like.model if mates else job.model,
                    batch_key=like.batch_key if mates else job.batch_key,
                    work=like.work if mates else job.work,
                    place=moment.timestamp(),
                )
                yield at, made
            number += burst

    def _draw(self, chance: random.Random, number: int) -> Waiting:
        model = chance.choices(list(MODELS), (40, 30, 10, 18, 2))[0]
        size = chance.choice(SIZES)
        project = chance.choices(range(self.projects), [2.0**-n for n in range(self.projects)])[0]
        return Waiting(
            job_id=uuid5(SPACE, f"{self.seed} {number}"),
            project_id=uuid5(SPACE, f"project {project}"),
            priority=chance.choices(list(CLASSES), list(CLASSES.values()))[0],
            created_at=NOON,
            ready_at=NOON,
            model=model,
            batch_key=(model, size),
            work=float(size),
        )

    def _window(self) -> list[Waiting]:
        """What the ledger would read: the first jobs of each project and class."""
        return [job for lane in self._lanes.values() for job in islice(lane, PER_PROJECT)]

    def _rooms(self) -> dict[UUID, int]:
        running = [job.project_id for hand in self._hands.values() for job in hand.running]
        return {project: max(bound - running.count(project), 0) for project, bound in self.bounds.items()}

    def _workers(self, now: float) -> list[Worker]:
        return [
            Worker(
                hand.name,
                hand.incarnation,
                frozenset(MODELS),
                resident=frozenset(hand.holds),
                free=0 if hand.running else 1,
                batch_limit=self.batch_limit,
                engines=dict.fromkeys(MODELS, ENGINE),
                busy_seconds=self._busy(hand, now),
            )
            for hand in self._hands.values()
        ]

    def _busy(self, hand: Hand, now: float) -> float:
        """What a worker would say of the time that it still needs."""
        return max(hand.until - now, 0.0) if hand.running else 0.0

    def _give(self, now: float, chance: random.Random) -> list[str]:
        if all(hand.running for hand in self._hands.values()) or not any(self._lanes.values()):
            return []
        at, queue, rooms, workers = NOON + timedelta(seconds=now), self._window(), self._rooms(), self._workers(now)
        before = dict(self._served)
        offers = self.policy(queue, workers, self._served, at, self.rules, rooms)
        by_id = {job.job_id: job for job in queue}
        for offer in offers:
            self._begin(self._hands[offer.worker], [by_id[job_id] for job_id in offer.job_ids], now, chance)
        self._note(queue, workers, offers, rooms, before, now)
        return [offer.worker for offer in offers]

    def _begin(self, hand: Hand, batch: Sequence[Waiting], now: float, chance: random.Random) -> None:
        model = batch[0].model
        loading = 0.0 if model in hand.holds else LOADING[model] * self._luck(chance, 0.2)
        if model in hand.holds:
            hand.holds.remove(model)
        elif len(hand.holds) >= self.memory:
            hand.holds.pop(0)
        hand.switches += loading > 0
        hand.holds.append(model)
        work = sum(job.work for job in batch)
        # A tail as of a machine that other programs use as well: one job in fifty takes thrice as long.
        tail = 3.0 if self.surprises and chance.random() < 0.02 else 1.0
        seconds = work * MODELS[model] * UNIT / hand.speed * tail * self._luck(chance, 0.25)
        hand.running, hand.until = tuple(batch), now + loading + seconds
        for job in batch:
            lane = self._lanes[job.priority, job.project_id]
            lane.remove(job)
            self._served[job.project_id] = NOON + timedelta(seconds=now)
            self._begun[job.job_id] = now
            sample = Sample(hand.name, ENGINE, model, job.work, job.work, seconds * job.work / work, loading)
            self._samples.setdefault(model, deque(maxlen=SAMPLES)).append(sample)

    def _luck(self, chance: random.Random, spread: float) -> float:
        return chance.lognormvariate(0.0, spread) if self.surprises else 1.0

    def _note(
        self,
        queue: Sequence[Waiting],
        workers: Sequence[Worker],
        offers: Sequence[PlannedOffer],
        rooms: Mapping[UUID, int],
        before: Mapping[UUID, datetime],
        now: float,
    ) -> None:
        """What must never be: a free worker beside work for it; who waited beyond the bound passed by for affinity."""
        given = {job_id for offer in offers for job_id in offer.job_ids}
        left = [job for job in queue if job.job_id not in given and rooms.get(job.project_id, 1) > 0]
        used = {offer.worker for offer in offers}
        taken = dict.fromkeys(rooms, 0)
        for job in queue:
            if job.job_id in given and job.project_id in taken:
                taken[job.project_id] += 1
        open_work = [job for job in left if taken.get(job.project_id, 0) < rooms.get(job.project_id, math.inf)]
        if open_work and any(worker.free and worker.worker not in used for worker in workers):
            self.idle_beside_work += 1
        if any(count > rooms[project] for project, count in taken.items()):
            self.bent += 1
        if offers and self.policy is plan:
            at = NOON + timedelta(seconds=now)
            open_jobs = [job for job in queue if rooms.get(job.project_id, 1) > 0]
            first = order(open_jobs, before, at, self.rules)[0][1]
            waited = (at - first.ready_at).total_seconds()
            self.passed_by += waited >= self.rules.affinity_bound and first.job_id not in given

    def _end(self, hand: Hand, now: float) -> None:
        for job in hand.running:
            self.ended.append(Ended(job, self._begun.pop(job.job_id), now, self._foretold.pop(job.job_id, None)))
            if len(self.ended) % LEARN_EVERY == 0:
                self._estimates = learn(sample for samples in self._samples.values() for sample in samples)
        hand.running = ()

    def _foretell(self, fresh: Sequence[Waiting], now: float) -> None:
        at = NOON + timedelta(seconds=now)
        running = {hand.name: [job.project_id for job in hand.running] for hand in self._hands.values()}
        found = forecast(
            self._window(), self._workers(now), self._estimates, self._served, at, self.rules, self._rooms(), running
        )
        wanted = {job.job_id for job in fresh}
        for each in found:
            if each.job_id in wanted and each.eta_seconds is not None:
                self._foretold[each.job_id] = now + each.eta_seconds

    def waits(self, priority: Priority | None = None) -> list[float]:
        """Seconds that jobs waited, of one class or of all, in order."""
        return sorted(each.waited for each in self.ended if priority is None or each.job.priority is priority)

    def eta_errors(self) -> list[float]:
        """Of the jobs that were foretold while they waited: by what factor it was wrong, as |log2|, in order."""
        found = []
        for each in self.ended:
            submitted = (each.job.created_at - NOON).total_seconds()
            if each.foretold is not None:
                found.append(abs(math.log2((each.foretold - submitted) / (each.ended - submitted))))
        return sorted(found)


def share(values: Sequence[float], part: float) -> float:
    """A quantile of sorted values."""
    return values[min(int(len(values) * part), len(values) - 1)] if values else math.nan


def middle(values: Sequence[float]) -> float:
    """Their median."""
    return median(values) if values else math.nan
