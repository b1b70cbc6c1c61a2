"""Two well-known job systems on the same machine: procrastinate on PostgreSQL and Celery on Redis, with no-op jobs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from anime_cli.postgres import ADMIN, DATABASE, PostgresServer
from anime_cli.process import Child
from tests.bench import costs, machine
from tests.bench.measures import rate, sustained
from tests.bench.peers import environment
from tests.bench.peers.guarantees import GUARANTEES
from tests.bench.running import folder
from tests.bench.tables import Cell, Result, Table
from tests.faults.breaking import family_of

HERE = Path(__file__).resolve().parent
SPARE = 60.0
SLOWEST = 20.0
"""Jobs a second below which a peer is given up."""

WARM_UP = 20

LIKE_WITH_LIKE = (
    "The rates do not compare like with like: theirs is a function that returns, ours the whole life of a picture. They"
    " show what the same machine does with a job system and nothing else."
)

Ends = Callable[[], Awaitable[list[float]]]


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a peer: `workers` processes, each doing `each` jobs at a time."""

    peer: str
    how: str
    workers: int
    each: int
    durable: str
    safe: bool = False
    redis: tuple[str, ...] = ()


ALWAYS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
PROCRASTINATE = tuple(
    Setting(
        "procrastinate",
        f"{workers} worker process{'es' if workers > 1 else ''}, concurrency {each}",
        workers,
        each,
        "fsync on",
    )
    for workers, each in ((1, 1), (1, 10), (2, 10))
)
CELERY = (
    Setting("Celery", "acks_late, prefetch 1", 1, 0, "appendfsync always", safe=True, redis=ALWAYS),
    Setting("Celery", "its defaults: early ack, prefetch 4", 1, 0, "Redis's default: snapshots, no fsync per write"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """The rates of one setting, audited."""

    setting: Setting
    submitted: float
    sustained: float
    total: float
    cpu: float
    processes: int

    @property
    def row(self) -> tuple[Cell, ...]:
        """Its line of the table."""
        how = self.setting.how if self.setting.workers else ""
        return (
            self.setting.peer,
            how,
            self.setting.durable,
            self.processes,
            self.submitted,
            self.sustained,
            self.total,
            self.cpu,
        )


COLUMNS = (
    "system",
    "workers",
    "durability",
    "processes",
    "submits/s",
    "sustained jobs/s",
    "total jobs/s",
    "CPU ms per job",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that is set up: how it submits, works, and tells what it has done."""

    submit: Sequence[str]
    work: Sequence[str]
    env: Mapping[str, str]
    ends: Ends
    server: Child
    home: Path


async def output(command: Sequence[str], env: Mapping[str, str], within: float) -> str:
    """What a program says, run to its end; raises AssertionError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(env), cwd=HERE, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, wrong = await asyncio.wait_for(process.communicate(), within)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, wrong.decode()[-2000:]
    return said.decode()


async def measure(peer: Peer, setting: Setting, jobs: int) -> Measured:
    """Warm up, then submit while the workers work; the rates, once all jobs were seen as done."""
    workers = [
        Child(
            f"worker-{number}",
            peer.work,
            peer.home / "logs" / f"worker-{number}.log",
            peer.env,
            cwd=str(HERE),
            reap_group=True,
        )
        for number in range(setting.workers)
    ]
    async with AsyncExitStack() as closing:
        for worker in workers:
            worker.start()
            closing.push_async_callback(worker.stop)
        await output([*peer.submit, str(WARM_UP)], peer.env, SPARE)
        await _done(peer, WARM_UP, SPARE, workers)
        running = {each.name: each.pid for each in (peer.server, *workers) if each.pid is not None}
        processes = sum(len(family_of(pid)) for pid in running.values())
        before = costs.read({**running, "client": os.getpid()})
        told = json.loads(await output([*peer.submit, str(jobs)], peer.env, SPARE + jobs / SLOWEST))
        ends = await _done(peer, WARM_UP + jobs, SPARE + jobs / SLOWEST, workers)
        spent = costs.Costs.between(before, costs.read({**running, "client": os.getpid()}), jobs, machine.cores())
    mine = [end for end in ends if end > told["began"]]
    assert len(mine) == jobs, f"{len(mine)} of {jobs} jobs are recorded as done"
    cpu = sum(map(spent.per_job, spent.processes))
    return Measured(setting, jobs / told["seconds"], sustained(mine), rate(mine, told["began"]), cpu, processes)


async def _done(peer: Peer, count: int, within: float, workers: Sequence[Child]) -> list[float]:
    """When each job ended, once that many have."""
    async with asyncio.timeout(within):
        while len(ends := await peer.ends()) < count:
            assert all(worker.alive for worker in workers), workers[0].output(10)
            await asyncio.sleep(0.5)
    return ends


async def procrastinate(home: Path, python: Path, jobs: int) -> list[Measured]:
    """On a PostgreSQL of its own: the same program and settings as ours."""
    found = []
    for setting in PROCRASTINATE:
        async with folder(home) as place, AsyncExitStack() as closing:
            server = PostgresServer(place, wanted_port=0)
            await server.start()
            closing.push_async_callback(server.stop)
            env = {
                "PATH": environment.PATH, "PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": ADMIN,
                "PGDATABASE": DATABASE, "PGPASSWORD": server.password,
            }  # fmt: skip
            program = (str(python), str(HERE / "procrastinate_app.py"))
            await output([*program, "prepare"], env, SPARE)
            connection = await asyncpg.connect(server.dsn, password=server.password)
            closing.push_async_callback(connection.close)

            async def ends(connection: Any = connection) -> list[float]:
                rows = await connection.fetch(
                    "SELECT extract(epoch FROM e.at)::float8 AS at FROM procrastinate_jobs j"
                    " JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'succeeded'"
                    " WHERE j.status = 'succeeded'"
                )
                return [row["at"] for row in rows]

            peer = Peer([*program, "submit"], [*program, "work", str(setting.each)], env, ends, server.child, place)
            found.append(await measure(peer, setting, jobs))
    return found


async def celery(home: Path, python: Path, server: environment.Redis, jobs: int) -> list[Measured]:
    """On a Redis of its own, with results stored there too; one worker with a process a core, as it does by itself."""
    found = []
    for setting in CELERY:
        async with folder(home) as place, environment.running(server, place, setting.redis) as (url, child):
            env = {"PATH": environment.PATH, "BENCH_REDIS_URL": url, "BENCH_CELERY_SAFE": "1" if setting.safe else ""}
            program = (str(python), str(HERE / "celery_app.py"))

            async def ends(program: tuple[str, str] = program, env: dict[str, str] = env) -> list[float]:
                told: list[float] = json.loads(await output([*program, "results"], env, SPARE))["ends"]
                return told

            work = (
                str(python),
                "-m",
                "celery",
                "-A",
                "celery_app",
                "worker",
                "-l",
                "warning",
                "-c",
                str(machine.cores()),
            )
            peer = Peer([*program, "submit"], work, env, ends, child, place)
            found.append(await measure(peer, setting, jobs))
    return found


async def run(parent: Path | None, jobs: int, ours: float | None, say: Callable[[str], None]) -> Result:
    """Measure the peers; `ours` is our sustained rate of the same run, for the ratio."""
    result = Result("peers", "Two well-known job systems on the same machine, no-op jobs", {"jobs": jobs})
    try:
        python = await asyncio.to_thread(environment.python)
    except environment.Absent as error:
        result.problem = str(error)
        return result
    found: list[Measured] = []
    missing: list[str] = []
    async with folder(parent) as home:
        say("procrastinate")
        found += await procrastinate(home, python, jobs)
        try:
            server = environment.redis()
        except environment.Absent as error:
            missing.append(f"Celery: not measured: {error}. Debian and Ubuntu: `apt install redis-server`.")
        else:
            say(f"Celery on {server.version}")
            result.settings = {**result.settings, "Celery's server": server.version}
            found += await celery(home, python, server, jobs)
    result.tables += [Table(COLUMNS, [each.row for each in found], "Rates"), GUARANTEES]
    if ours is not None:
        rows = [(each.setting.peer, each.setting.how, each.setting.durable, each.sustained / ours) for each in found]
        result.tables.insert(
            1, Table(("system", "workers", "durability", "its no-op jobs for each whole job of ours"), rows, "Ratio")
        )
    for each in found:
        result.numbers[f"{each.setting.peer}, {each.setting.how}, {each.setting.durable}: jobs/s"] = each.sustained
    result.remarks += [
        *missing,
        LIKE_WITH_LIKE,
        f"Audit: each of the {jobs:,} jobs of every row was read back as succeeded.",
    ]
    return result
