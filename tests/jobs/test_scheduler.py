"""Properties of the plan and the forecast."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Priority
from anime_jobs.scheduler import Rules, Waiting, Worker, effective_class, order, plan
from tests.builders import later

SPACE = UUID(int=1)
RULES = Rules(affinity_bound=60.0, aging=900.0)
NOW = later(1000)


def ident(name: str) -> UUID:
    return uuid5(SPACE, name)


def waiting(name: str, *, waited: float = 1.0, project: str = "p", model: str = "a", **fields: Any) -> Waiting:
    at = NOW - timedelta(seconds=waited)
    defaults: dict[str, Any] = {"priority": Priority.NORMAL, "created_at": at, "ready_at": at, "batch_key": (model,)}
    return Waiting(job_id=ident(name), project_id=ident(project), model=model, **(defaults | fields))


def worker(name: str = "w", **fields: Any) -> Worker:
    defaults: dict[str, Any] = {"models": frozenset("abc"), "resident": frozenset("a"), "free": 1}
    return Worker(name, ident(name), **(defaults | fields))


def chosen(queue: list[Waiting], workers: list[Worker], **served: float) -> list[list[UUID]]:
    last = {ident(project): later(at) for project, at in served.items()}
    return [list(offer.job_ids) for offer in plan(queue, workers, last, NOW, RULES)]


JOBS = st.lists(
    st.builds(
        lambda n, waited, project, model, priority, pictures, alone: waiting(
            str(n), waited=waited, project=project, model=model, priority=priority, pictures=pictures, alone=alone
        ),
        st.integers(0, 10**6),
        st.floats(0, 5000),
        st.sampled_from("pqr"),
        st.sampled_from("abcd"),
        st.sampled_from(list(Priority)),
        st.integers(1, 4),
        st.booleans(),
    ),
    max_size=30,
    unique_by=lambda job: job.job_id,
)
WORKERS = st.lists(
    st.builds(
        lambda n, models, resident, free, ahead, limit: worker(
            f"w{n}", models=models, resident=models & resident, free=free, ahead=ahead, batch_limit=limit
        ),
        st.integers(0, 99),
        st.frozensets(st.sampled_from("abcd")),
        st.frozensets(st.sampled_from("abcd")),
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(1, 6),
    ),
    max_size=5,
    unique_by=lambda each: each.worker,
)


@given(JOBS, WORKERS)
def test_slots_are_never_exceeded_and_no_job_is_given_twice(queue: list[Waiting], workers: list[Worker]) -> None:
    offers = plan(queue, workers, {}, NOW, RULES)
    by_id = {job.job_id: job for job in queue}
    room = {each.worker: each for each in workers}
    given_away = [job_id for offer in offers for job_id in offer.job_ids]
    assert len(set(given_away)) == len(given_away)
    for name, count in Counter(offer.worker for offer in offers).items():
        assert count <= room[name].free + room[name].ahead
    for offer in offers:
        jobs = [by_id[job_id] for job_id in offer.job_ids]
        assert all(job.model in room[offer.worker].models for job in jobs)
        assert len({job.batch_key for job in jobs}) == 1
        assert len(jobs) == 1 or sum(job.pictures for job in jobs) <= room[offer.worker].batch_limit
        assert len(jobs) == 1 or not any(job.alone for job in jobs)


@given(JOBS, WORKERS)
def test_no_capable_worker_stays_idle_while_a_job_waits(queue: list[Waiting], workers: list[Worker]) -> None:
    offers = plan(queue, workers, {}, NOW, RULES)
    given_away = {job_id for offer in offers for job_id in offer.job_ids}
    used = Counter(offer.worker for offer in offers)
    for each in workers:
        if used[each.worker] < each.free + each.ahead:
            assert not [job for job in queue if job.job_id not in given_away and job.model in each.models]


@given(JOBS, WORKERS)
def test_a_class_is_served_before_the_next_for_each_worker(queue: list[Waiting], workers: list[Worker]) -> None:
    offers = plan(queue, workers, {}, NOW, RULES)
    given_away = {job_id for offer in offers for job_id in offer.job_ids}
    left = [job for job in queue if job.job_id not in given_away]
    by_id = {job.job_id: job for job in queue}
    models = {each.worker: each.models for each in workers}
    for offer in offers:
        worst = max(effective_class(by_id[job_id], NOW, RULES) for job_id in offer.job_ids)
        for job in left:
            if job.model in models[offer.worker]:
                assert effective_class(job, NOW, RULES) >= worst


@given(JOBS, WORKERS)
def test_nothing_that_waited_beyond_the_bound_loses_to_affinity(queue: list[Waiting], workers: list[Worker]) -> None:
    one = [worker("only", models=frozenset("abcd"), resident=frozenset("a"), free=1)]
    first = [job for _, job in order(queue, {}, NOW, RULES)][:1]
    offers = plan(queue, one, {}, NOW, RULES)
    if first and (NOW - first[0].ready_at).total_seconds() >= RULES.affinity_bound:
        assert first[0].job_id in offers[0].job_ids


def test_a_job_of_a_resident_model_goes_first_within_the_bound_only() -> None:
    other, mine = waiting("other", model="b", waited=30), waiting("mine", model="a", waited=1)
    assert chosen([other, mine], [worker()]) == [[mine.job_id]]
    long = waiting("long", model="b", waited=61)
    assert chosen([long, mine], [worker()]) == [[long.job_id]]


def test_affinity_never_crosses_a_class() -> None:
    urgent = waiting("urgent", model="b", priority=Priority.INTERACTIVE)
    assert chosen([urgent, waiting("mine", model="a", waited=9)], [worker()]) == [[urgent.job_id]]


def test_a_worker_that_holds_the_model_is_preferred() -> None:
    job = waiting("job", model="b")
    offers = plan([job], [worker("x"), worker("y", resident=frozenset("b"))], {}, NOW, RULES)
    assert [offer.worker for offer in offers] == ["y"]


def test_projects_take_turns() -> None:
    queue = [waiting(f"p{i}", project="p", waited=100 - i) for i in range(3)]
    queue += [waiting(f"q{i}", project="q", waited=10 - i) for i in range(3)]
    assert [job.job_id for _, job in order(queue, {}, NOW, RULES)] == [
        ident(name) for name in ("p0", "q0", "p1", "q1", "p2", "q2")
    ]
    served = {ident("p"): NOW}
    assert order(queue, served, NOW, RULES)[0][1].job_id == ident("q0")


def test_nothing_starves_under_a_stream_of_urgent_work() -> None:
    """One worker, an urgent job every round: the batch job must run within the rounds that its ageing takes."""
    patient = waiting("patient", priority=Priority.BATCH, waited=0)
    step, rules = 60.0, Rules(affinity_bound=60.0, aging=300.0)
    for round_ in range(100):
        now = NOW + timedelta(seconds=step * round_)
        urgent = [
            Waiting(ident(f"u{round_}{i}"), ident("q"), Priority.INTERACTIVE, now, now, "a", ("a",)) for i in range(2)
        ]
        offers = plan([patient, *urgent], [worker()], {ident("q"): now}, now, rules)
        if patient.job_id in offers[0].job_ids:
            assert round_ * step <= 2 * rules.aging + step
            return
    raise AssertionError("the patient job starved")


def test_equal_jobs_share_an_offer_up_to_the_limit() -> None:
    queue = [waiting(f"j{i}", waited=10 - i, pictures=2) for i in range(4)]
    queue.append(waiting("alone", waited=0.5, alone=True))
    offers = chosen(queue, [worker(free=2, batch_limit=4)])
    assert offers == [[ident("j0"), ident("j1")], [ident("j2"), ident("j3")]]


def test_a_limit_that_a_worker_has_measured_holds_for_its_model_alone() -> None:
    queue = [waiting(f"a{i}", waited=10 - i) for i in range(3)] + [
        waiting(f"b{i}", waited=5, model="b") for i in (1, 2)
    ]
    offers = chosen(queue, [worker(free=3, batch_limit=4, batch_limits={"a": 2}, resident=frozenset("ab"))])
    assert sorted(map(len, offers)) == [1, 2, 2]


def test_idle_workers_come_before_looking_ahead() -> None:
    queue = [waiting("one", waited=2), waiting("two", waited=1)]
    offers = plan(queue, [worker("x", free=0, ahead=1), worker("y", free=1, ahead=1)], {}, NOW, RULES)
    assert [offer.worker for offer in offers] == ["y", "x"]


def given_with_rooms(queue: list[Waiting], workers: list[Worker], rooms: dict[UUID, int]) -> list[UUID]:
    return [job_id for offer in plan(queue, workers, {}, NOW, RULES, rooms) for job_id in offer.job_ids]


def test_a_project_gets_no_more_than_its_room_and_leaves_the_rest_to_others() -> None:
    queue = [waiting(f"{project}{n}", project=project, waited=10 - n) for project in "pq" for n in range(4)]
    found = given_with_rooms(queue, [worker(free=6)], {ident("p"): 1})
    assert Counter(job.project_id for job in queue if job.job_id in found) == {ident("p"): 1, ident("q"): 4}
    assert given_with_rooms(queue, [worker(free=6)], {ident("p"): 0, ident("q"): 0}) == []


def test_jobs_that_share_an_offer_count_each() -> None:
    queue = [waiting(str(n)) for n in range(6)]
    (offer,) = plan(queue, [worker(batch_limit=6)], {}, NOW, RULES, {ident("p"): 3})
    assert len(offer.job_ids) == 3


@given(
    queue=JOBS, workers=WORKERS, rooms=st.dictionaries(st.sampled_from([ident(n) for n in "pqr"]), st.integers(0, 4))
)
def test_no_room_is_ever_overdrawn(queue: list[Waiting], workers: list[Worker], rooms: dict[UUID, int]) -> None:
    found = set(given_with_rooms(queue, workers, rooms))
    served = Counter(job.project_id for job in queue if job.job_id in found)
    assert all(served[project] <= room for project, room in rooms.items())
