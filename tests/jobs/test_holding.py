"""Holding work back: the whole queue, a project, and how many jobs of a project run at a time."""

from __future__ import annotations

from typing import Any

import pytest

from anime_common import rpc
from anime_common.contracts.jobs import GET_QUEUE, HOLD_QUEUE, HoldQueue, JobChanges, PrioritizeJob, QueueState
from anime_common.contracts.projects import (
    CREATE_PROJECT,
    UPDATE_PROJECT,
    CreateProject,
    NewProject,
    ProjectChanges,
    UpdateProject,
)
from anime_common.contracts.vocabulary import Priority
from anime_common.messages import uuid7
from anime_common.rpc_contract import Empty
from anime_common.topology import GATEWAY
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World, ledger_running
from tests.jobs.test_service import known_model


async def ask(world: World, question: Any, about: Any) -> Any:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, question, about)


async def hold(world: World, *, paused: bool, reason: str = "") -> QueueState:
    found: QueueState = await ask(world, HOLD_QUEUE, HoldQueue(paused=paused, reason=reason))
    return found


async def change(world: World, **changes: Any) -> None:
    await ask(world, UPDATE_PROJECT, UpdateProject(project="academy", changes=ProjectChanges.model_validate(changes)))


async def messages(world: World) -> list[str | None]:
    return [entry.message for entry in (await ask(world, GET_QUEUE, Empty())).entries]


async def test_a_paused_queue_starts_nothing_and_says_why_also_after_a_restart(world: World) -> None:
    worker = Worker(world)
    async with ledger_running(world):
        await worker.beat()
        state = await hold(world, paused=True, reason="a game")
        assert (state.pause_reason, state.paused_since is not None) == ("a game", True)
        job_id = await world.submit()
        with pytest.raises(TimeoutError):
            await worker.offer(within=1.0)
        assert await messages(world) == ["the queue is paused: a game"]
        again = await hold(world, paused=True, reason="still")
        assert (again.paused_since, again.pause_reason) == (state.paused_since, "still")
    async with ledger_running(world):
        with pytest.raises(TimeoutError):
            await worker.offer(within=1.0)
        resumed = await hold(world, paused=False)
        assert (resumed.paused_since, resumed.pause_reason) == (None, "")
        assert [job.job_id for job in (await worker.offer()).jobs] == [job_id]


async def test_a_paused_project_waits_and_others_do_not(world: World, ledger: Service) -> None:
    worker = Worker(world)
    await worker.beat()
    await ask(world, CREATE_PROJECT, CreateProject(id=uuid7(), project=NewProject(name="Academy", paused=True)))
    waits = await world.submit(project="academy")
    goes = await world.submit()
    assert [job.job_id for job in (await worker.offer()).jobs] == [goes]
    assert "its project is paused" in await messages(world)
    await change(world, paused=False)
    other = Worker(world, name="w2")
    assert [job.job_id for job in (await other.offer()).jobs] == [waits]


async def test_no_more_of_its_jobs_run_than_a_project_may(world: World) -> None:
    async with ledger_running(world, offer_repeat=30.0):
        await ask(world, CREATE_PROJECT, CreateProject(id=uuid7(), project=NewProject(name="Academy", max_running=1)))
        jobs = [await world.submit(project="academy") for _ in range(3)]
        worker = Worker(world, fields={"slots": 3, "free_slots": 3})
        assert [job.job_id for job in (await worker.offer()).jobs] == jobs[:1]
        with pytest.raises(TimeoutError):
            await worker.offer(within=1.0)
        await change(world, max_running=None)
        left = {job.job_id for offer in [await worker.offer(), await worker.offer()] for job in offer.jobs}
        assert left == set(jobs[1:])


async def test_a_priority_that_is_raised_takes_effect_at_once(world: World) -> None:
    async with ledger_running(world, look_ahead=0):
        await known_model(world)
        jobs = [await world.submit(priority="batch") for _ in range(12)]
        changes = JobChanges(priority=Priority.NORMAL)
        await world.command(PrioritizeJob(job=str(jobs[-1]), changes=changes))
        state = await ask(world, GET_QUEUE, Empty())
        assert state.entries[0].job_id == jobs[-1]
        assert (await Worker(world).offer()).jobs[0].job_id == jobs[-1]
