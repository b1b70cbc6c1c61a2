"""The forecast plays the plan: its places, its order, and what it can promise."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Priority
from anime_jobs.estimate import Estimates, Sample, learn
from anime_jobs.forecasting import Forecast, forecast
from anime_jobs.scheduler import Waiting, Worker, order, plan
from tests.jobs.test_scheduler import JOBS, NOW, RULES, WORKERS, ident, waiting, worker

E = {"a": "e", "b": "e", "c": "e", "d": "e"}


def times(loading: float = 0.0, **speeds: float) -> Estimates:
    """Estimates that are exact for every worker: seconds a unit of work."""
    return learn(Sample("w", "e", model, 1.0, 1.0, speed, loading) for model, speed in speeds.items())


def look(queue: list[Waiting], workers: list[Worker], known: Estimates, **more: Any) -> list[Forecast]:
    return forecast(queue, workers, known, {}, NOW, RULES, **more)


def ends(found: list[Forecast]) -> dict[UUID, float | None]:
    return {each.job_id: each.eta_seconds for each in found}


@given(JOBS, WORKERS)
def test_every_job_has_a_place_and_an_end_when_it_can_be_told(queue: list[Waiting], workers: list[Worker]) -> None:
    able = [worker(each.worker, models=each.models, resident=each.resident, engines=E) for each in workers]
    found = look(queue, able, times(a=1.0, b=2.0))
    assert sorted(each.job_id for each in found) == sorted(job.job_id for job in queue)
    assert [each.position for each in found] == list(range(1, len(queue) + 1))
    models = {job.job_id: job.model for job in queue}
    for each in found:
        known = models[each.job_id] in "ab" and any(models[each.job_id] in one.models for one in able)
        assert (each.eta_seconds is not None) == known


@given(JOBS, WORKERS)
def test_what_begins_first_is_what_a_plan_gives_first(queue: list[Waiting], workers: list[Worker]) -> None:
    idle = [worker(each.worker, models=each.models, resident=each.resident, free=1, engines=E) for each in workers]
    given_away = [job for offer in plan(queue, idle, {}, NOW, RULES) for job in offer.job_ids]
    found = [each.job_id for each in look(queue, idle, times(a=1.0, b=1.0, c=1.0, d=1.0))]
    assert found[: len(given_away)] == given_away


def test_an_estimate_adds_up_what_is_before() -> None:
    queue = [waiting(f"j{i}", waited=10 - i, work=5.0) for i in range(4)]
    hands = [worker("x", busy_seconds=3.0, engines=E), worker("y", engines=E)]
    assert [each.eta_seconds for each in look(queue, hands, times(a=2.0))] == pytest.approx([10.0, 13.0, 20.0, 23.0])


def test_a_model_that_must_be_loaded_first_costs_that_once() -> None:
    queue = [waiting(f"j{i}", waited=100 - i, model="b", work=1.0) for i in range(3)]
    found = look(queue, [worker(engines=E)], times(loading=30.0, a=1.0, b=1.0))
    assert [each.eta_seconds for each in found] == pytest.approx([31.0, 32.0, 33.0])


def test_going_to_and_fro_between_models_costs_each_time_where_one_fits() -> None:
    queue = [waiting(f"j{i}", waited=100 - i, model="ab"[i % 2], work=1.0, project=f"p{i}") for i in range(4)]
    found = look(queue, [worker(engines=E, models=frozenset("ab"))], times(loading=30.0, a=1.0, b=1.0))
    assert [each.eta_seconds for each in found] == pytest.approx([1.0, 32.0, 63.0, 94.0])


def test_those_that_share_an_offer_end_together() -> None:
    queue = [waiting(f"j{i}", waited=10 - i, work=2.0) for i in range(4)]
    found = look(queue, [worker(engines=E, batch_limit=3)], times(a=1.0))
    assert [each.eta_seconds for each in found] == pytest.approx([6.0, 6.0, 6.0, 8.0])


def test_who_is_faster_does_more() -> None:
    samples = [Sample(name, "e", "a", 1.0, 1.0, speed, 0.0) for name, speed in (("slow", 4.0), ("fast", 1.0))] * 400
    queue = [waiting(f"j{i}", waited=50 - i, work=1.0) for i in range(10)]
    found = look(queue, [worker("slow", engines=E), worker("fast", engines=E)], learn(samples))
    assert max(each.eta_seconds or 0.0 for each in found) == pytest.approx(8.0, rel=0.05)


def test_a_project_at_its_bound_waits_until_its_own_is_done() -> None:
    queue = [waiting(f"j{i}", waited=10 - i, work=5.0) for i in range(2)]
    hands = [worker("x", busy_seconds=7.0, engines=E), worker("y", engines=E)]
    p = queue[0].project_id
    found = look(queue, hands, times(a=1.0), rooms={p: 0}, running={"x": [p]})
    assert [each.eta_seconds for each in found] == pytest.approx([12.0, 17.0])
    assert [each.eta_seconds for each in look(queue, hands, times(a=1.0), rooms={p: 0})] == [None, None]


def test_what_nobody_can_do_stands_last() -> None:
    queue = [waiting("lost", waited=99, model="z", work=1.0), waiting("mine", work=1.0)]
    found = look(queue, [worker(engines=E)], times(a=1.0))
    assert ends(found) == {ident("mine"): pytest.approx(1.0), ident("lost"): None}
    assert [each.job_id for each in found] == [ident("mine"), ident("lost")]


@given(JOBS)
def test_without_workers_the_places_are_those_of_the_order(queue: list[Waiting]) -> None:
    assert [each.job_id for each in look(queue, [], times(a=1.0))] == [
        job.job_id for _, job in order(queue, {}, NOW, RULES)
    ]


@given(st.permutations(range(6)))
def test_places_order_the_jobs_of_a_project_and_class(places: list[int]) -> None:
    queue = [waiting(f"j{place}", waited=5.0, place=float(place)) for place in places]
    queue.append(waiting("urgent", waited=1.0, place=99.0, priority=Priority.INTERACTIVE))
    found = [each.job_id for each in look(queue, [worker(engines=E)], times(a=1.0))]
    assert found == [ident("urgent"), *[ident(f"j{n}") for n in range(6)]]
