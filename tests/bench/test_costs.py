"""Whose processor time it was, and what was the limit."""

from __future__ import annotations

import os

import pytest

from tests.bench import costs
from tests.bench.costs import Costs, Reading


def run(processes: dict[str, float], *, idle: float, others: float = 0.0) -> Costs:
    return Costs(jobs=100, cores=2, seconds=10.0, processes=processes, idle=idle, others=others)


def test_costs_are_what_the_clocks_have_gained() -> None:
    before = Reading(at=100.0, processes={"jobs": 5.0, "files": 1.0}, idle=50.0, total=200.0)
    after = Reading(at=110.0, processes={"jobs": 9.0, "files": 3.0}, idle=62.0, total=220.0)
    spent = Costs.between(before, after, jobs=100, cores=2)
    assert spent.seconds == 10
    assert spent.processes == {"jobs": 4.0, "files": 2.0}
    assert spent.idle == pytest.approx(0.6)
    assert spent.others == pytest.approx(0.1)
    assert spent.per_job("jobs") == pytest.approx(40)
    assert spent.table().rows[0] == ("jobs", pytest.approx(40), pytest.approx(40))
    assert spent.table().rows[-1] == ("together", pytest.approx(60), pytest.approx(60))


def test_a_full_machine_is_limited_by_its_processors() -> None:
    text = run({"jobs": 9.0, "files": 6.0}, idle=0.05).bottleneck()
    assert text.startswith(
        "the processors: 95 % of 2 cores are busy; the largest part is jobs with 90.0 ms a job, 60 %"
    )


def test_a_process_that_fills_a_core_is_the_limit() -> None:
    assert run({"jobs": 9.5, "files": 1.0}, idle=0.45).bottleneck().startswith("the process jobs, which fills 95 %")


def test_else_it_is_the_waiting() -> None:
    assert run({"jobs": 4.0, "files": 1.0}, idle=0.7).bottleneck().startswith("waiting (commits, fsyncs, round trips)")


def test_a_shared_machine_is_named() -> None:
    assert "Other programs took 30 %" in run({"jobs": 9.0}, idle=0.0, others=0.3).bottleneck()
    assert "Other programs" not in run({"jobs": 9.0}, idle=0.0).bottleneck()


def test_clocks_of_real_processes_only_gain() -> None:
    before = costs.read({"self": os.getpid()})
    sum(range(3_000_000))
    after = costs.read({"self": os.getpid()})
    assert after.processes["self"] >= before.processes["self"] > 0
    assert after.total >= before.total > 0
    assert costs.cpu_seconds(2**22 + 1) == 0
    assert costs.rss_bytes(os.getpid()) > 1 << 20
