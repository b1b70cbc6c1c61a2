"""The loop of a durable consumer: what becomes of good, bad and unreadable messages, and when things are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from anime_cli.nats_server import NatsServer
from anime_common.bus import Bus, Stored
from anime_common.consume import Delivery, Loop
from anime_common.contracts.jobs import CancelJob
from anime_common.events_page import DEAD_HEADERS
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Poison, Unavailable
from anime_common.pull import Pulled
from anime_common.topology import COMMANDS, DEAD, JOBS_COMMANDS, TOWER
from tests.buses import Connect
from tests.waiting import eventually


class Recorder:
    """A handler that fails as told by the job a command names, and remembers what it was given and what it did."""

    def __init__(self, failures: dict[str, list[Exception]] | None = None) -> None:
        self.failures = failures or {}
        self.batches: list[list[str]] = []
        self.done: list[str] = []

    async def __call__(self, batch: Sequence[Delivery]) -> None:
        names = [job_of(delivery) for delivery in batch]
        self.batches.append(names)
        for name in names:
            if self.failures.get(name):
                # A batch that fails has no effect; a single one uses its failure up.
                raise self.failures[name][0] if len(names) > 1 else self.failures[name].pop(0)
        self.done += names


def job_of(delivery: Delivery) -> str:
    assert isinstance(delivery.message, CancelJob)
    return delivery.message.job


@pytest.fixture
async def tower(ledger: Bus, nats: NatsServer, connect: Connect) -> Bus:
    return await connect(nats, TOWER)


async def send(tower: Bus, *jobs: str) -> list[str]:
    """Publish a command for each job name; returns the ce-ids."""
    ids = []
    for job in jobs:
        out = Outgoing(CancelJob(job=job), str(uuid7()), (("client", "tower"),))
        await tower.publish(out)
        ids.append(out.id)
    return ids


@asynccontextmanager
async def consuming(
    bus: Bus,
    handle: Callable[[Sequence[Delivery]], Awaitable[None]],
    *,
    on_dead: Callable[[Pulled, str, str | None], Awaitable[None]] | None = None,
    expires: float = 0.2,
    attempts: int = 3,
) -> AsyncIterator[Loop]:
    loop = Loop(bus, JOBS_COMMANDS, handle, asyncio.Event(), on_dead, expires=expires, attempts=attempts)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        loop.stop.set()
        await asyncio.wait_for(task, 10)


async def settled(bus: Bus) -> bool:
    """Whether every command was acked or terminated."""
    state = await bus.stream_state(COMMANDS)
    return state.first > state.last


async def letters(bus: Bus) -> list[Stored]:
    return await bus.read(DEAD, 1)


async def test_a_good_batch_is_handled_together_and_acked(ledger: Bus, admin: Bus, tower: Bus) -> None:
    handle = Recorder()
    jobs = [f"good000{number}" for number in range(5)]
    await send(tower, *jobs)
    async with consuming(ledger, handle):
        await eventually(lambda: settled(ledger))
    assert handle.done == jobs
    assert len(handle.batches) < 5
    assert await letters(admin) == []


async def test_a_poisonous_one_is_isolated_and_the_others_succeed(ledger: Bus, admin: Bus, tower: Bus) -> None:
    handle = Recorder({"poison00": [RuntimeError("no such column")] * 3})
    told: list[tuple[str, str | None]] = []

    async def on_dead(message: Pulled, reason: str, field: str | None) -> None:
        told.append((reason, field))

    ids = await send(tower, "good0001", "poison00", "good0002", "good0003")
    async with consuming(ledger, handle, on_dead=on_dead):
        await eventually(lambda: settled(ledger))
    assert sorted(handle.done) == ["good0001", "good0002", "good0003"]
    (letter,) = await letters(admin)
    assert letter.subject == "anime.dead.jobs-commands"
    assert CancelJob.parse(letter.data).job == "poison00"
    assert letter.headers["ce-id"] == ids[1]
    assert letter.headers["anime-subject"] == "anime.cmd.jobs.cancel.tower"
    assert letter.headers["anime-reason"] == "failed 3 times: RuntimeError('no such column')"
    assert int(letter.headers["anime-deliveries"]) == 3
    assert set(DEAD_HEADERS) < set(letter.headers), "the event reference names them"
    assert told == [("failed 3 times: RuntimeError('no such column')", None)]


async def test_a_passing_failure_is_tried_again_and_forgotten(ledger: Bus, admin: Bus, tower: Bus) -> None:
    handle = Recorder({"wobbly00": [RuntimeError("once"), RuntimeError("twice")]})
    await send(tower, "wobbly00")
    async with consuming(ledger, handle) as loop:
        await eventually(lambda: settled(ledger))
        assert not loop._failures
    assert handle.done == ["wobbly00"]
    assert await letters(admin) == []


async def test_poison_is_buried_at_once(ledger: Bus, admin: Bus, tower: Bus) -> None:
    handle = Recorder({"poison00": [Poison("an epoch from the future")]})
    await send(tower, "poison00")
    async with consuming(ledger, handle):
        await eventually(lambda: settled(ledger))
    assert handle.batches == [["poison00"]]
    (letter,) = await letters(admin)
    assert "an epoch from the future" in letter.headers["anime-reason"]


async def test_away_is_waited_for_and_never_counted(ledger: Bus, admin: Bus, tower: Bus) -> None:
    handle = Recorder({"patient0": [Unavailable("the database is away")] * 6})
    await send(tower, "patient0", "patient1")
    async with consuming(ledger, handle, attempts=2) as loop:
        # Alone it uses its failures up; together they only pause.
        await eventually(lambda: len(handle.batches) >= 2)
        assert not loop._failures
        handle.failures.clear()
        await eventually(lambda: settled(ledger))
    assert sorted(handle.done) == ["patient0", "patient1"]
    assert await letters(admin) == []


class TestUnreadable:
    async def bury(self, ledger: Bus, admin: Bus, tower: Bus, headers: dict[str, str], body: bytes = b"{}") -> Stored:
        await send(tower, "good0001")
        await tower.store("anime.cmd.jobs.cancel.tower", headers, body)
        await send(tower, "good0002")
        handle = Recorder()
        async with consuming(ledger, handle):
            await eventually(lambda: settled(ledger))
        assert handle.done == ["good0001", "good0002"]
        (letter,) = await letters(admin)
        assert letter.data == body
        return letter

    async def test_no_envelope(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        letter = await self.bury(ledger, admin, tower, {}, b"\xff not even text")
        assert "ce-id" in letter.headers["anime-reason"]

    async def test_a_bad_body_names_the_field(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        headers = {"ce-id": "1", "ce-type": "anime.jobs.cancel.v1"}
        letter = await self.bury(ledger, admin, tower, headers, b'{"job": "has a space"}')
        assert letter.headers["anime-reason"].startswith("job: ")

    async def test_an_unknown_version(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        letter = await self.bury(ledger, admin, tower, {"ce-id": "1", "ce-type": "anime.jobs.cancel.v99"})
        assert "unknown message type 'anime.jobs.cancel.v99'" in letter.headers["anime-reason"]

    async def test_headers_that_cannot_be_sent_again_are_left_out(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        raw = (
            b"NATS/1.0\r\nwe(ird: 1\r\nStatus: 503\r\nNats-Last-Word: x\r\nce-type: \xff\xfe\r\nkept: \xc3\xbc\r\n\r\n"
        )
        subject = b"anime.cmd.jobs.cancel.tower"
        tower.client._transport.write(b"HPUB %b %d %d\r\n%b\r\n" % (subject, len(raw), len(raw), raw))  # type: ignore[union-attr]
        await eventually(lambda: _last(ledger, 1))
        handle = Recorder()
        async with consuming(ledger, handle):
            await eventually(lambda: settled(ledger))
        (letter,) = await letters(admin)
        assert letter.headers["kept"] == "ü"
        assert "Nats-Last-Word" not in letter.headers

    async def test_the_largest_message_still_fits(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        body = b"x" * ((512 << 10) - 1000)
        letter = await self.bury(ledger, admin, tower, {"ce-id": "1"}, body)
        assert len(letter.data) == len(body)

    async def test_a_failing_on_dead_does_not_stop_the_loop(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        async def on_dead(message: Pulled, reason: str, field: str | None) -> None:
            raise RuntimeError("cannot record this")

        await tower.store("anime.cmd.jobs.cancel.tower", {}, b"")
        await send(tower, "good0001")
        handle = Recorder()
        async with consuming(ledger, handle, on_dead=on_dead):
            await eventually(lambda: settled(ledger))
        assert handle.done == ["good0001"]
        assert len(await letters(admin)) == 1

    async def test_an_unavailable_on_dead_is_asked_again(self, ledger: Bus, admin: Bus, tower: Bus) -> None:
        away = [Unavailable("the database is away")] * 2
        told: list[str] = []

        async def on_dead(message: Pulled, reason: str, field: str | None) -> None:
            if away:
                raise away.pop()
            told.append(reason)

        await tower.store("anime.cmd.jobs.cancel.tower", {}, b"")
        async with consuming(ledger, Recorder(), on_dead=on_dead):
            await eventually(lambda: settled(ledger))
        assert len(told) == 1
        assert len(await letters(admin)) == 1


async def test_stop_waits_for_the_running_batch_and_gives_back_the_rest(ledger: Bus, tower: Bus) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        entered.set()
        await release.wait()
        done.extend(job_of(delivery) for delivery in batch)

    await send(tower, "first000")
    async with consuming(ledger, handle, expires=1.5) as loop:
        await entered.wait()
        loop.stop.set()
        await send(tower, "second00")
        release.set()
    assert done == ["first000"]
    pull = await ledger.pull(COMMANDS, JOBS_COMMANDS.name)
    (left,) = await pull.fetch(8, 5.0)
    assert CancelJob.parse(left.data).job == "second00"


async def test_goes_on_after_the_server_was_away(nats: NatsServer, ledger: Bus, tower: Bus) -> None:
    handle = Recorder()
    async with consuming(ledger, handle):
        await send(tower, "before00")
        await eventually(lambda: handle.done == ["before00"])
        await nats.stop()
        await eventually(lambda: not ledger.connected)
        await nats.start()
        await eventually(lambda: tower.connected)
        await send(tower, "after000")
        await eventually(lambda: "after000" in handle.done)


async def _last(bus: Bus, sequence: int) -> bool:
    return (await bus.stream_state(COMMANDS)).last == sequence
