"""Exactly one leads, and another takes over when its connection is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from anime_common.leader import Leader, Work
from tests.common.conftest import Scratch
from tests.waiting import eventually


class Team:
    """Several instances that want to lead, and what each does while it leads: beats once a moment."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.stop = asyncio.Event()
        self.leaders: dict[str, Leader] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.beats: list[str] = []

    def join(self, name: str, *, idle_timeout: float = 10.0, work: Work | None = None) -> Leader:
        leader = Leader("scheduler", self.scratch.connection, asyncio.Event(), retry=0.05, idle_timeout=idle_timeout)

        async def beat(connection: Any) -> None:
            while True:
                await connection.fetchval("SELECT 1")
                self.beats.append(name)
                await asyncio.sleep(0.01)

        self.leaders[name] = leader
        self.tasks[name] = asyncio.create_task(leader.run(work or beat))
        return leader

    @property
    def leading(self) -> list[str]:
        return [name for name, leader in self.leaders.items() if leader.leading]

    async def one_leads(self) -> str:
        await eventually(lambda: len(self.leading) == 1)
        return self.leading[0]

    async def end(self) -> None:
        for leader in self.leaders.values():
            leader.stop.set()
        for task in self.tasks.values():
            with contextlib.suppress(LookupError):
                await asyncio.wait_for(task, 10)


@pytest_asyncio.fixture
async def team(scratch: Scratch) -> AsyncIterator[Team]:
    made = Team(scratch)
    yield made
    await made.end()


async def kill_holder(scratch: Scratch) -> None:
    killed = await scratch.pool.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
        " WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database"
        " WHERE datname = current_database())"
    )
    assert killed == 1


async def test_one_leads_and_the_others_wait(team: Team) -> None:
    for name in ("a", "b", "c"):
        team.join(name)
    first = await team.one_leads()
    await eventually(lambda: len(team.beats) > 20)
    assert set(team.beats) == {first}


async def test_another_takes_over_when_the_leader_stops(team: Team) -> None:
    leader = team.join("a")
    assert await team.one_leads() == "a"
    team.join("b")
    leader.stop.set()
    await asyncio.wait_for(team.tasks["a"], 5)
    assert not leader.leading
    await eventually(lambda: "b" in team.beats)


async def test_another_takes_over_when_the_connection_is_killed(team: Team, scratch: Scratch) -> None:
    team.join("a")
    await team.one_leads()
    team.join("b")
    for _ in range(3):
        before = len(team.beats)
        await kill_holder(scratch)
        await eventually(lambda before=before: len(team.beats) > before + 5)  # type: ignore[misc]
        await team.one_leads()


async def test_a_frozen_leader_loses_its_lock(team: Team) -> None:
    frozen = asyncio.Event()

    async def freeze(connection: Any) -> None:
        frozen.set()
        await asyncio.Event().wait()

    team.join("frozen", idle_timeout=0.2, work=freeze)
    await frozen.wait()
    team.join("b")
    await eventually(lambda: "b" in team.beats)


async def test_an_error_of_the_work_is_not_hidden(team: Team) -> None:
    async def fail(connection: Any) -> None:
        raise LookupError("a bug")

    leader = team.join("a", work=fail)
    with pytest.raises(LookupError, match="a bug"):
        await asyncio.wait_for(asyncio.shield(team.tasks["a"]), 5)
    assert not leader.leading


async def test_the_lock_is_free_after_an_error(team: Team) -> None:
    async def fail(connection: Any) -> None:
        raise LookupError("a bug")

    team.join("a", work=fail)
    team.join("b")
    await eventually(lambda: "b" in team.beats)


async def test_waits_for_a_database_that_is_away(scratch: Scratch) -> None:
    tries = 0

    async def connect() -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise ConnectionRefusedError
        return await scratch.connection()

    led = asyncio.Event()

    async def work(connection: Any) -> None:
        led.set()

    leader = Leader("scheduler", connect, asyncio.Event(), retry=0.01)
    task = asyncio.create_task(leader.run(work))
    await asyncio.wait_for(led.wait(), 10)
    leader.stop.set()
    await asyncio.wait_for(task, 5)
    assert tries >= 4
