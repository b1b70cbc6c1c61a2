"""Ten thousand mixed jobs over 1, 4 and 64 workers in virtual time: what the plan promises, beside first come, first
served. `make bench` measures the same and draws it."""

from __future__ import annotations

from collections import Counter
from functools import cache
from statistics import fmean
from uuid import uuid5

import pytest

from anime_common.contracts.vocabulary import Priority
from anime_jobs.scheduler import plan
from tests.jobs.simulation import SPACE, Simulation, fifo, middle, share

FLEETS = (1, 4, 64)
JOBS = 10_000
LARGE = uuid5(SPACE, "project 0")
"""Half of all jobs are of this project."""


@cache
def planned(workers: int) -> Simulation:
    return Simulation(workers, JOBS).run()


@cache
def served_in_turn(workers: int) -> Simulation:
    return Simulation(workers, JOBS, policy=fifo, foretells=False).run()


@pytest.mark.parametrize("workers", FLEETS)
class TestTenThousandJobs:
    def test_each_runs_once_and_no_worker_idles_beside_work(self, workers: int) -> None:
        found = planned(workers)
        assert Counter(each.job.job_id for each in found.ended).most_common(1)[0][1] == 1
        assert len(found.ended) == JOBS
        assert found.idle_beside_work == 0

    def test_nobody_waits_beyond_the_bound_for_a_model_in_memory(self, workers: int) -> None:
        assert planned(workers).passed_by == 0

    def test_who_watches_waits_less_and_nobody_starves(self, workers: int) -> None:
        ours, theirs = planned(workers), served_in_turn(workers)
        assert middle(ours.waits(Priority.INTERACTIVE)) < 0.7 * middle(theirs.waits(Priority.INTERACTIVE))
        assert middle(ours.waits(Priority.INTERACTIVE)) < middle(ours.waits(Priority.BATCH))
        # Who has risen to the first class is passed by no job of its project that came later.
        assert ours.waits()[-1] < 2 * theirs.waits()[-1] + 2 * ours.rules.aging

    def test_small_projects_are_not_held_up_by_the_large_one(self, workers: int) -> None:
        def burden(found: Simulation) -> float:
            """What a job of a small project waits, as a part of what one of the large project does."""
            waits: dict[bool, list[float]] = {True: [], False: []}
            for each in found.ended:
                waits[each.job.project_id == LARGE].append(each.waited)
            return fmean(waits[False]) / fmean(waits[True])

        assert burden(planned(workers)) < 0.9 * burden(served_in_turn(workers))

    def test_models_are_not_loaded_more_often(self, workers: int) -> None:
        assert planned(workers).switches < served_in_turn(workers).switches

    def test_the_end_is_foretold_within_a_factor(self, workers: int) -> None:
        """Half of them within 1.4 times, though each time has a heavy tail and later jobs go before."""
        errors = planned(workers).eta_errors()
        assert len(errors) > 100
        assert middle(errors) < 0.5


@pytest.mark.parametrize("workers", FLEETS)
def test_without_surprises_the_end_is_foretold_well(workers: int) -> None:
    """All jobs are there, each takes exactly its time, and the speeds were learned from as many before."""
    before = Simulation(workers, 1000, surprises=False, memory=1).run()
    found = Simulation(workers, 150 + 10 * workers, seed=2, surprises=False, memory=1, at_once=True, look_every=4)
    found.learned_from(before)
    errors = found.run().eta_errors()
    assert len(errors) > 20
    assert share(errors, 0.5) < 0.3
    assert share(errors, 0.9) < 1.0


def test_of_a_project_with_a_bound_no_more_run_at_a_time() -> None:
    bounded = Simulation(16, 1500, bounds={LARGE: 3}, load=0.7, batch_limit=1).run()
    assert (bounded.bent, bounded.idle_beside_work, len(bounded.ended)) == (0, 0, 1500)
    edges = sorted(
        edge for each in bounded.ended if each.job.project_id == LARGE for edge in ((each.begun, 1), (each.ended, -1))
    )
    running, most = 0, 0
    for _, change in edges:
        running += change
        most = max(most, running)
    assert most == 3


def test_the_batch_class_gets_its_turn_under_a_stream_of_urgent_work() -> None:
    found = Simulation(4, 4000, load=1.3, projects=1).run()
    plain = Simulation(4, 4000, load=1.3, projects=1, policy=fifo, foretells=False).run()
    assert found.policy is plan
    assert found.waits(Priority.BATCH)[-1] < plain.waits()[-1] + 2 * found.rules.aging
