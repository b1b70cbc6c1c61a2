"""A product to be measured: as people get it, but for an engine that draws nothing; and a client that submits to it."""

from __future__ import annotations

import asyncio
import resource
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from anime_common.bus import Bus, Received
from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import SubmitJob
from anime_common.contracts.vocabulary import Priority
from anime_common.messages import Outgoing, uuid7
from anime_common.topology import TOWER
from tests.bench.tables import Cell
from tests.faults.breaking import child_of, children_of
from tests.stacks import NOOP_MODELS, Product, product

BATCH_LIMIT = 16
MODELS = NOOP_MODELS.replace("step_ms = 10", "step_ms = 0").replace("batch_limit = 4", f"batch_limit = {BATCH_LIMIT}")
ENV = {"gateway": {"ANIME_GATEWAY_RATE": "100000", "ANIME_GATEWAY_BURST": "100000"}}
"""What the services are told besides: one address opens thousands of connections at once. Nothing about durability."""

DURABILITY: dict[str, Cell] = {
    "PostgreSQL": "fsync on, synchronous_commit on",
    "NATS": "sync_interval always",
    "files": "fsync of file and folders",
}


@asynccontextmanager
async def folder(parent: Path | None) -> AsyncIterator[Path]:
    """A folder for servers and files that is gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="anime-bench-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@asynccontextmanager
async def measured(parent: Path | None) -> AsyncIterator[Product]:
    """A product of its own, with nothing in it."""
    allow_open_files()
    async with folder(parent) as home:
        models = home / "models.toml"
        models.write_text(MODELS)
        async with product(home, {**ENV, "generator": {"ANIME_MODELS": str(models)}}) as found:
            yield found


def allow_open_files() -> int:
    """Raise our limit of open files, and that of all we start, as far as we may; returns it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def pids(found: Product) -> dict[str, int]:
    """All processes of a product, the engine's beside its service's."""
    engines = children_of(child_of(found, "generator").pid or 0)
    return {**found.stack.pids, **dict(zip(("engine",), engines, strict=False))}


@dataclass(slots=True)
class Submitter:
    """Submits over the bus as another service of the server does; hears the answers."""

    bus: Bus
    sent: dict[UUID, float] = field(default_factory=dict)
    accepted: set[UUID] = field(default_factory=set)
    answered_at: float = 0.0
    _waiting: dict[str, tuple[UUID, asyncio.Future[None]]] = field(default_factory=dict)

    async def submit(self, prompt: str = "noop:", within: float = 60.0) -> UUID:
        """Submit one job and wait for the ledger's answer; raises AssertionError when it is refused."""
        job, command = uuid7(), str(uuid7())
        request = GenerationRequest(prompt=prompt, priority=Priority.NORMAL)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[command] = (job, answered)
        self.sent[job] = time.time()
        message = SubmitJob(job_id=job, request=request)
        await self.bus.publish(Outgoing(message, command, (("client", TOWER.name),)), timeout=within)
        async with asyncio.timeout(within):
            await answered
        return job

    async def hear(self, received: Received) -> None:
        """Take an answer to a command; its subject names all that is to be known."""
        *_, kind, command = received.subject.split(".")
        job, answered = self._waiting.pop(command, (None, None))
        if job is None or answered is None or answered.done():
            return
        self.answered_at = time.time()
        if kind == "command_done":
            self.accepted.add(job)
            answered.set_result(None)
        else:
            answered.set_exception(AssertionError(f"job {job} was refused: {received.data.decode()}"))


@asynccontextmanager
async def submitter(found: Product) -> AsyncIterator[Submitter]:
    """A client on the bus, for one block."""
    async with found.bus(TOWER) as bus:
        client = Submitter(bus)
        stops = [
            await bus.listen(f"anime.evt.jobs.{kind}.*", client.hear) for kind in ("command_done", "command_refused")
        ]
        yield client
        for stop in stops:
            await stop()


async def until_ended(found: Product, count: int, within: float) -> None:
    """Wait until so many jobs have ended; asks on one connection, since a new one costs as much as some jobs."""
    postgres = found.stack.parts.postgres
    assert postgres is not None
    connection = await asyncpg.connect(postgres.dsn, password=postgres.password)
    try:
        async with asyncio.timeout(within):
            while await connection.fetchval("SELECT count(*) FROM ledger.jobs WHERE ended_at IS NOT NULL") < count:
                await asyncio.sleep(0.25)
    finally:
        await connection.close()


async def audited(found: Product, accepted: set[UUID], within: float = 60.0) -> str:
    """Judge the run as the fault tests do; all that was accepted must be completed, with one file each.

    Returns what was seen, in words; raises AssertionError when anything does not add up.
    """
    report = await found.audit(accepted={str(job) for job in accepted}, dead=0, within=within)
    assert report.completed == report.accepted == report.files, f"not every job was completed with one file:\n{report}"
    return (
        f"Audit: {report.completed:,} jobs completed and filed, {report.files:,} files with the right hash,"
        f" {report.events:,} events in order, no dead letters, nothing left over."
    )
