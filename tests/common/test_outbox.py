"""Inbox and outbox on a real database and a real server: once, all or nothing, in order, whatever goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_common import failpoints, outbox
from anime_common.bus import Bus, Stored
from anime_common.consume import Delivery, Loop
from anime_common.contracts.jobs import CancelJob, CommandRefused
from anime_common.failpoints import FailpointError
from anime_common.leader import Leader
from anime_common.messages import Envelope, Message, Outgoing, uuid7
from anime_common.outbox import Inbox, Relay
from anime_common.outcomes import Poison, Unavailable
from anime_common.pull import Pulled
from anime_common.topology import JOBS_COMMANDS, LEDGER, TOWER
from tests.buses import Connect
from tests.common.conftest import Scratch
from tests.waiting import eventually


def delivery(job: str, ident: str | None = None) -> Delivery:
    envelope = Envelope(ident or str(uuid7()), CancelJob.ce_type(), "/anime/tower", "anime.cmd.jobs.cancel.tower")
    return Delivery(envelope, CancelJob(job=job), Pulled(envelope.subject, {}, b"", "$JS.ACK.S.C.1.1.1.1.0"))


def refusal(command: str, number: int = 0) -> Outgoing:
    """An event of the aggregate `command`."""
    answer = CommandRefused(command_id=command, client="tower", status=404, code="not_found", message=str(number))
    return Outgoing(answer, f"{command}:{number}")


async def on_cancel(connection: Any, received: Delivery) -> Sequence[Outgoing]:
    assert isinstance(received.message, CancelJob)
    await connection.execute("INSERT INTO effects (name) VALUES ($1)", received.message.job)
    if received.message.job == "bad00000":
        raise RuntimeError("cannot do this")
    return [refusal(received.id)]


def inbox_of(scratch: Scratch, committed: list[int] | None = None) -> Inbox:
    commits: list[int] = [] if committed is None else committed
    return Inbox(scratch.pool, "test", {CancelJob: on_cancel}, lambda: commits.append(1))


async def count(scratch: Scratch, table: str) -> int:
    found: int = await scratch.pool.fetchval(f"SELECT count(*) FROM {table}")
    return found


async def stored(bus: Bus) -> list[Stored]:
    found: list[Stored] = []
    while batch := await bus.read(LEDGER, found[-1].sequence + 1 if found else 1):
        found += batch
    return found


@asynccontextmanager
async def leading(scratch: Scratch, relay: Relay) -> AsyncIterator[asyncio.Task[None]]:
    leader = Leader(f"relay {scratch.dsn}", scratch.connection, asyncio.Event(), retry=0.05)
    task = asyncio.create_task(leader.run(relay.run))
    try:
        yield task
    finally:
        leader.stop.set()
        with contextlib.suppress(FailpointError):
            await asyncio.wait_for(task, 10)


@pytest_asyncio.fixture(autouse=True)
async def no_failpoints() -> AsyncIterator[None]:
    yield
    failpoints.configure("")


class TestInbox:
    async def test_every_message_once(self, scratch: Scratch) -> None:
        commits: list[int] = []
        inbox = inbox_of(scratch, commits)
        twice = delivery("job00001", "the-same")
        await inbox.handle([twice, delivery("job00002"), twice])
        await inbox.handle([twice])
        assert await scratch.effects() == ["job00001", "job00002"]
        assert await count(scratch, "outbox") == 2
        assert len(commits) == 1

    async def test_a_batch_is_one_transaction(self, scratch: Scratch) -> None:
        inbox = inbox_of(scratch)
        batch = [delivery("job00001"), delivery("bad00000"), delivery("job00002")]
        with pytest.raises(RuntimeError, match="cannot do this"):
            await inbox.handle(batch)
        assert [await count(scratch, table) for table in ("effects", "inbox", "outbox")] == [0, 0, 0]
        await inbox.handle([batch[0]])
        await inbox.handle([batch[2]])
        assert await scratch.effects() == ["job00001", "job00002"]

    async def test_a_crash_before_the_commit_changes_nothing(self, scratch: Scratch) -> None:
        failpoints.configure("test.before_commit=error")
        inbox, message = inbox_of(scratch), delivery("job00001")
        with pytest.raises(FailpointError):
            await inbox.handle([message])
        assert await scratch.effects() == []
        await inbox.handle([message])
        assert await scratch.effects() == ["job00001"]

    async def test_a_crash_after_the_commit_is_not_done_twice(self, scratch: Scratch) -> None:
        failpoints.configure("test.after_commit=error")
        inbox, message = inbox_of(scratch), delivery("job00001")
        with pytest.raises(FailpointError):
            await inbox.handle([message])
        await inbox.handle([message])
        assert await scratch.effects() == ["job00001"]
        assert await count(scratch, "outbox") == 1

    async def test_messages_of_no_concern_leave_no_trace(self, scratch: Scratch) -> None:
        other: Message = refusal("c").message
        await inbox_of(scratch).handle([Delivery(delivery("x0000000").envelope, other, delivery("x0000000").pulled)])
        assert await count(scratch, "inbox") == 0

    async def test_a_database_that_is_away_is_unavailable(
        self, scratch: Scratch, postgres_server: PostgresServer
    ) -> None:
        inbox = inbox_of(scratch)
        await inbox.handle([delivery("job00001")])
        killing = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        admin = await scratch.connection()

        async def die(connection: Any, received: Delivery) -> Sequence[Outgoing]:
            await admin.fetch(f"{killing} AND datname = current_database()")
            return await on_cancel(connection, received)

        dying = Inbox(scratch.pool, "test", {CancelJob: die}, lambda: None)
        with pytest.raises(Unavailable, match="the database is away"):
            await dying.handle([delivery("job00002")])
        await inbox.handle([delivery("job00003")])
        assert await scratch.effects() == ["job00001", "job00003"]
        await admin.close()

    async def test_two_instances_that_got_the_same_message_do_it_once(self, scratch: Scratch) -> None:
        first, second = inbox_of(scratch), inbox_of(scratch)
        same = [delivery(f"job0000{number}", f"id{number}") for number in range(8)]
        await asyncio.gather(first.handle(same), second.handle(same[::-1]), return_exceptions=True)
        await first.handle(same)
        assert sorted(await scratch.effects()) == [f"job0000{number}" for number in range(8)]


class TestRelay:
    async def add(self, scratch: Scratch, *outgoing: Outgoing) -> None:
        async with outbox.transaction(scratch.pool) as connection:
            await outbox.add(connection, outgoing, "jobs")

    async def test_publishes_each_aggregate_in_order(self, scratch: Scratch, ledger: Bus, admin: Bus) -> None:
        relay = Relay(ledger, "test")
        async with leading(scratch, relay):
            for number in range(30):
                await self.add(scratch, refusal("a", number), refusal("b", number))
                relay.wake()
            await eventually(lambda: self.is_empty(scratch))
        found = await stored(admin)
        for aggregate in ("a", "b"):
            bodies = [CommandRefused.parse(one.data).message for one in found if one.subject.endswith(f".{aggregate}")]
            assert bodies == [str(number) for number in range(30)]
        assert found[0].headers["ce-source"] == "/anime/jobs"
        assert found[0].headers["Nats-Msg-Id"] == found[0].headers["ce-id"]

    async def test_a_crash_before_the_delete_repeats_and_the_stream_knows(
        self, scratch: Scratch, ledger: Bus, admin: Bus
    ) -> None:
        failpoints.configure("test.relay.before_delete=error")
        await self.add(scratch, refusal("a", 0), refusal("a", 1))
        async with leading(scratch, Relay(ledger, "test")) as task:
            with pytest.raises(FailpointError):
                await asyncio.wait_for(asyncio.shield(task), 10)
        assert await count(scratch, "outbox") == 2
        assert len(await stored(admin)) == 2
        async with leading(scratch, Relay(ledger, "test")):
            await eventually(lambda: self.is_empty(scratch))
        assert len(await stored(admin)) == 2

    async def test_the_bus_away_then_back(self, scratch: Scratch, ledger: Bus, admin: Bus, nats: NatsServer) -> None:
        async with leading(scratch, relay := Relay(ledger, "test", poll=0.05)):
            await nats.stop()
            await eventually(lambda: not ledger.connected)
            await self.add(scratch, *(refusal("a", number) for number in range(5)))
            relay.wake()
            await asyncio.sleep(0)
            assert await count(scratch, "outbox") == 5
            await nats.start()
            await eventually(lambda: self.is_empty(scratch), within=20)
        assert [CommandRefused.parse(one.data).message for one in await stored(admin)] == list("01234")

    async def test_what_the_stream_refuses_holds_up_its_own_aggregate_alone(
        self, scratch: Scratch, ledger: Bus, admin: Bus
    ) -> None:
        async with outbox.transaction(scratch.pool) as connection:
            await outbox.add(connection, [refusal("a", 0)], "jobs")
            await connection.execute("UPDATE outbox SET body = $1", b"x" * (600 << 10))
            await outbox.add(connection, [refusal("a", 1), refusal("b", 0)], "jobs")
        async with leading(scratch, Relay(ledger, "test")):
            await eventually(lambda: self.is_down_to(scratch, 2))
        assert [one.subject.rsplit(".", 1)[-1] for one in await stored(admin)] == ["b"]
        rows = await scratch.pool.fetch("SELECT aggregate FROM outbox ORDER BY id")
        assert [row["aggregate"] for row in rows] == ["a", "a"]

    async def test_goes_on_when_its_connection_is_killed(self, scratch: Scratch, ledger: Bus, admin: Bus) -> None:
        relay = Relay(ledger, "test", poll=0.05)
        async with leading(scratch, relay):
            await self.add(scratch, refusal("a", 0))
            await eventually(lambda: self.is_empty(scratch))
            killed = await scratch.pool.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'test-leader' AND datname = current_database()"
            )
            assert killed == 1
            await self.add(scratch, refusal("a", 1))
            relay.wake()
            await eventually(lambda: self.is_empty(scratch))
        assert len(await stored(admin)) == 2

    async def test_forgets_what_no_stream_can_repeat(self, scratch: Scratch, ledger: Bus) -> None:
        await scratch.pool.execute(
            "INSERT INTO inbox (ce_id, received_at) VALUES ('old', now() - interval '32 days'), ('new', now())"
        )
        async with leading(scratch, Relay(ledger, "test")):
            await eventually(lambda: self.holds(scratch, "inbox", 1))
        assert await scratch.pool.fetchval("SELECT ce_id FROM inbox") == "new"

    async def is_empty(self, scratch: Scratch) -> bool:
        return await self.is_down_to(scratch, 0)

    async def is_down_to(self, scratch: Scratch, rows: int) -> bool:
        return await self.holds(scratch, "outbox", rows)

    async def holds(self, scratch: Scratch, table: str, rows: int) -> bool:
        return await count(scratch, table) == rows


async def test_from_command_to_event_through_a_database_that_fails(
    scratch: Scratch, ledger: Bus, admin: Bus, nats: NatsServer, connect: Connect
) -> None:
    tower = await connect(nats, TOWER)
    relay = Relay(ledger, "test", poll=0.05)
    inbox = Inbox(scratch.pool, "test", {CancelJob: on_cancel}, relay.wake)
    loop = Loop(ledger, JOBS_COMMANDS, inbox.handle, asyncio.Event(), expires=0.2, batch=16)
    consuming = asyncio.create_task(loop.run())
    ids = [str(uuid7()) for _ in range(100)]
    async with leading(scratch, relay):
        for number, ident in enumerate(ids):
            command = CancelJob(job=f"job{number:05}")
            await tower.publish(Outgoing(command, ident, (("client", "tower"),)))
            if number % 25 == 10:
                await scratch.pool.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
        await eventually(lambda: _answered(ledger, len(ids)), within=20)
    loop.stop.set()
    await consuming
    assert sorted(await scratch.effects()) == [f"job{number:05}" for number in range(100)]
    answered = [CommandRefused.parse(one.data).command_id for one in await stored(admin)]
    assert sorted(answered) == sorted(ids)


async def _answered(bus: Bus, number: int) -> bool:
    return (await bus.stream_state(LEDGER)).last >= number


def test_a_message_that_no_stream_takes_never_gets_into_the_outbox() -> None:
    huge = CommandRefused(command_id="c", client="tower", status=400, code="x", message="y" * outbox.MAX_MESSAGE)
    with pytest.raises(Poison, match="the most is"):
        outbox.rows_of([Outgoing(huge, "c:1")], "jobs")
