"""`make bench-scheduling`: the plan beside first come, first served, in virtual time; prints, draws and records it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anime_common.contracts.vocabulary import Priority
from anime_jobs.scheduler import plan
from tests.bench.peers import environment
from tests.bench.tables import Result, Table
from tests.jobs.simulation import Simulation, fifo, middle, share
from tests.stacks import ROOT

RECORDS = ROOT / "docs" / "benchmarks"
PAGE, DATA, PICTURE = "scheduling.md", "scheduling.json", "scheduling.svg"
FLEETS = (1, 4, 64)
JOBS = 10_000
POINTS = 100
"""Quantiles of waiting times that are kept for drawing."""
INTRO = (
    "Written by `make bench-scheduling`: {jobs:,} mixed jobs in virtual time over 1, 4 and 64 workers, busy to 90 %,"
    " given by the real `plan`, and by first come, first served. Three classes, six projects of unequal size, five"
    " models that take from 4 to 60 s to load of which two fit into memory, single jobs and bursts of up to 60, workers"
    " of three speeds; times with a heavy tail (lognormal, and one job in fifty takes thrice as long). Everything is"
    " drawn from fixed seeds, so that a run gives the same numbers on every machine."
)
ETA = (
    "The error of the forecast is the factor between what a waiting job was first told and what it took, either way,"
    " later jobs that went before it included: half of the jobs, and nine of ten, were told better than this. The times"
    " themselves vary by a factor of 1.2 (median), so no forecast can do better than that."
)


def _named(policy: object) -> str:
    return "plan" if policy is plan else "first come, first served"


def simulate(jobs: int, fleets: Sequence[int]) -> list[Simulation]:
    """Every fleet with both policies."""
    return [
        Simulation(workers, jobs, policy=policy, foretells=policy is plan).run()
        for workers in fleets
        for policy in (plan, fifo)
    ]


def result(found: Sequence[Simulation], jobs: int) -> Result:
    """What came of it, as tables; a simulation in which the plan broke its word is a problem."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for one in found:
        waits = [each for priority in Priority for each in _quantiles(one, priority)]
        rows.append(
            (one.workers, _named(one.policy), *waits, one.switches, max(each.ended for each in one.ended) / 3600)
        )
    columns = [f"{priority.value} {name}" for priority in Priority for name in ("p50", "p95")]
    waiting = Table(("workers", "served", *columns, "loads", "hours"), rows, "Seconds of waiting, and models loaded")
    planned = [one for one in found if one.policy is plan]
    errors = [
        (one.workers, *(2 ** share(one.eta_errors(), part) for part in (0.5, 0.9)), len(one.eta_errors()))
        for one in planned
    ]
    broken = [one.workers for one in planned if one.idle_beside_work or one.passed_by or one.bent]
    return Result(
        "scheduling",
        "Scheduling",
        settings={"jobs": jobs, "load": 0.9},
        numbers={
            f"interactive p50 of {one.workers} {_named(one.policy)}": middle(one.waits(Priority.INTERACTIVE))
            for one in found
        },
        tables=[
            waiting,
            Table(("workers", "factor p50", "factor p90", "jobs foretold"), errors, "How wrong the forecast was"),
        ],
        remarks=[ETA],
        problem=f"the plan broke its word over {broken} workers" if broken else None,
    )


def _quantiles(one: Simulation, priority: Priority) -> tuple[float, float]:
    waits = one.waits(priority)
    return middle(waits), share(waits, 0.95)


def drawing(found: Sequence[Simulation]) -> dict[str, Any]:
    """What `draw` needs: per fleet and policy the waiting times of each class by quantile."""
    return {
        "panels": [
            {
                "title": f"{one.workers} worker{'s' if one.workers > 1 else ''}",
                "workers": one.workers,
                "policy": _named(one.policy),
                "waits": {
                    priority.value: [share(one.waits(priority), n / POINTS) for n in range(POINTS)]
                    for priority in Priority
                },
            }
            for one in found
        ]
    }


def page(found: Result, jobs: int) -> str:
    """For people."""
    picture = f"![Waiting times by class]({PICTURE})"
    return "\n\n".join(["# Scheduling", INTRO.format(jobs=jobs), picture, *found.markdown().split("\n\n")[1:]]) + "\n"


def draw(data: dict[str, Any], target: Path) -> None:
    """Draw it with the matplotlib of the benchmarks' own environment. Raises Absent."""
    command = (environment.python(), "-m", "tests.bench.scheduling.draw", target)
    done = subprocess.run(command, input=json.dumps(data), text=True, capture_output=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise environment.Absent(f"the picture could not be drawn: {done.stderr.strip().splitlines()[-1:]}")


def main(words: Sequence[str] | None = None) -> int:
    """Simulate, print, record; 1 when the plan broke its word."""
    parser = argparse.ArgumentParser(prog="make bench-scheduling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs, to see that it works; not recorded")
    parser.add_argument("--record", type=Path, help=f"where to write (a full run: {RECORDS.relative_to(ROOT)})")
    given = parser.parse_args(words)
    jobs = 1000 if given.quick else JOBS
    folder = given.record or (None if given.quick else RECORDS)
    began = time.monotonic()
    simulations = simulate(jobs, FLEETS)
    found = result(simulations, jobs)
    print(page(found, jobs))
    print(f"bench-scheduling: took {time.monotonic() - began:.0f} s", file=sys.stderr)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_text(page(found, jobs))
        (folder / DATA).write_text(json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
        draw(drawing(simulations), folder / PICTURE)
    return int(found.problem is not None)


if __name__ == "__main__":
    sys.exit(main())
