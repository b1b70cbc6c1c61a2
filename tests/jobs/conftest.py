"""The ledger service on real servers, and a worker, files and Echo that a test plays by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_common import rpc, topology
from anime_common.bus import ApiError, Bus, Received
from anime_common.contracts.generator import AttemptFact, Control, Heartbeat, HeldAttempt, Offer, OfferedJob
from anime_common.contracts.jobs import GET_JOB, CommandDone, CommandRefused, JobQuestion, JobView, SubmitJob
from anime_common.messages import Message, Outgoing, decode, read_envelope, uuid7
from anime_common.outcomes import Unavailable
from anime_common.pull import Pull
from anime_common.service import Runtime
from anime_jobs.__main__ import build
from anime_jobs.settings import JobsSettings
from tests.builders import heartbeat, request
from tests.buses import Connect, connected, running
from tests.conftest import Database
from tests.waiting import eventually

QUICK: dict[str, Any] = {
    "worker_lost_after": 15.0,
    "offer_repeat": 0.4,
    "offer_repeats": 2,
    "offer_rest": 0.2,
    "retry_base": 0.2,
    "prepare_nudge": 0.3,
    "prepare_bound": 0.8,
    "filing_nudge": 0.4,
    "tick": 0.1,
    "leader_idle_timeout": 3.0,
}


@dataclass(slots=True)
class World:
    """The ledger as a test sees it: the bus as an outsider and as each service, and the database."""

    nats: NatsServer
    database: Database
    tower: Bus
    generator: Bus
    files: Bus
    echo: Bus
    events: list[Message] = field(default_factory=list)
    orders: list[Control] = field(default_factory=list)

    def jobs_settings(self, **changes: Any) -> JobsSettings:
        return JobsSettings(
            **(QUICK | changes),
            nats_url=self.nats.url,
            nats_password_file=self.nats.password_file("jobs"),
            postgres_dsn=self.database.dsn("jobs"),
        )

    async def hear(self, received: Received) -> None:
        self.events.append(decode(read_envelope("anime.evt." + received.subject[11:], received.headers), received.data))

    async def obey(self, received: Received) -> None:
        self.orders.append(Control.parse(received.data))

    async def submit(self, job_id: UUID | None = None, **fields: Any) -> UUID:
        """Submit as another service of the server; returns the job's id."""
        job_id = job_id or uuid7()
        await self.command(SubmitJob(job_id=job_id, request=request(**fields)))
        return job_id

    async def command(self, message: Message) -> CommandDone | CommandRefused:
        """Send a command and wait for its one answer."""
        command_id = str(uuid7())
        await self.tower.publish(Outgoing(message, command_id, (("client", "tower"),)))
        return await self.answer(command_id)

    async def answer(self, command_id: str) -> CommandDone | CommandRefused:
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, CommandDone | CommandRefused) and event.command_id == command_id:
                        return event
                await asyncio.sleep(0.005)

    async def event(self, wire: str, job_id: UUID, *, number: int = 1) -> Any:
        """The `number`th event of a kind about a job."""
        async with asyncio.timeout(10):
            while True:
                found = [each for each in self.events if each.wire == f"jobs.{wire}" and _about(each) == job_id]
                if len(found) >= number:
                    return found[number - 1]
                await asyncio.sleep(0.005)

    async def job(self, job_id: UUID) -> JobView:
        async with connected(self.nats, topology.GATEWAY) as gateway:
            return await rpc.call(gateway, GET_JOB, JobQuestion(job=str(job_id)))

    async def fact(self, cls: type[AttemptFact], worker: Worker, offered: OfferedJob, **fields: Any) -> None:
        """Report as a worker."""
        fact = cls.model_validate(
            {
                "job_id": offered.job_id,
                "attempt_id": offered.attempt_id,
                "epoch": 1,
                "worker": worker.name,
                "incarnation": worker.incarnation,
            }
            | fields
        )
        ident = f"1:generator:{cls.wire}:{offered.job_id}:{offered.attempt_id}"
        await self.generator.publish(Outgoing(fact, ident))


def _about(event: Message) -> UUID | None:
    job = getattr(event, "job", None)
    return job.id if job is not None else None


@dataclass(slots=True)
class Worker:
    """A worker played by hand."""

    world: World
    name: str = "w1"
    incarnation: UUID = field(default_factory=uuid7)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    fields: dict[str, Any] = field(default_factory=dict)
    _pull: Pull | None = None

    async def beat(self, *attempts: HeldAttempt, **fields: Any) -> Heartbeat:
        found = heartbeat(
            worker=self.name,
            incarnation=self.incarnation,
            started_at=self.started_at,
            sent_at=datetime.now(UTC),
            attempts=attempts,
            **(self.fields | fields),
        )
        await self.world.generator.tell(found)
        return found

    async def offer(self, *, within: float = 10.0) -> Offer:
        """The next offer; acked on receipt. Beats until it comes, as an idle worker does."""
        if self._pull is None:
            consumer = topology.worker_consumer(self.name)
            self._pull = await self.world.generator.pull(consumer.stream, consumer.name)
        async with asyncio.timeout(within):
            while True:
                await self.beat()
                try:
                    pulled = await self._pull.fetch(1, 0.2)
                except Exception:  # noqa: BLE001 - the consumer may not be there yet
                    await asyncio.sleep(0.02)
                    continue
                for message in pulled:
                    await self.world.generator.ack(message)
                    found = decode(read_envelope(message.subject, message.headers), message.data)
                    assert isinstance(found, Offer)
                    if found.incarnation == self.incarnation:
                        return found


@pytest_asyncio.fixture
async def world(nats: NatsServer, database: Database, connect: Connect) -> World:
    """The bus and the database without the ledger running."""
    found = World(
        nats,
        database,
        tower=await connect(nats, topology.TOWER),
        generator=await connect(nats, topology.GENERATOR),
        files=await connect(nats, topology.FILES),
        echo=await connect(nats, topology.ECHO),
    )
    await found.tower.listen("anime.live.jobs.>", found.hear)
    await found.generator.listen("anime.ctl.generator.*", found.obey)
    return found


@dataclass(slots=True)
class Service:
    """A running instance of the ledger."""

    runtime: Runtime[JobsSettings]

    async def ready(self) -> bool:
        try:
            return not any([await check() for check in self.runtime.checks.values()])
        except (ApiError, Unavailable):
            return False


@asynccontextmanager
async def ledger_running(world: World, **changes: Any) -> AsyncIterator[Service]:
    """An instance in this process, until the block ends."""
    async with running(topology.JOBS, world.jobs_settings(**changes), build) as runtime:
        service = Service(runtime)
        await eventually(service.ready)
        yield service


@pytest_asyncio.fixture
async def ledger(world: World) -> AsyncIterator[Service]:
    """The ledger running on the test's servers."""
    async with ledger_running(world) as service:
        yield service
