"""`anime dead` against a real server: what was buried is listed, sent again, or removed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest_asyncio

from anime_cli.errors import ExitStatus
from anime_cli.nats_server import NatsServer
from anime_common import provision
from anime_common.bus import Bus
from anime_common.consume import Delivery, Loop
from anime_common.contracts.jobs import CancelJob
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Poison
from anime_common.topology import COMMANDS, DEAD, JOBS, JOBS_COMMANDS, TOWER
from tests.buses import Connect
from tests.stacks import anime_on
from tests.waiting import eventually


@pytest_asyncio.fixture
async def ledger(nats: NatsServer, connect: Connect) -> Bus:
    bus = await connect(nats, JOBS)
    await provision.apply(bus)
    return bus


@pytest_asyncio.fixture
async def tower(ledger: Bus, nats: NatsServer, connect: Connect) -> Bus:
    return await connect(nats, TOWER)


async def anime(nats: NatsServer, *arguments: str) -> tuple[int, Any, str]:
    """Run `anime dead`; the exit status, its JSON, and what it said on stderr."""
    return await anime_on(nats, "dead", *arguments)


async def handle(batch: Any) -> None:
    raise Poison("cannot be handled")


async def consume(ledger: Bus, handler: Any = handle) -> None:
    """Run the ledger's consumer until every command is settled."""
    loop = Loop(ledger, JOBS_COMMANDS, handler, asyncio.Event(), expires=0.2)
    task = asyncio.create_task(loop.run())
    await eventually(lambda: _settled(ledger))
    loop.stop.set()
    await task


async def _settled(bus: Bus) -> bool:
    state = await bus.stream_state(COMMANDS)
    return state.first > state.last


async def buried(tower: Bus, ledger: Bus, *jobs: str) -> list[str]:
    ids = [str(uuid7()) for _ in jobs]
    for job, ident in zip(jobs, ids, strict=True):
        await tower.publish(Outgoing(CancelJob(job=job), ident, (("client", "tower"),)))
    await consume(ledger)
    return ids


async def test_lists_what_was_buried(nats: NatsServer, ledger: Bus, tower: Bus) -> None:
    ids = await buried(tower, ledger, "job00001", "job00002")
    await tower.store("anime.cmd.jobs.cancel.tower", {}, b"\xff no text")
    await consume(ledger)
    status, letters, _ = await anime(nats, "list")
    assert status == ExitStatus.OK
    assert [letter["number"] for letter in letters] == [1, 2, 3]
    assert letters[0]["headers"]["ce-id"] == ids[0]
    assert letters[0]["body"] == {"job": "job00001"}
    assert letters[0]["reason"] == "failed 1 times: Poison('cannot be handled')"
    assert letters[0]["subject"] == "anime.cmd.jobs.cancel.tower"
    assert letters[0]["consumer"] == "jobs-commands"
    assert letters[2]["body"] == "\ufffd no text"
    assert (await anime(nats, "list", "--limit", "1"))[1] == letters[:1]
    assert (await anime(nats, "list", "--consumer", "files-ledger"))[1] == []


async def test_replays_even_at_once_and_under_the_old_id(nats: NatsServer, ledger: Bus, tower: Bus) -> None:
    ids = await buried(tower, ledger, "job00001", "job00002")
    status, done, _ = await anime(nats, "replay", "2")
    assert (status, done[0]["number"]) == (ExitStatus.OK, 2)
    seen: list[tuple[str, str]] = []

    async def succeed(batch: list[Delivery]) -> None:
        seen.extend((delivery.id, delivery.envelope.last_token) for delivery in batch)

    await consume(ledger, succeed)
    assert seen == [(ids[1], "tower")]
    assert [letter["number"] for letter in (await anime(nats, "list"))[1]] == [1]


async def test_drops(nats: NatsServer, ledger: Bus, tower: Bus) -> None:
    await buried(tower, ledger, "job00001", "job00002", "job00003")
    assert (await anime(nats, "drop", "1", "3"))[0] == ExitStatus.OK
    assert [letter["number"] for letter in (await anime(nats, "list"))[1]] == [2]
    assert (await anime(nats, "drop", "--all"))[0] == ExitStatus.USAGE, "nobody was there to be asked"
    assert (await anime(nats, "drop", "--all", "--yes"))[0] == ExitStatus.OK
    assert (await anime(nats, "list"))[1] == []
    assert (await ledger.stream_state(COMMANDS)).last == 3, "nothing was sent"


async def test_what_cannot_be_done_says_why(nats: NatsServer, ledger: Bus, tower: Bus) -> None:
    headers = {"anime-subject": "anime.dispatch.tower-0", "anime-reason": "x"}
    await ledger.store("anime.dead.jobs-facts", headers, b"{}")
    for arguments, status, text in (
        (("replay",), ExitStatus.USAGE, "which letters"),
        (("replay", "1", "--all"), ExitStatus.USAGE, "which letters"),
        (("replay", "7"), ExitStatus.NOT_FOUND, "no dead letter 7"),
        (("drop", "0"), ExitStatus.NOT_FOUND, "no dead letter 0"),
        (("replay", "1"), ExitStatus.CONFLICT, "anime.dispatch.tower-0"),
    ):
        found, _, said = await anime(nats, *arguments)
        assert (found, text in said) == (status, True), (arguments, said)
    assert (await ledger.stream_state(DEAD)).last == 1


async def test_a_bus_that_is_away(nats: NatsServer) -> None:
    await nats.stop()
    status, _, said = await anime(nats, "list")
    assert status == ExitStatus.UNREACHABLE
    assert nats.url in said
