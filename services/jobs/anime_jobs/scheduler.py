"""What runs next, where: pure. `plan` fills workers from the queue; `forecasting` plays the same plan into the future.

The waiting jobs stand in lanes of alike ones (class, project, model, LoRAs), so that a choice looks at the first of
each lane, and never at the whole queue.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from anime_common.contracts.vocabulary import Priority

DISTANT_PAST = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that could run now. `work` is pixels × steps × pictures, `loras` are the keys of those it needs.

    `place` orders the jobs of a project: seconds since 1970 of its submit, or where it was moved to.
    """

    job_id: UUID
    project_id: UUID
    priority: Priority
    created_at: datetime
    ready_at: datetime
    model: str
    batch_key: tuple[object, ...]
    work: float = 0.0
    pictures: int = 1
    alone: bool = False
    loras: frozenset[str] = frozenset()
    place: float = 0.0

    @property
    def size(self) -> float:
        """Pixels × steps of one picture."""
        return self.work / self.pictures


class Lane(NamedTuple):
    """What the jobs of a lane have in common; `rank` is their effective class."""

    rank: int
    project_id: UUID
    model: str
    loras: frozenset[str]


@dataclass(frozen=True, slots=True)
class Worker:
    """A live worker: how many more offers it takes at once (`free`) and ahead of time (`ahead`).

    `batch_limits` are those of models of which fewer pictures fit into a pass than `batch_limit`, `engines` run which
    model, `busy_seconds` is when what it has in hand should be done.
    """

    worker: str
    incarnation: UUID
    models: frozenset[str]
    resident: frozenset[str] = frozenset()
    free: int = 0
    ahead: int = 0
    batch_limit: int = 1
    batch_limits: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)
    busy_seconds: float = 0.0
    loras: frozenset[str] = frozenset()

    def able(self, job: Waiting | Lane) -> bool:
        """Whether it has what the job needs."""
        return job.model in self.models and job.loras <= self.loras


