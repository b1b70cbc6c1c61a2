"""What runs next, where: pure. `plan` fills workers from the queue; `forecast` says when each job should end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from anime_common.contracts.vocabulary import Priority

DISTANT_PAST = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that could run now. `work` is pixels × steps × pictures, `loras` are the keys of those it needs."""

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


@dataclass(frozen=True, slots=True)
class Worker:
    """A live worker: how many more offers it takes at once (`free`) and ahead of time (`ahead`).

    `batch_limits` are those of models of which fewer pictures fit into a pass than `batch_limit`.
    """

    worker: str
    incarnation: UUID
    models: frozenset[str]
    resident: frozenset[str] = frozenset()
    free: int = 0
    ahead: int = 0
    batch_limit: int = 1
    batch_limits: Mapping[str, int] = field(default_factory=dict)
    busy_seconds: float = 0.0
    loras: frozenset[str] = frozenset()

    def able(self, job: Waiting) -> bool:
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
class _Queue:
    """The waiting jobs in the order they are served, taken one by one."""

    jobs: dict[UUID, Waiting] = field(default_factory=dict)
    classes: dict[UUID, int] = field(default_factory=dict)
    rooms: dict[UUID, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for project in [project for project, room in self.rooms.items() if room < 1]:
            self._close(project)

    def take(self, batch: Sequence[Waiting]) -> None:
        """These are given away; a project that has no room left is served no more."""
        for job in batch:
            del self.jobs[job.job_id]
            if job.project_id in self.rooms:
                self.rooms[job.project_id] -= 1
        for project in {job.project_id for job in batch}:
            if self.rooms.get(project, 1) < 1:
                self._close(project)

    def _close(self, project: UUID) -> None:
        for job_id in [job_id for job_id, job in self.jobs.items() if job.project_id == project]:
            del self.jobs[job_id]


def effective_class(job: Waiting, now: datetime, rules: Rules) -> int:
    """0 is served first; waiting lifts a job."""
    waited = max((now - job.ready_at).total_seconds(), 0.0)
    return max(job.priority.rank - int(waited / rules.aging), 0)


def order(
    queue: Iterable[Waiting], last_served: Mapping[UUID, datetime], now: datetime, rules: Rules
) -> list[tuple[int, Waiting]]:
    """Put the queue in the order of service, as (class, job): by class, then round-robin over projects.

    Within a project it is first come, first served; the project that was served longest ago comes first in each round.
    """
    lanes: dict[tuple[int, UUID], list[Waiting]] = defaultdict(list)
    for job in sorted(queue, key=lambda job: (job.created_at, job.job_id)):
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
    ordered = order(queue, last_served, now, rules)
    jobs, classes = {job.job_id: job for _, job in ordered}, {job.job_id: rank for rank, job in ordered}
    left = _Queue(jobs, classes, dict(rooms or {}))
    offers: list[PlannedOffer] = []
    for ahead in (False, True):
        room = {each.worker: (each.ahead if ahead else each.free) for each in workers}
        while True:
            able = [each for each in workers if room[each.worker] > 0]
            found = _choose(left, able, now, rules) if able else None
            if found is None:
                break
            worker, job = found
            batch = _group(left, worker, job)
            left.take(batch)
            offers.append(PlannedOffer(worker.worker, worker.incarnation, tuple(member.job_id for member in batch)))
            room[worker.worker] -= 1
    return offers


def _choose(left: _Queue, able: Sequence[Worker], now: datetime, rules: Rules) -> tuple[Worker, Waiting] | None:
    """The next job and the worker it goes to."""
    for job in left.jobs.values():
        capable = [worker for worker in able if worker.able(job)]
        if not capable:
            continue
        holding = [worker for worker in capable if job.model in worker.resident]
        if holding:
            return _least_busy(holding), job
        patient = (now - job.ready_at).total_seconds() < rules.affinity_bound
        rivals = {worker.worker: _resident_rival(left, worker, job) for worker in capable} if patient else {}
        open_handed = [worker for worker in capable if rivals.get(worker.worker) is None]
        if open_handed:
            return _least_busy(open_handed), job
        worker = _least_busy(capable)
        rival = rivals[worker.worker]
        return (worker, rival) if rival is not None else (worker, job)
    return None


def _resident_rival(left: _Queue, worker: Worker, head: Waiting) -> Waiting | None:
    """The first job of the same class whose model the worker holds."""
    rank = left.classes[head.job_id]
    return next(
        (
            job
            for job in left.jobs.values()
            if left.classes[job.job_id] == rank and job.model in worker.resident and worker.able(job)
        ),
        None,
    )


def _least_busy(workers: Sequence[Worker]) -> Worker:
    return min(workers, key=lambda worker: (worker.busy_seconds, worker.worker))


def _group(left: _Queue, worker: Worker, head: Waiting) -> list[Waiting]:
    batch, pictures = [head], head.pictures
    members = Counter({head.project_id: 1})
    limit = min(worker.batch_limits.get(head.model, worker.batch_limit), worker.batch_limit)
    if head.alone or limit <= head.pictures:
        return batch
    rank = left.classes[head.job_id]
    for job in left.jobs.values():
        if job is head or job.alone or job.batch_key != head.batch_key or left.classes[job.job_id] != rank:
            continue
        if pictures + job.pictures > limit or members[job.project_id] >= left.rooms.get(job.project_id, limit):
            continue
        members[job.project_id] += 1
        batch.append(job)
        pictures += job.pictures
    return batch


@dataclass(frozen=True, slots=True)
class Forecast:
    """A waiting job's place (1 = next) and the seconds until it should end, when speeds are known."""

    job_id: UUID
    position: int
    eta_seconds: float | None


def forecast(
    queue: Iterable[Waiting],
    workers: Sequence[Worker],
    speeds: Mapping[str, float],
    last_served: Mapping[UUID, datetime],
    now: datetime,
    rules: Rules,
) -> list[Forecast]:
    """The queue in order of service, each job simulated on the worker that is free first.

    `speeds` are seconds per unit of work by model.
    """
    clocks = {worker.worker: worker.busy_seconds for worker in workers}
    found: list[Forecast] = []
    for position, (_, job) in enumerate(order(queue, last_served, now, rules), start=1):
        speed = speeds.get(job.model)
        slots = [(clocks[worker.worker], worker.worker) for worker in workers if worker.able(job)]
        eta = None
        if speed is not None and slots:
            free_at, name = min(slots)
            eta = clocks[name] = free_at + speed * job.work
        found.append(Forecast(job.job_id, position, eta))
    return found


def ready_since(queued_at: datetime, not_before: datetime | None, next_try_at: datetime | None) -> datetime:
    """Since when a queued job could have run."""
    return max(filter(None, (queued_at, not_before, next_try_at)))
