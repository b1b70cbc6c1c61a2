"""A cancellation is heeded, whatever happens in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from anime_cli.nats_server import NatsServer
from anime_common.bus import Bus
from anime_common.clock import heeding
from anime_common.topology import ADMIN
from tests.buses import Connect
from tests.waiting import eventually

Answer = asyncio.Future[str]


def cancelled_with(settle: Callable[[Answer], None]) -> asyncio.Task[str]:
    """A task that waits as nats-py does; its answer and its cancellation come in the same turn of the loop."""
    loop = asyncio.get_running_loop()
    answer: Answer = loop.create_future()
    task = asyncio.create_task(heeding(asyncio.wait_for(answer, 5)))

    def both() -> None:
        settle(answer)
        task.cancel()

    loop.call_soon(both)
    return task


class TestHeeding:
    async def test_hands_the_answer_on(self) -> None:
        async def answer() -> str:
            return "yes"

        assert await heeding(answer()) == "yes"

    async def test_a_cancellation_beside_the_answer_is_not_lost(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await cancelled_with(lambda answer: answer.set_result("yes"))

    async def test_nor_one_beside_an_error(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await cancelled_with(lambda answer: answer.set_exception(OSError("gone")))

    async def test_a_task_that_tidies_up_after_its_cancellation_may_still_ask(self) -> None:
        tidied = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                tidied.append(await heeding(asyncio.sleep(0, "tidy")))

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tidied == ["tidy"]

    async def test_a_timeout_around_it_is_a_timeout(self) -> None:
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()

        async def bounded() -> str:
            async with asyncio.timeout(None) as limit:
                loop.call_soon(answer.set_result, "late")
                loop.call_soon(limit.reschedule, loop.time())
                return await heeding(asyncio.wait_for(answer, 5))

        with pytest.raises(TimeoutError):
            await bounded()


async def test_the_bus_ends_when_cancelled_in_the_moment_of_an_answer(nats: NatsServer, connect: Connect) -> None:
    bus: Bus = await connect(nats, ADMIN)
    asked = 0

    async def ask_for_ever() -> None:
        nonlocal asked
        while True:
            await bus.api("INFO")
            asked += 1

    task = asyncio.create_task(ask_for_ever())

    async def waits_for_an_answer() -> bool:
        return asked > 0 and bool(bus.client._resp_map)

    await eventually(waits_for_an_answer)
    (pending,) = bus.client._resp_map.values()
    pending.add_done_callback(lambda _: task.cancel())
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done, "it went on asking"
    assert task.cancelled()
