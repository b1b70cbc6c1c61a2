"""The WebSocket: the same messages, several subscriptions over one connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from anime_common.contracts.vocabulary import JobState
from tests.gateway.conftest import PATIENCE, Door, OpenDoor
from tests.gateway.ledger import Ledger
from tests.waiting import eventually

Told = dict[str, Any]


class Socket:
    """A client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, message: object) -> None:
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def next(self) -> Told:
        async with asyncio.timeout(PATIENCE):
            found: Told = json.loads(await self.connection.recv())
            return found

    async def until(self, found: Callable[[Told], bool]) -> list[Told]:
        told = [await self.next()]
        while not found(told[-1]):
            told.append(await self.next())
        return told


@asynccontextmanager
async def talk(door: Door, **options: Any) -> AsyncIterator[Socket]:
    async with connect(f"ws://127.0.0.1:{door.port}/api/anime/ws", proxy=None, **options) as connection:
        yield Socket(connection)


def is_named(event: str) -> Callable[[Told], bool]:
    return lambda told: told["event"] == event


async def test_a_job_is_followed_to_its_end(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    async with talk(door) as socket:
        await socket.say({"action": "subscribe", "job_id": job.code})
        assert await socket.next() == {"event": "subscribed", "data": {"job_id": str(job.id)}}
        snapshot = await socket.next()
        assert (snapshot["event"], snapshot["data"]["jobs"][0]["id"]) == ("snapshot", str(job.id))
        await ledger.tell(job, 30)
        progress = await socket.next()
        assert (progress["event"], progress["data"]["percent"]) == ("progress", 30)
        assert "id" not in progress
        await ledger.move(job.id, JobState.COMPLETED)
        told = await socket.until(is_named("end"))
    assert [each["event"] for each in told] == ["job", "end"]
    assert told[0]["data"]["job"]["progress"]["percent"] == 100
    assert told[0]["id"]


async def test_everything_is_followed_and_resumed(door: Door, ledger: Ledger) -> None:
    async with talk(door) as socket:
        await socket.say({"action": "subscribe"})
        snapshot = (await socket.until(is_named("snapshot")))[-1]
    jobs = [await ledger.add() for _ in range(3)]
    async with talk(door) as socket:
        await socket.say({"action": "subscribe", "last_event_id": snapshot["id"]})
        told = await socket.until(lambda each: each["event"] == "job" and each["data"]["job"]["id"] == str(jobs[2].id))
    assert [each["data"]["job"]["id"] for each in told if each["event"] == "job"] == [str(job.id) for job in jobs]


async def test_only_what_was_asked_for_comes(door: Door, ledger: Ledger) -> None:
    one, other = await ledger.run(), await ledger.run()
    async with talk(door) as socket:
        await socket.say({"action": "subscribe", "job_id": str(one.id)})
        await socket.until(is_named("snapshot"))
        await ledger.move(other.id, JobState.FAILED)
        await socket.say({"action": "unsubscribe", "job_id": str(one.id)})
        assert (await socket.next())["event"] == "unsubscribed"
        await ledger.move(one.id, JobState.FAILED)
        await socket.say({"action": "ping"})
        assert (await socket.next())["event"] == "pong"
    await eventually(lambda: len(door.gateway.hub) == 0)


@pytest.mark.parametrize(
    ("said", "code", "field"),
    [
        ("nonsense", "invalid", None),
        ("[]", "invalid", None),
        (b"\xff\xfe", "invalid", None),
        ({"action": "dance"}, "invalid", None),
        ({"job_id": "abcd2345"}, "invalid", None),
        ({"action": "subscribe", "job": "abcd2345"}, "invalid", "job"),
        ({"action": "subscribe", "job_id": 7}, "invalid", "job_id"),
        ({"action": "subscribe", "job_id": "zzzzzzzz"}, "not_found", "job"),
        ({"action": "unsubscribe"}, "not_subscribed", "job_id"),
    ],
)
async def test_mistakes_are_answered_and_the_connection_goes_on(
    door: Door, said: object, code: str, field: str | None
) -> None:
    async with talk(door) as socket:
        await socket.say(said)
        told = await socket.next()
        assert told["event"] == "error"
        assert (told["data"]["code"], told["data"]["field"]) == (code, field)
        assert told["data"]["detail"]
        await socket.say({"action": "ping"})
        assert (await socket.next())["event"] == "pong"


async def test_the_same_events_are_not_sent_twice(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    async with talk(door) as socket:
        await socket.say({"action": "subscribe"})
        await socket.until(is_named("snapshot"))
        await socket.say({"action": "subscribe", "job_id": str(job.id)})
        assert (await socket.next())["data"]["code"] == "already_subscribed"


async def test_a_foreign_page_does_not_get_in(door: Door) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        uri = f"ws://127.0.0.1:{door.port}/api/anime/ws"
        with pytest.raises(InvalidStatus) as found:
            async with connect(uri, proxy=None, additional_headers=headers):
                pass
        assert found.value.response.status_code in {403, 421}
    async with talk(door, origin=f"http://127.0.0.1:{door.port}") as socket:
        await socket.say({"action": "ping"})
        assert (await socket.next())["event"] == "pong"


async def test_too_large_a_message_ends_the_connection(door: Door) -> None:
    async with talk(door) as socket:
        await socket.say("x" * 100_000)
        with pytest.raises(ConnectionClosed):
            await socket.next()


async def test_a_stopping_gateway_says_that_it_restarts(open_door: OpenDoor, ledger: Ledger) -> None:
    door = await open_door()
    async with talk(door) as socket:
        await socket.say({"action": "subscribe"})
        await socket.until(is_named("snapshot"))
        door.runtime.stop.set()
        with pytest.raises(ConnectionClosed) as found:
            await socket.next()
    assert found.value.rcvd is not None
    assert found.value.rcvd.code == 1012