@dataclass(frozen=True, slots=True)
class PlannedOffer:
    """Jobs to be given to one incarnation of one worker as one offer."""

    worker: str
    incarnation: UUID
    job_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds. A job rises by one priority class for each `aging` seconds it waits, so nothing starves."""

    affinity_bound: float = 60.0
    aging: float = 900.0


@dataclass(slots=True)
class Line:
    """The waiting jobs in the order of service, taken one by one. `rooms`: how many more jobs of a project may be."""

    rooms: dict[UUID, int]
    lanes: dict[Lane, deque[Waiting]] = field(default_factory=dict)
    alike: dict[tuple[int, tuple[object, ...]], deque[Waiting]] = field(default_factory=dict)
    ranks: dict[UUID, int] = field(default_factory=dict)
    turns: dict[UUID, int] = field(default_factory=dict)

    @classmethod
    def of(cls, ordered: Iterable[tuple[int, Waiting]], rooms: Mapping[UUID, int] | None) -> Line:
        """What `order` gave."""
        line = cls(dict(rooms or {}))
        for turn, (rank, job) in enumerate(ordered):
            line.lanes.setdefault(Lane(rank, job.project_id, job.model, job.loras), deque()).append(job)
            line.alike.setdefault((rank, job.batch_key), deque()).append(job)
            line.ranks[job.job_id], line.turns[job.job_id] = rank, turn
        return line

    def __len__(self) -> int:
        """How many jobs are left."""
        return len(self.turns)

    def left(self) -> list[Waiting]:
        """The jobs that are left, in no order."""
        return [job for jobs in self.lanes.values() for job in jobs if job.job_id in self.turns]

    def first(self, fits: Callable[[Lane], object]) -> Waiting | None:
        """The first job of the lanes that fit, of projects that have room."""
        found, soonest = None, len(self.turns) + max(self.turns.values(), default=0)
        for lane, jobs in self.lanes.items():
            turn = self.turns[jobs[0].job_id]
            if turn < soonest and self.rooms.get(lane.project_id, 1) > 0 and fits(lane):
                found, soonest = jobs[0], turn
        return found

    def alike_to(self, job: Waiting) -> Iterable[Waiting]:
        """The jobs of the same class with the same batch key that are left, in order, itself among them."""
        jobs = self.alike[self.ranks[job.job_id], job.batch_key]
        while jobs and jobs[0].job_id not in self.turns:
            jobs.popleft()
        return (each for each in jobs if each.job_id in self.turns)

    def take(self, batch: Sequence[Waiting]) -> None:
        """These are given away."""
        for job in batch:
            del self.turns[job.job_id]
            if job.project_id in self.rooms:
                self.rooms[job.project_id] -= 1
        for lane in {Lane(self.ranks[job.job_id], job.project_id, job.model, job.loras) for job in batch}:
            jobs = self.lanes[lane]
            while jobs and jobs[0].job_id not in self.turns:
                jobs.popleft()
            if not jobs:
                del self.lanes[lane]


@dataclass(slots=True)
class Crew:
    """The workers that may still get something."""

    workers: dict[str, Worker]
    _capable: dict[tuple[str, frozenset[str]], dict[str, Worker]] = field(default_factory=dict)

    def capable(self, job: Waiting | Lane) -> Mapping[str, Worker]:
        """Those that have what a job needs."""
        kind = (job.model, job.loras)
        if kind not in self._capable:
            self._capable[kind] = {name: worker for name, worker in self.workers.items() if worker.able(job)}
        return self._capable[kind]

    def leave(self, worker: str) -> None:
        """It gets nothing more."""
        del self.workers[worker]
        for workers in self._capable.values():
            workers.pop(worker, None)


def effective_class(job: Waiting, now: datetime, rules: Rules) -> int:
    """0 is served first; waiting lifts a job."""
    waited = max((now - job.ready_at).total_seconds(), 0.0)
    return max(job.priority.rank - int(waited / rules.aging), 0)


def order(
    queue: Iterable[Waiting], last_served: Mapping[UUID, datetime], now: datetime, rules: Rules
) -> list[tuple[int, Waiting]]:
    """Put the queue in the order of service, as (class, job): by class, then round-robin over projects.

    Within a project it goes by place: first come, first served, but for what was moved. The project that was served
    longest ago comes first in each round.
    """
    lanes: dict[tuple[int, UUID], list[Waiting]] = defaultdict(list)
    for job in sorted(queue, key=lambda job: (job.place, job.created_at, job.job_id)):
        lanes[effective_class(job, now, rules), job.project_id].append(job)
    ranked = [
        (rank, turn, last_served.get(project, DISTANT_PAST), job.created_at, job.job_id, job)
        for (rank, project), lane in lanes.items()
        for turn, job in enumerate(lane)
    ]
    return [(entry[0], entry[-1]) for entry in sorted(ranked, key=lambda entry: entry[:-1])]


def plan(
    queue: Iterable[Waiting],
    workers: Sequence[Worker],
    last_served: Mapping[UUID, datetime],
    now: datetime,
    rules: Rules,
    rooms: Mapping[UUID, int] | None = None,
) -> list[PlannedOffer]:
    """Offers that fill the free slots of all workers first, then one look-ahead each.

    A job waits for a worker that holds its model only while it has waited less than `affinity_bound` and the worker
    has work of the same class for the model it holds. Jobs with an equal batch key share an offer up to the worker's
    batch limit, within one class. `rooms` is how many jobs of a project may be given at most; absent: any number.
    """
    line = Line.of(order(queue, last_served, now, rules), rooms)
    offers: list[PlannedOffer] = []
    for ahead in (False, True):
        room = {each.worker: (each.ahead if ahead else each.free) for each in workers}
        crew = Crew({each.worker: each for each in workers if room[each.worker] > 0})
        while crew.workers and (found := choose(line, crew, now, rules)) is not None:
            worker, batch = found
            line.take(batch)
            offers.append(PlannedOffer(worker.worker, worker.incarnation, tuple(member.job_id for member in batch)))
            room[worker.worker] -= 1
            if room[worker.worker] < 1:
                crew.leave(worker.worker)
    return offers


def choose(line: Line, crew: Crew, now: datetime, rules: Rules) -> tuple[Worker, list[Waiting]] | None:
    """The next jobs that make one offer, and the worker that they go to; None when nobody can do any."""
    job = line.first(crew.capable)
    if job is None:
        return None
    worker, job = _suited(line, list(crew.capable(job).values()), job, now, rules)
    return worker, _group(line, worker, job)


def _suited(line: Line, capable: Sequence[Worker], job: Waiting, now: datetime, rules: Rules) -> tuple[Worker, Waiting]:
    """The worker for the first job in line, or the job whose model that worker holds, which goes before it."""
    holding = [worker for worker in capable if job.model in worker.resident]
    if holding:
        return _least_busy(holding), job
    if (now - job.ready_at).total_seconds() >= rules.affinity_bound:
        return _least_busy(capable), job
    rank = line.ranks[job.job_id]
    rivals = {worker.worker: line.first(_held_by(worker, rank)) for worker in capable}
    open_handed = [worker for worker in capable if rivals[worker.worker] is None]
    worker = _least_busy(open_handed or capable)
    return worker, rivals[worker.worker] or job


def _held_by(worker: Worker, rank: int) -> Callable[[Lane], bool]:
    """Whether a lane is of this class and a worker holds its model."""
    return lambda lane: lane.rank == rank and lane.model in worker.resident and worker.able(lane)


def _least_busy(workers: Sequence[Worker]) -> Worker:
    return min(workers, key=lambda worker: (worker.busy_seconds, worker.worker))


def _group(line: Line, worker: Worker, head: Waiting) -> list[Waiting]:
    batch, pictures = [head], head.pictures
    members = Counter({head.project_id: 1})
    limit = min(worker.batch_limits.get(head.model, worker.batch_limit), worker.batch_limit)
    if head.alone or limit <= head.pictures:
        return batch
    for job in line.alike_to(head):
        if job is head or job.alone:
            continue
        if pictures + job.pictures > limit or members[job.project_id] >= line.rooms.get(job.project_id, limit):
            continue
        members[job.project_id] += 1
        batch.append(job)
        pictures += job.pictures
        if pictures == limit:
            break
    return batch


def ready_since(queued_at: datetime, not_before: datetime | None, next_try_at: datetime | None) -> datetime:
    """Since when a queued job could have run."""
    return max(filter(None, (queued_at, not_before, next_try_at)))
