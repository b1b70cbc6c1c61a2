"""The bus against a real server: stored means stored, pulls outlive restarts, denials say so."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from uuid import UUID

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import provision
from anime_common.bus import ApiError, Bus, Received
from anime_common.contracts.jobs import CancelJob
from anime_common.messages import Outgoing, read_envelope, uuid7
from anime_common.outcomes import NotStored, TooLarge, Unavailable, Unconfirmed
from anime_common.pull import Pull, Pulled
from anime_common.topology import ADMIN, COMMANDS, FACTS, GATEWAY, GENERATOR, JOBS, LEDGER, TOWER, worker_consumer
from tests.buses import Connect
from tests.waiting import eventually


def cancel(ident: UUID | str | None = None, client: str = "tower") -> Outgoing:
    return Outgoing(CancelJob(job="abcd1234"), str(ident or uuid7()), (("client", client),))


async def fetch_all(pull: Pull, count: int, deadline: float = 20.0) -> list[Pulled]:
    """Fetch until `count` messages have come, as a consumer loop would."""
    found: list[Pulled] = []
    until = time.monotonic() + deadline
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} messages came"
        try:
            found += await pull.fetch(16, 0.5)
        except Unavailable:
            await asyncio.sleep(0.05)
    return found


class TestPublish:
    async def test_says_where_it_is_stored_and_that_a_repeat_was_known(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        tower = await connect(nats, TOWER)
        out = cancel()
        first = await tower.publish(out)
        again = await tower.publish(out)
        assert (first.stream, first.sequence, first.duplicate) == (COMMANDS, 1, False)
        assert (again.stream, again.sequence, again.duplicate) == (COMMANDS, 1, True)

    async def test_what_is_too_long_is_not_stored(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        with pytest.raises(TooLarge, match="message size exceeds maximum"):
            await tower.store("anime.cmd.jobs.cancel.tower", {}, b"x" * (600 << 10))
        with pytest.raises(TooLarge, match=f"{2 << 20} bytes and headers are more than the {1 << 20}"):
            await tower.store("anime.cmd.jobs.cancel.tower", {}, b"x" * (2 << 20))
        assert (await tower.publish(cancel())).sequence == 1, "the connection still stands"

    async def test_the_server_itself_cuts_off_who_sends_more_than_it_takes(self, nats: NatsServer) -> None:
        """No client library in between: the server reads the length and none of the rest."""
        reader, writer = await asyncio.open_connection("127.0.0.1", nats.port)
        info = json.loads((await reader.readline()).partition(b" ")[2])
        assert info["max_payload"] == 1 << 20
        login = {"user": "tower", "pass": nats.password_file("tower").read_text().strip(), "verbose": False}
        writer.write(b"CONNECT %s\r\n" % json.dumps(login).encode())
        writer.write(b"PUB anime.cmd.jobs.cancel.tower %d\r\n" % ((1 << 20) + 1))
        await writer.drain()
        said = await asyncio.wait_for(reader.read(), 5)
        assert b"-ERR 'Maximum Payload Violation'" in said
        writer.close()

    async def test_a_full_stream_refuses_for_certain(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower, admin = await connect(nats, TOWER), await connect(nats, ADMIN)
        config = (await admin.api(f"STREAM.INFO.{COMMANDS}"))["config"]
        await admin.api(f"STREAM.UPDATE.{COMMANDS}", config | {"max_msgs": 1})
        await tower.publish(cancel())
        with pytest.raises(NotStored, match="maximum messages exceeded"):
            await tower.publish(cancel())
        await admin.api(f"STREAM.UPDATE.{COMMANDS}", config)
        assert (await tower.publish(cancel())).sequence == 2

    async def test_without_a_stream_nothing_is_stored(self, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        with pytest.raises(NotStored, match="no stream takes it"):
            await tower.publish(cancel())

    async def test_what_is_not_permitted_is_not_stored(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        with pytest.raises(NotStored, match=r"no permission for anime\.cmd\.jobs\.cancel\.gateway"):
            await tower.publish(cancel(client="gateway"), timeout=0.5)
        assert (await ledger.stream_state(COMMANDS)).last == 0

    async def test_a_server_that_stands_still_leaves_it_open(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        tower = await connect(nats, TOWER)
        out = cancel()
        nats.child.signal(signal.SIGSTOP)
        try:
            with pytest.raises(Unconfirmed, match="not known to be stored"):
                await tower.publish(out, timeout=0.3)
        finally:
            nats.child.signal(signal.SIGCONT)
        again = await tower.publish(out)
        assert (again.sequence, again.duplicate) == (1, True), "it was stored all the same"

    async def test_away_then_back(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        since = tower.connected_since
        await nats.stop()
        await eventually(lambda: not tower.connected)
        out, given_up = cancel(), cancel()
        with pytest.raises(NotStored, match="the bus is away"):
            await tower.publish(given_up)
        assert tower.connected_since == float("inf")
        await nats.start()
        await eventually(lambda: tower.connected)
        stored = await tower.publish(out)
        assert stored.sequence == 1, "what was given up on is not sent later"
        assert tower.connected_since > since


class TestPull:
    async def test_brings_a_message_as_soon_as_it_is_there(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        tower = await connect(nats, TOWER)
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        waited: list[float] = []
        for _ in range(20):
            fetching = asyncio.create_task(pull.fetch(64, 5.0))
            await tower.publish(cancel())
            began = time.monotonic()
            (message,) = await fetching
            waited.append(time.monotonic() - began)
            await ledger.ack(message)
        assert sorted(waited)[len(waited) // 2] < 0.1
        await pull.close()

    async def test_takes_a_batch_and_keeps_to_its_size(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        out = [cancel() for _ in range(10)]
        for each in out:
            await tower.publish(each)
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        sizes: list[int] = []
        found: list[Pulled] = []
        while len(found) < 10:
            batch = await pull.fetch(4, 1.0)
            sizes.append(len(batch))
            found += batch
        assert max(sizes) <= 4
        assert [read_envelope(one.subject, one.headers).id for one in found] == [each.id for each in out]
        assert [one.stream_sequence for one in found] == list(range(1, 11))

    async def test_ack_nak_and_term(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        for _ in range(3):
            await tower.publish(cancel())
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        first, second, third = await fetch_all(pull, 3)
        await ledger.ack(first)
        await ledger.nak(second)
        await ledger.term(third, "no use")
        (again,) = await fetch_all(pull, 1)
        assert again.stream_sequence == second.stream_sequence
        assert (second.deliveries, again.deliveries) == (1, 2)
        await ledger.nak(again, delay=0.3)
        began = time.monotonic()
        (again,) = await fetch_all(pull, 1)
        assert time.monotonic() - began > 0.25
        await ledger.ack(again)
        await eventually(lambda: _is_empty(ledger, COMMANDS))

    async def test_outlives_a_killed_server(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        tower = await connect(nats, TOWER)
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        waiting = asyncio.create_task(fetch_all(pull, 3))
        await tower.publish(before := cancel())
        nats.child.signal(signal.SIGKILL)
        await nats.child.wait()
        await eventually(lambda: not tower.connected)
        await nats.start()
        await eventually(lambda: tower.connected)
        await tower.publish(after := cancel())
        await tower.publish(last := cancel())
        # The first may come twice: its delivery is not acked.
        ids = [read_envelope(one.subject, one.headers).id for one in await waiting]
        if last.id not in ids:
            ids += [read_envelope(one.subject, one.headers).id for one in await fetch_all(pull, 1)]
        assert set(ids) == {before.id, after.id, last.id}

    async def test_a_consumer_that_is_not_there(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        generator = await connect(nats, GENERATOR)
        pull = await generator.pull(worker_consumer("nobody").stream, "worker-nobody")
        with pytest.raises(Unavailable, match="there is no such consumer"):
            await pull.fetch(1, 5.0)

    async def test_a_consumer_that_goes_away_and_comes_back(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        generator = await connect(nats, GENERATOR)
        worker = worker_consumer("tower-0")
        await provision.ensure_consumer(ledger, worker)
        pull = await generator.pull(worker.stream, worker.name)
        fetching = asyncio.create_task(pull.fetch(1, 30.0))
        await eventually(lambda: _has_pull(ledger, worker.stream, worker.name))
        await provision.delete_consumer(ledger, worker.stream, worker.name)
        with pytest.raises(Unavailable, match="Consumer Deleted"):
            await asyncio.wait_for(fetching, 5)
        await provision.ensure_consumer(ledger, worker)
        assert await pull.fetch(1, 0.1) == []

    async def test_the_late_end_of_one_pull_does_not_end_the_next(self, ledger: Bus) -> None:
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        await pull._ask(1, 0.1)
        early = pull._reply
        await pull._ask(1, 0.5)
        began = time.monotonic()
        assert await pull.fetch(1, 30.0) == []
        assert time.monotonic() - began > 0.3
        assert pull._reply != early

    async def test_rest_brings_what_the_running_pull_still_delivers(
        self, ledger: Bus, nats: NatsServer, connect: Connect
    ) -> None:
        tower = await connect(nats, TOWER)
        pull = await ledger.pull(COMMANDS, "jobs-commands")
        await tower.publish(cancel())
        (message,) = await pull.fetch(8, 0.5)
        await ledger.ack(message)
        await tower.publish(cancel())
        (left,) = await pull.rest()
        assert left.stream_sequence == 2
        assert await pull.rest() == []


class TestRead:
    async def test_a_range_in_order(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        generator, gateway = await connect(nats, GENERATOR), await connect(nats, GATEWAY)
        for number in range(5):
            await generator.store(f"anime.evt.generator.started.j{number}", {"ce-id": str(number)}, b"%d" % number)
        found = await gateway.read(FACTS, 2, batch=3)
        assert [(one.sequence, one.data, one.subject) for one in found] == [
            (number + 1, b"%d" % number, f"anime.evt.generator.started.j{number}") for number in (1, 2, 3)
        ]
        assert found[0].headers["ce-id"] == "1"
        (only,) = await gateway.read(FACTS, 1, match="anime.evt.generator.started.j3")
        assert only.sequence == 4
        assert await gateway.read(FACTS, 6) == []

    async def test_headers_of_others_do_not_end_a_batch(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        generator, gateway = await connect(nats, GENERATOR), await connect(nats, GATEWAY)
        for number in range(2):
            await generator.store(f"anime.evt.generator.started.{number}", {"Status": "204"}, b"")
        assert len(await gateway.read(FACTS, 1)) == 2

    async def test_a_stream_that_is_not_there(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        admin = await connect(nats, ADMIN)
        with pytest.raises(Unavailable, match="NOWHERE could not be read"):
            await admin.read("NOWHERE", 1)

    async def test_the_state_of_a_stream(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        assert (await ledger.stream_state(LEDGER)).last == 0
        published = await ledger.store("anime.evt.jobs.queued.x", {}, b"")
        state = await ledger.stream_state(LEDGER)
        assert (state.first, state.last) == (1, published.sequence)
        admin = await connect(nats, ADMIN)
        await admin.api(f"STREAM.DELETE.{LEDGER}")
        await provision.apply(ledger)
        assert (await ledger.stream_state(LEDGER)).created > state.created

    async def test_errors_of_the_api_carry_their_code(self, nats: NatsServer, connect: Connect) -> None:
        admin = await connect(nats, ADMIN)
        with pytest.raises(ApiError, match="stream not found") as caught:
            await admin.api("STREAM.INFO.NOWHERE")
        assert caught.value.code == provision.STREAM_NOT_FOUND


class TestListen:
    async def test_live_copies_carry_stream_and_sequence(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        gateway, generator = await connect(nats, GATEWAY), await connect(nats, GENERATOR)
        heard: asyncio.Queue[Received] = asyncio.Queue()
        await gateway.listen("anime.live.>", heard.put)
        await ledger.store("anime.evt.jobs.queued.x", {"ce-id": "a"}, b"1")
        await generator.store("anime.evt.generator.started.x", {"ce-id": "b"}, b"2")
        async with asyncio.timeout(5):
            copies = sorted([await heard.get(), await heard.get()], key=lambda one: one.data)
        assert [
            (one.subject, one.headers["Nats-Stream"], one.headers["Nats-Sequence"], one.headers["ce-id"])
            for one in copies
        ] == [
            ("anime.live.jobs.queued.x", LEDGER, "1", "a"),
            ("anime.live.generator.started.x", FACTS, "1", "b"),
        ]

    async def test_a_listener_that_fails_hears_the_next(self, ledger: Bus, nats: NatsServer, connect: Connect) -> None:
        admin = await connect(nats, ADMIN)
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def listener(received: Received) -> None:
            if received.data == b"bad":
                raise RuntimeError("cannot read this")
            await heard.put(received.data)

        stop = await admin.listen("anime.tel.queue", listener)
        await ledger.tell_bytes("anime.tel.queue", b"bad")
        await ledger.tell_bytes("anime.tel.queue", b"good")
        assert await asyncio.wait_for(heard.get(), 5) == b"good"
        await stop()

    async def test_telemetry_is_dropped_while_the_server_is_away(self, nats: NatsServer, connect: Connect) -> None:
        jobs = await connect(nats, JOBS)
        admin = await connect(nats, ADMIN)
        heard: asyncio.Queue[Received] = asyncio.Queue()
        await admin.listen("anime.tel.>", heard.put)
        await nats.stop()
        await eventually(lambda: not jobs.connected)
        await jobs.tell_bytes("anime.tel.queue", b"lost")
        await nats.start()
        await eventually(lambda: jobs.connected and admin.connected)
        await jobs.tell_bytes("anime.tel.queue", b"heard")
        assert (await asyncio.wait_for(heard.get(), 5)).data == b"heard"


async def test_waits_for_a_server_that_is_not_there_yet(nats: NatsServer, connect: Connect) -> None:
    await nats.stop()
    connecting = asyncio.create_task(connect(nats, TOWER))
    await asyncio.sleep(0)
    await nats.start()
    assert (await connecting).connected


async def _is_empty(bus: Bus, stream: str) -> bool:
    state = await bus.stream_state(stream)
    return state.first > state.last


async def _has_pull(bus: Bus, stream: str, consumer: str) -> bool:
    info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
    return bool(info["num_waiting"])
