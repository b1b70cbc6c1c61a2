"""A replica that has not stored the newest messages yet hides none of them, and is no gap.

One server has no replicas: what one that lags would answer is taken out of the true answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from anime_cli.nats_server import NatsServer
from anime_common.bus import Bus, Stored
from anime_common.outcomes import Unavailable
from anime_common.topology import ADMIN, GATEWAY, LEDGER
from anime_gateway import reading, stream
from anime_gateway.feed import Feed
from anime_gateway.reading import Gone, stretch
from tests.buses import settings_of
from tests.gateway.conftest import Connect, OpenDoor
from tests.gateway.ledger import Ledger
from tests.gateway.test_resume import latest_id, until_version, versions
from tests.waiting import eventually


class Lagging(Bus):
    """A connection whose direct gets are answered by a replica that lags by `lag` messages for the next `times`."""

    lag, times, asked = 0, 0, 0

    async def read(
        self, stream: str, start: int, *, batch: int = 256, match: str = ">", timeout: float = 5.0
    ) -> list[Stored]:
        found = await super().read(stream, start, batch=batch, match=match, timeout=timeout)
        self.asked += 1
        if self.times <= 0:
            return found
        self.times -= 1
        stored = (await self.stream_state(stream)).last - self.lag
        return [each for each in found if each.sequence <= stored]


@pytest.fixture
async def lagging(nats: NatsServer, ledger: Ledger) -> AsyncIterator[Lagging]:
    bus = await Lagging.connect(settings_of(nats, GATEWAY), GATEWAY)
    assert isinstance(bus, Lagging)
    yield bus
    await bus.close()


async def events(ledger: Ledger, count: int) -> int:
    """Store so many events; returns the last sequence."""
    job = await ledger.add()
    for _ in range(count - 1):
        job = await ledger.update(job.id)
    return (await ledger.bus.stream_state(LEDGER)).last


async def read(bus: Bus, after: int, until: int) -> list[int]:
    return [each.sequence async for page in stretch(bus, LEDGER, after, until) for each in page]


class TestStretch:
    async def test_reads_what_was_asked_for_and_no_more(self, lagging: Lagging, ledger: Ledger) -> None:
        last = await events(ledger, 600)
        assert await read(lagging, 3, last - 2) == list(range(4, last - 1))
        assert await read(lagging, last, last) == []

    @pytest.mark.parametrize("lag", [1, 5, 1000])
    async def test_what_is_not_there_yet_is_waited_for(self, lagging: Lagging, ledger: Ledger, lag: int) -> None:
        last = await events(ledger, 12)
        lagging.lag, lagging.times = lag, 6
        assert await read(lagging, 0, last) == list(range(1, last + 1))
        assert lagging.times == 0

    async def test_but_not_for_ever(self, lagging: Lagging, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "PATIENCE", 0.1)
        last = await events(ledger, 12)
        lagging.lag, lagging.times = 2, 10**6
        pages = stretch(lagging, LEDGER, 0, last)
        assert [each.sequence for each in await anext(pages)] == list(range(1, last - 1))
        with pytest.raises(Unavailable, match=f"{LEDGER} has {last - 1}, but no replica"):
            await anext(pages)

    async def test_what_has_expired_is_said(self, lagging: Lagging, ledger: Ledger, connect: Connect) -> None:
        admin = await connect(ADMIN)
        last = await events(ledger, 12)
        await admin.api(f"STREAM.PURGE.{LEDGER}", {"keep": 3})
        with pytest.raises(Gone) as gone:
            await read(lagging, 2, last)
        assert (gone.value.state.first, gone.value.state.last) == (last - 2, last)
        assert await read(lagging, last - 3, last) == [last - 2, last - 1, last]

    async def test_an_end_that_is_not_there_is_gone(self, lagging: Lagging, ledger: Ledger) -> None:
        last = await events(ledger, 3)
        with pytest.raises(Gone):
            await read(lagging, 0, last + 5)

    async def test_a_message_that_was_deleted_is_passed_over(
        self, lagging: Lagging, ledger: Ledger, connect: Connect
    ) -> None:
        admin = await connect(ADMIN)
        last = await events(ledger, 8)
        await admin.api(f"STREAM.MSG.DELETE.{LEDGER}", {"seq": 4})
        assert await read(lagging, 3, last) == list(range(5, last + 1))


async def following(bus: Bus, stop: asyncio.Event, wanted: Callable[[Stored], bool]) -> tuple[list[int], list[str]]:
    """What a feed delivers until the wanted event, and its resets."""
    delivered: list[int] = []
    resets: list[str] = []

    def deliver(stored: Stored) -> None:
        if stored.stream == LEDGER:
            delivered.append(stored.sequence)
        if wanted(stored):
            stop.set()

    feed = Feed(bus, deliver, resets.append, lambda _: None, check_every=0.1)
    await asyncio.wait_for(feed.run(stop), 20)
    return delivered, resets


async def test_a_lost_live_copy_is_waited_for_and_no_reset(
    lagging: Lagging, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second live copy is lost, and the replica that is asked for it has not got it the first times."""
    hear = Feed._on_live

    async def on_live(feed: Feed, received: object) -> None:
        if int(received.headers["Nats-Sequence"]) % 2:  # type: ignore[attr-defined]
            await hear(feed, received)  # type: ignore[arg-type]

    monkeypatch.setattr(Feed, "_on_live", on_live)
    first = await events(ledger, 2)
    stop = asyncio.Event()
    task = asyncio.create_task(following(lagging, stop, lambda stored: stored.sequence >= first + 40))
    lagging.lag, lagging.times = 1, 30
    job = await ledger.add()
    while not stop.is_set():
        job = await ledger.update(job.id)
    delivered, resets = await task
    assert delivered == list(range(delivered[0], delivered[0] + len(delivered)))
    assert resets == []
    assert lagging.asked > 0


@pytest.mark.parametrize("path", ["everything", "one job"])
async def test_who_resumes_from_a_lagging_replica_misses_nothing(
    open_door: OpenDoor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Also where the server sorts out other jobs: the older part is read so, the newest messages are not."""
    monkeypatch.setattr(stream, "SETTLED", 10)
    door = await open_door()
    job, other = await ledger.add(), await ledger.add()
    last_id = await latest_id(door)
    for _ in range(20):
        job, other = await ledger.update(job.id), await ledger.update(other.id)
    last = (await ledger.bus.stream_state(LEDGER)).last
    await eventually(lambda: door.gateway.hub.cursor.ledger.sequence >= last)
    lags = iter([7, 7, 3, 3, 1])
    true_read: Callable[..., Awaitable[list[Stored]]] = Bus.read

    async def lagging_read(bus: Bus, name: str, start: int, **options: object) -> list[Stored]:
        found = await true_read(bus, name, start, **options)
        stored = last - next(lags, 0) if name == LEDGER else 10**9
        return [each for each in found if each.sequence <= stored]

    monkeypatch.setattr(Bus, "read", lagging_read)
    address = "/events" if path == "everything" else f"/jobs/{job.id}/events"
    async with door.events(address, last_id=last_id) as stream_of_events:
        job = await ledger.update(job.id)
        seen = await stream_of_events.until(
            lambda event: until_version(job.version)(event) and event.data["job"]["id"] == str(job.id)
        )
    mine = [event for event in seen if event.event == "job" and event.data["job"]["id"] == str(job.id)]
    assert versions(mine) == list(range(2, job.version + 1))
    assert "reset" not in {event.event for event in seen}
