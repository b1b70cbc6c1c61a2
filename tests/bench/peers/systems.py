"""The peers, set up: procrastinate on a PostgreSQL and Celery on a Redis of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from anime_cli.postgres import ADMIN, DATABASE, PostgresServer
from anime_cli.process import Child
from tests.bench import machine
from tests.bench.peers import environment

HERE = Path(__file__).resolve().parent
PATIENCE = 60.0
"""Seconds that a program may take besides its jobs."""

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")

_SUCCEEDED = (
    "SELECT extract(epoch FROM e.at)::float8 AS at FROM procrastinate_jobs j"
    " JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'succeeded' WHERE j.status = 'succeeded'"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a peer: `workers` programs, each doing `each` jobs at a time; `safe` and `redis`: of Celery."""

    peer: str
    how: str
    durability: str
    workers: int = 1
    each: int = 1
    safe: bool = False
    redis: tuple[str, ...] = ()


PROCRASTINATE = (
    Setting("procrastinate", "1 worker, concurrency 1", "fsync on"),
    Setting("procrastinate", "1 worker, concurrency 10", "fsync on", each=10),
    Setting("procrastinate", "2 workers, concurrency 10", "fsync on", workers=2, each=10),
)
CELERY = (
    Setting("Celery", "acks_late, prefetch 1", "appendfsync always", safe=True, redis=ALWAYS),
    Setting("Celery", "its defaults: early ack, prefetch 4", "Redis's default: snapshots alone"),
)


@dataclass(frozen=True, slots=True)
class Peer:
    """How one submits and works, and what it has done: about how many jobs, and when each ended well."""

    submit: Sequence[str]
    work: Sequence[str]
    env: Mapping[str, str]
    count: Callable[[], Awaitable[int]]
    ends: Callable[[], Awaitable[list[float]]]
    server: Child
    home: Path


@asynccontextmanager
async def procrastinate(python: Path, home: Path, setting: Setting) -> AsyncIterator[Peer]:
    """The same build of PostgreSQL as ours, with the same settings."""
    server = PostgresServer(home, wanted_port=0)
    await server.start()
    try:
        env = {
            "PATH": environment.PATH, "PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": ADMIN,
            "PGDATABASE": DATABASE, "PGPASSWORD": server.password,
        }  # fmt: skip
        program = (str(python), str(HERE / "procrastinate_app.py"))
        await output([*program, "prepare"], env, PATIENCE)
        connection = await asyncpg.connect(server.dsn, password=server.password)

        async def count() -> int:
            return int(await connection.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"))

        async def ends() -> list[float]:
            return [row["at"] for row in await connection.fetch(_SUCCEEDED)]

        yield Peer([*program, "submit"], [*program, "work", str(setting.each)], env, count, ends, server.child, home)
        await connection.close()
    finally:
        await server.stop()


@asynccontextmanager
async def celery(python: Path, server: environment.Redis, home: Path, setting: Setting) -> AsyncIterator[Peer]:
    """Broker and results in one server; a worker has a process a core, as it does by itself."""
    async with environment.running(server, home, setting.redis) as (port, child):
        env = {
            "PATH": environment.PATH, "BENCH_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "BENCH_CELERY_SAFE": "1" if setting.safe else "",
        }  # fmt: skip
        program = (str(python), str(HERE / "celery_app.py"))
        worker = (*(str(python), "-m", "celery", "-A", "celery_app", "worker"), "-c", str(machine.cores()))

        async def count() -> int:
            return await environment.keys(port)

        async def ends() -> list[float]:
            told: list[float] = json.loads(await output([*program, "results"], env, PATIENCE))["ends"]
            return told

        yield Peer([*program, "submit"], [*worker, "-l", "warning"], env, count, ends, child, home)


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
