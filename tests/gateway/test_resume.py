"""Nothing is missed and nothing comes twice: resume, gaps, restarts of the broker, streams that are replaced."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import provision, topology
from anime_common.bus import Received
from anime_common.contracts.files import Filed
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Outgoing
from anime_common.topology import ADMIN, FACTS, LEDGER
from anime_gateway.cursor import Cursor, Mark
from anime_gateway.feed import Feed
from tests import builders
from tests.gateway.conftest import Connect, Door, Event, OpenDoor
from tests.gateway.ledger import Ledger
from tests.waiting import eventually


def versions(events: list[Event]) -> list[int]:
    return [event.data["job"]["version"] for event in events if event.event == "job"]


def until_version(version: int) -> Callable[[Event], bool]:
    return lambda event: event.event == "job" and event.data["job"]["version"] == version


async def latest_id(door: Door) -> str:
    """The id of a fresh snapshot."""
    async with door.events() as stream:
        event = await stream.next()
    assert event is not None
    assert event.id is not None
    return event.id


async def test_who_returns_gets_what_was_missed_exactly_once(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    last_id: str | None = await latest_id(door)
    seen: list[int] = []
    for _ in range(6):
        for _ in range(3):
            job = await ledger.update(job.id, message="something")
        async with door.events(last_id=last_id) as stream:
            job = await ledger.update(job.id, message="while connected")
            events = await stream.until(until_version(job.version))
        seen += versions(events)
        last_id = next(event.id for event in reversed(events) if event.id)
    assert seen == list(range(2, job.version + 1))


async def test_both_streams_are_resumed(door: Door, ledger: Ledger, connect: Connect) -> None:
    files, job = await connect(topology.FILES), await ledger.run()
    assert job.attempt_id is not None
    last_id = await latest_id(door)
    for number in range(3):
        filed = Filed(job_id=job.id, attempt_id=job.attempt_id, repeat=number, epoch=1, outputs=())
        await files.publish(Outgoing(filed, f"filed {number}"))
    job = await ledger.update(job.id, message="changed")
    async with door.events(last_id=last_id) as stream:
        events = await stream.until(until_version(job.version))
    assert [event.event for event in events] == ["file", "file", "file", "job"]
    async with door.events(last_id=events[1].id) as stream:
        events = await stream.until(until_version(job.version))
    assert [event.event for event in events] == ["file", "job"]


async def test_more_than_a_page_is_resumed_in_order(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    last_id = await latest_id(door)
    changes = [ledger.jobs[job.id].model_copy(update={"version": version}) for version in range(2, 602)]
    for start in range(0, len(changes), 100):
        for change in changes[start : start + 100]:
            ledger.jobs[job.id] = change
            await ledger.publish(ledger.event(change))
    async with door.events(last_id=last_id) as stream:
        events = await stream.until(until_version(601))
    assert versions(events) == list(range(2, 602))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda cursor: "what is this", "unknown"),
        (lambda cursor: str(Cursor(Mark("00000000", 1), cursor.facts)), "other_stream"),
        (lambda cursor: str(Cursor(cursor.ledger, Mark("ffffffff", 1))), "other_stream"),
        (lambda cursor: str(Cursor(Mark(cursor.ledger.stream, 10**6), cursor.facts)), "future"),
    ],
)
async def test_an_id_that_leads_nowhere_is_reset(
    door: Door, ledger: Ledger, broken: Callable[[Cursor], str], reason: str
) -> None:
    job = await ledger.run()
    cursor = Cursor.parse(await latest_id(door))
    assert cursor is not None
    for path in ("/events", f"/jobs/{job.id}/events"):
        async with door.events(path, broken(cursor)) as stream:
            reset, snapshot = await stream.next(), await stream.next()
        assert reset is not None
        assert snapshot is not None
        assert (reset.event, reset.data["reason"]) == ("reset", reason)
        assert reset.data["detail"]
        assert [each["id"] for each in snapshot.data["jobs"]] == [str(job.id)]


async def test_events_that_have_expired_are_a_reset(door: Door, ledger: Ledger, connect: Connect) -> None:
    admin = await connect(ADMIN)
    job = await ledger.add()
    last_id = await latest_id(door)
    for _ in range(5):
        job = await ledger.update(job.id)
    await admin.api(f"STREAM.PURGE.{LEDGER}", {"keep": 2})
    async with door.events(last_id=last_id) as stream:
        events = await stream.until(lambda event: event.event == "snapshot")
        assert [event.data.get("reason") for event in events] == ["too_old", None]
        job = await ledger.update(job.id)
        assert versions(await stream.until(until_version(job.version))) == [job.version]


async def test_too_much_missed_is_a_reset(open_door: OpenDoor, ledger: Ledger) -> None:
    door = await open_door(gateway_replay=3)
    job = await ledger.add()
    last_id = await latest_id(door)
    for _ in range(4):
        await ledger.update(job.id)
    async with door.events(last_id=last_id) as stream:
        event = await stream.next()
    assert event is not None
    assert event.data["reason"] == "too_far"


class Lossy:
    """Loses live copies of chosen sequences of the ledger, as a slow consumer or a reconnect does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lost: Callable[[int], bool]) -> None:
        hear = Feed._on_live
        self.dropped = 0

        async def on_live(feed: Feed, received: Received) -> None:
            if received.headers["Nats-Stream"] == LEDGER and lost(int(received.headers["Nats-Sequence"])):
                self.dropped += 1
                return
            await hear(feed, received)

        monkeypatch.setattr(Feed, "_on_live", on_live)


