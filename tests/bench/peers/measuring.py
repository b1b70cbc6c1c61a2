"""Two well-known job systems on the same machine, with jobs that do nothing: their rates, audited, beside ours."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anime_cli.process import Child
from tests.bench import costs, machine
from tests.bench.measures import rate, sustained
from tests.bench.peers import environment
from tests.bench.peers.guarantees import GUARANTEES
from tests.bench.peers.systems import (
    CELERY,
    HERE,
    PATIENCE,
    PROCRASTINATE,
    Peer,
    Setting,
    celery,
    output,
    procrastinate,
)
from tests.bench.running import folder
from tests.bench.tables import Cell, Result, Table
from tests.faults.breaking import family_of

SLOWEST = 20.0
"""Jobs a second below which a peer is given up."""

WARM_UP = 20
TITLE = "Two well-known job systems on the same machine, no-op jobs"
COLUMNS = (
    "system", "how", "durability", "processes", "submits/s", "sustained jobs/s", "total jobs/s", "CPU ms per job",
)  # fmt: skip
LIKE_WITH_LIKE = (
    "The rates do not compare like with like: theirs is a function that returns, ours the whole life of a picture. They"
    " show what the same machine does with a job system and nothing else."
)
MISSING = "Celery: not measured: {}. Debian and Ubuntu have it: `apt install redis-server`."

Start = Callable[[Path, Setting], AbstractAsyncContextManager[Peer]]


@dataclass(frozen=True, slots=True)
class Measured:
    """The audited rates of one setting, in jobs a second; `cpu` in ms of a core per job, client and server included."""

    setting: Setting
    submitted: float
    sustained: float
    total: float
    cpu: float
    processes: int

    @property
    def names(self) -> tuple[str, str, str]:
        """What it is, as the first cells of a line."""
        return self.setting.peer, self.setting.how, self.setting.durability

    @property
    def line(self) -> tuple[Cell, ...]:
        """Its line of the table."""
        return (*self.names, self.processes, self.submitted, self.sustained, self.total, self.cpu)


async def measure(peer: Peer, setting: Setting, jobs: int) -> Measured:
    """Warm up, then submit while the workers work; the rates, once all jobs were read back as done."""
    logs = peer.home / "logs"
    names = [f"worker-{number}" for number in range(setting.workers)]
    workers = [Child(name, peer.work, logs / name, peer.env, cwd=str(HERE), reap_group=True) for name in names]
    async with AsyncExitStack() as closing:
        for worker in workers:
            worker.start()
            closing.push_async_callback(worker.stop)
        await output([*peer.submit, str(WARM_UP)], peer.env, PATIENCE)
        await _done(peer, WARM_UP, PATIENCE, workers)
        running = {each.name: each.pid for each in (peer.server, *workers) if each.pid is not None}
        processes = sum(len(family_of(pid)) for pid in running.values())
        running["client"] = os.getpid()
        before = costs.read(running)
        told = json.loads(await output([*peer.submit, str(jobs)], peer.env, PATIENCE + jobs / SLOWEST))
        ends = await _done(peer, WARM_UP + jobs, PATIENCE + jobs / SLOWEST, workers)
        spent = costs.Costs.between(before, costs.read(running), jobs, machine.cores())
    mine = [end for end in ends if end > told["began"]]
    assert len(mine) == jobs, f"{setting.peer}: {len(mine)} of {jobs} jobs are recorded as done"
    cpu = sum(map(spent.per_job, spent.processes))
    return Measured(setting, jobs / told["seconds"], sustained(mine), rate(mine, told["began"]), cpu, processes)


async def _done(peer: Peer, count: int, within: float, workers: Sequence[Child]) -> list[float]:
    """When each job ended, once that many have."""
    async with asyncio.timeout(within):
        while await peer.count() < count or len(ends := await peer.ends()) < count:
            for worker in workers:
                assert worker.alive, worker.output(10)
            await asyncio.sleep(0.5)
    return ends


async def run(parent: Path | None, jobs: int, ours: float | None, say: Callable[[str], None]) -> Result:
    """Measure the peers; `ours` is our sustained rate of the same run, for the ratio."""
    result = Result("peers", TITLE, {"jobs": jobs})
    try:
        python = await asyncio.to_thread(environment.python)
    except environment.Absent as error:
        result.problem = str(error)
        return result
    starts: list[tuple[Setting, Start]] = [(setting, partial(procrastinate, python)) for setting in PROCRASTINATE]
    try:
        server = environment.redis()
    except environment.Absent as error:
        result.remarks.append(MISSING.format(error))
    else:
        result.settings = {**result.settings, "Celery's server": server.version}
        starts += [(setting, partial(celery, python, server)) for setting in CELERY]
    found: list[Measured] = []
    for setting, start in starts:
        say(f"{setting.peer}: {setting.how}")
        async with folder(parent) as home, start(home, setting) as peer:
            found.append(await measure(peer, setting, jobs))
    _show(result, found, ours, jobs)
    return result


def _show(result: Result, found: Sequence[Measured], ours: float | None, jobs: int) -> None:
    result.tables.append(Table(COLUMNS, [each.line for each in found], "Rates"))
    if ours is not None:
        columns = (*COLUMNS[:3], "its no-op jobs for each whole job of ours")
        result.tables.append(Table(columns, [(*each.names, each.sustained / ours) for each in found], "Ratio"))
    result.tables.append(GUARANTEES)
    result.numbers = {f"{', '.join(each.names)}: jobs/s": each.sustained for each in found}
    result.remarks += [LIKE_WITH_LIKE, f"Audit: each of the {jobs:,} jobs of every row was read back as succeeded."]
