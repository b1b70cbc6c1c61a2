"""A generator on a real NATS server and a real folder, with a ledger's side of the bus to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import failpoints, provision
from anime_common.artifacts import Artifacts
from anime_common.bus import Bus, Received
from anime_common.contracts.generator import (
    Action,
    AttemptFact,
    Control,
    Heartbeat,
    HeldAttempt,
    JobProgress,
    Offer,
    OfferedJob,
)
from anime_common.messages import Outgoing
from anime_common.service import Runtime
from anime_common.topology import FACTS, GENERATOR, worker_consumer
from anime_generator.__main__ import build
from anime_generator.settings import GeneratorSettings
from tests.buses import running, stored
from tests.generator.builders import offer_to, write_registry
from tests.generator.conformance import HOLDERS, Subject, opened
from tests.waiting import eventually

WORKER = "tower"


@dataclass
class Ledger:
    """The other side: hears heartbeats, progress and previews, makes offers; reads facts as the administrator."""

    bus: Bus
    admin: Bus
    beats: list[Heartbeat] = field(default_factory=list)
    progress: list[JobProgress] = field(default_factory=list)
    previews: list[Received] = field(default_factory=list)
    orders: list[Control] = field(default_factory=list)

    @property
    def last(self) -> Heartbeat:
        return self.beats[-1]

    def held(self) -> dict[UUID, HeldAttempt]:
        return {each.attempt_id: each for each in self.last.attempts} if self.beats else {}

    def of(self, job: OfferedJob) -> list[JobProgress]:
        return [each for each in self.progress if each.attempt_id == job.attempt_id]

    async def hear(self, received: Received) -> None:
        if received.subject.startswith("anime.tel.generator."):
            self.beats.append(Heartbeat.parse(received.data))
        elif received.subject.startswith("anime.tel.job."):
            self.progress.append(JobProgress.parse(received.data))
        elif received.subject.startswith("anime.ctl."):
            self.orders.append(Control.parse(received.data))
        else:
            self.previews.append(received)

    async def offer(self, *jobs: OfferedJob, **changes: Any) -> Offer:
        made = offer_to(*jobs, incarnation=self.last.incarnation, worker=WORKER).model_copy(update=changes)
        await self.send(made)
        return made

    async def send(self, offer: Offer) -> None:
        await self.bus.publish(Outgoing(offer, f"{offer.epoch}:jobs:offer:{offer.offer_id}:{offer.repeat}"))

    async def order(self, action: Action) -> None:
        await self.bus.tell(Control(worker=WORKER, order=action))

    async def facts(self, job: OfferedJob | None = None) -> list[AttemptFact]:
        found = []
        for _, fact in await stored(self.admin, FACTS):
            assert isinstance(fact, AttemptFact)
            if job is None or fact.attempt_id == job.attempt_id:
                found.append(fact)
        return found

    async def kinds(self, job: OfferedJob) -> list[str]:
        return [fact.wire.removeprefix("generator.") for fact in await self.facts(job)]

    async def sees(self, job: OfferedJob, *kinds: str, within: float = 30.0) -> None:
        """Wait until these are the facts about a job's attempt."""

        async def there() -> bool:
            return await self.kinds(job) == list(kinds)

        await eventually(there, within=within)


@pytest.fixture
async def ledger(ledger: Bus, admin: Bus) -> Ledger:
    await provision.ensure_consumer(ledger, worker_consumer(WORKER))
    found = Ledger(ledger, admin)
    # The ledger's own user hears heartbeats alone.
    await admin.listen("anime.tel.>", found.hear)
    await admin.listen("anime.ctl.>", found.hear)
    return found


@asynccontextmanager
async def working(
    nats: NatsServer, ledger: Ledger, folder: Path, *, wait: bool = True, **changes: Any
) -> AsyncIterator[Runtime[Any]]:
    """A generator with the no-op engine, up until the block ends; then it must have stopped in order.

    The block begins once it has announced a model, unless it is not to be waited for.
    """
    known: dict[str, Any] = {
        "nats_url": nats.url,
        "nats_password_file": nats.password_file("generator"),
        "artifacts_url": (folder / "artifacts").as_uri(),
        "worker": WORKER,
        "device": "cpu",
        "models": write_registry(folder, NOOP),
        "heartbeat": 0.2,
        "heartbeat_gap": 0.01,
        "generator_engine_delay": 0.01,
        "watchdog_floor": 1.0,
        "stop_grace": 5.0,
    } | changes
    before = len(ledger.beats)
    async with running(GENERATOR, GeneratorSettings(**known), build) as runtime:
        await eventually(lambda: not wait or (len(ledger.beats) > before and bool(ledger.last.models)), within=30)
        yield runtime


NOOP = """
[models.noop]
engine = "noop"
batch_limit = 4
[models.noop.defaults]
width = 64
height = 64
steps = 4
sampler = "dpm++ 2m"
[models.noop.sizes]
maximum = 512
"""


@pytest.fixture
async def generator(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> AsyncIterator[Runtime[Any]]:
    async with working(nats, ledger, tmp_path) as runtime:
        yield runtime


@pytest.fixture
def artifacts(generator: Runtime[Any]) -> Artifacts:
    return Artifacts(generator.settings.artifacts_url)


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    yield failpoints.configure
    failpoints.configure("")


SLOW = ("diffusers", "auto", "comfyui")


def _engines(*names: str) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.fixture(scope="module", params=_engines("noop", *SLOW))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with opened(request.param, tmp_path_factory.mktemp("model")) as found:
        yield found


@pytest.fixture(scope="module", params=_engines(*HOLDERS))
def holder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with opened(request.param, tmp_path_factory.mktemp("model")) as found:
        yield found