async def test_lost_live_copies_are_read_from_the_stream(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, open_door: OpenDoor
) -> None:
    lossy = Lossy(monkeypatch, lambda sequence: sequence % 3 != 0)
    door = await open_door(gateway_tail_check=60.0)
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        job = await ledger.add()
        while (await ledger.bus.stream_state(LEDGER)).last % 3 or job.version < 30:
            job = await ledger.update(job.id)
        events = await stream.until(until_version(job.version))
    assert versions(events) == list(range(1, job.version + 1))
    assert lossy.dropped >= 18


async def test_a_lost_tail_is_noticed_without_further_events(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, open_door: OpenDoor
) -> None:
    Lossy(monkeypatch, lambda _: True)
    door = await open_door()
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        response = await door.client.post("/jobs", json={"prompt": "x"})
        assert response.status_code == 201, "the answer to the command was in the tail, too"
        events = await stream.until(lambda event: event.event == "job")
    assert events[-1].data["type"] == "accepted"


async def test_a_restarted_broker_costs_a_stream_nothing(door: Door, ledger: Ledger, nats: NatsServer) -> None:
    job = await ledger.add()
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        job = await ledger.update(job.id)
        await nats.stop()
        await nats.start()
        await eventually(lambda: ledger.bus.connected)
        for _ in range(3):
            job = await ledger.update(job.id)
        events = await stream.until(until_version(job.version))
    assert versions(events) == list(range(2, job.version + 1))
    assert "reset" not in {event.event for event in events}


@pytest.mark.parametrize("stream_name", [LEDGER, FACTS])
async def test_streams_that_are_replaced_reset_who_follows(
    door: Door, ledger: Ledger, connect: Connect, stream_name: str
) -> None:
    admin = await connect(ADMIN)
    job = await ledger.run()
    before = await latest_id(door)
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        await admin.api(f"STREAM.DELETE.{stream_name}")
        await provision.apply(ledger.bus)
        events = await stream.until(lambda event: event.event == "snapshot")
        reset = next(event for event in events if event.event == "reset")
        assert reset.data["reason"] == "streams_replaced"
        job = await ledger.update(job.id)
        events = await stream.until(until_version(job.version))
        assert versions(events) == [job.version]
    async with door.events(last_id=before) as stream:
        event = await stream.next()
    assert event is not None
    assert event.data["reason"] == "other_stream"


async def test_who_does_not_read_is_cut_off_and_nobody_else_notices(open_door: OpenDoor, ledger: Ledger) -> None:
    door = await open_door(gateway_stuck_after=2.0, gateway_stream_queue=64)
    job = await ledger.add(request=builders.request(prompt="x" * 3000))
    deaf = [await not_reading(door.port) for _ in range(200)]
    try:
        async with door.events() as stream:
            await stream.until(lambda event: event.event == "snapshot")
            reading = asyncio.create_task(stream.until(until_version(600)))
            while job.version < 600:
                job = await ledger.move(job.id, JobState.QUEUED)
            events = await reading
        assert versions(events) == list(range(2, 601))
        await eventually(lambda: len(door.gateway.hub) <= 1)
    finally:
        for each in deaf:
            each.close()


async def not_reading(port: int) -> socket.socket:
    """A client that asks for everything and takes nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET /api/anime/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client
