"""Workers that stay away: their consumers go, and come back with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from anime_common import rpc
from anime_common.bus import ApiError, Bus
from anime_common.contracts.jobs import GET_WORKERS
from anime_common.messages import uuid7
from anime_common.provision import CONSUMER_NOT_FOUND
from anime_common.rpc_contract import Empty
from anime_common.topology import GATEWAY, worker_consumer
from anime_jobs.fleet import Fleet
from anime_jobs.settings import JobsSettings
from tests.builders import NOON, heartbeat
from tests.buses import connected
from tests.jobs.conftest import Worker, World, ledger_running
from tests.waiting import eventually

SOON = {"worker_lost_after": 0.6, "worker_forget_after": 1.2}


async def has_consumer(admin: Bus, worker: str) -> bool:
    consumer = worker_consumer(worker)
    try:
        await admin.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise
        return False
    return True


async def lacks_consumer(admin: Bus, worker: str) -> bool:
    return not await has_consumer(admin, worker)


async def roster(world: World) -> dict[str, str]:
    async with connected(world.nats, GATEWAY) as gateway:
        return {each.worker: each.status for each in (await rpc.call(gateway, GET_WORKERS, Empty())).items}


@pytest.fixture
async def steady(world: World) -> Any:
    """A worker that goes on beating."""
    worker = Worker(world, name="steady")

    async def beat() -> None:
        while True:
            await worker.beat()
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    yield worker
    beating.cancel()
    await asyncio.wait({beating})


@pytest.mark.parametrize("goodbye", [True, False], ids=["said goodbye", "fell silent"])
async def test_the_consumer_of_a_worker_that_stays_away_goes_and_comes_back_with_it(
    world: World, admin: Bus, steady: Worker, goodbye: bool
) -> None:
    async with ledger_running(world, **SOON):
        worker = Worker(world)
        await worker.beat()
        await eventually(lambda: has_consumer(admin, "w1"))
        if goodbye:
            await worker.beat(goodbye=True)
        await eventually(lambda: lacks_consumer(admin, "w1"), within=20)

        async def forgotten() -> bool:
            return "w1" not in await roster(world)

        await eventually(forgotten)
        assert "steady" in await roster(world)
        assert await has_consumer(admin, "steady")
        # The one that beats is full: what is submitted now is for the one that comes back.
        steady.fields = {"slots": 0, "free_slots": 0, "models": ()}
        back = Worker(world, incarnation=uuid7())
        job_id = await world.submit()
        offer = await back.offer()
        assert [each.job_id for each in offer.jobs] == [job_id]
        assert (await roster(world))["w1"] in {"idle", "busy"}


async def test_a_lost_incarnation_that_beats_on_makes_no_consumer(world: World, admin: Bus) -> None:
    async with ledger_running(world, **SOON):
        worker = Worker(world)
        await worker.beat()
        await eventually(lambda: has_consumer(admin, "w1"))
        await eventually(lambda: lacks_consumer(admin, "w1"), within=20)
        await worker.beat()
        await eventually(lambda: any(order.order.action == "renew" for order in world.orders))
        assert not await has_consumer(admin, "w1")


def test_who_is_heard_again_is_not_forgotten() -> None:
    fleet = Fleet()
    fleet.hear(heartbeat(worker="old", goodbye=True), 1.0, NOON)
    fleet.hear(heartbeat(worker="new"), 5.0, NOON)
    fleet.forget_before(1.0)
    assert set(fleet.seen) == {"old", "new"}
    fleet.forget_before(2.0)
    assert (set(fleet.seen), fleet.news, fleet.goodbyes) == ({"new"}, {"new"}, set())


def test_no_worker_is_forgotten_before_it_is_lost() -> None:
    with pytest.raises(ValidationError, match="worker_forget_after must not be less than worker_lost_after"):
        JobsSettings(worker_lost_after=20, worker_forget_after=10)
