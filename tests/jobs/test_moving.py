"""Waiting jobs put in another order inside their project, and when they are told to end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from anime_common import rpc
from anime_common.contracts.generator import AttemptFinished, AttemptStarted, OfferedJob
from anime_common.contracts.jobs import (
    GET_QUEUE,
    CommandDone,
    CommandRefused,
    JobChanges,
    Move,
    PrioritizeJob,
    QueueState,
)
from anime_common.contracts.projects import CREATE_PROJECT, CreateProject, NewProject
from anime_common.contracts.vocabulary import Phase, Priority
from anime_common.db import Pool
from anime_common.messages import uuid7
from anime_common.rpc_contract import Empty
from anime_common.topology import GATEWAY
from tests.builders import staged
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World, ledger_running
from tests.jobs.test_service import file, known_model
from tests.waiting import eventually


async def state(world: World) -> QueueState:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, GET_QUEUE, Empty())


async def line_up(world: World) -> list[UUID]:
    return [entry.job_id for entry in (await state(world)).entries]


async def change(world: World, job: UUID, **changes: Any) -> CommandDone | CommandRefused:
    return await world.command(PrioritizeJob(job=str(job), changes=JobChanges.model_validate(changes)))


async def waiting_jobs(world: World, count: int, **fields: Any) -> list[UUID]:
    await known_model(world, slots=0, free_slots=0)
    return [await world.submit(**fields) for _ in range(count)]


async def test_a_job_goes_before_or_after_another_or_to_an_end(world: World, ledger: Service) -> None:
    a, b, c, d = await waiting_jobs(world, 4)
    await change(world, d, before=str(b))
    assert await line_up(world) == [a, d, b, c]
    await change(world, a, after=str(b))
    assert await line_up(world) == [d, b, a, c]
    await change(world, c, move=Move.FRONT)
    assert await line_up(world) == [c, d, b, a]
    done = await change(world, c, move=Move.BACK)
    assert isinstance(done, CommandDone)
    assert await line_up(world) == [d, b, a, c]
    newest = await world.submit()
    assert await line_up(world) == [d, b, a, c, newest]


async def test_what_is_moved_first_is_offered_first(world: World, ledger: Service) -> None:
    _, _, last = await waiting_jobs(world, 3)
    await change(world, last, move=Move.FRONT)
    assert (await Worker(world).offer()).jobs[0].job_id == last


async def test_there_is_always_room_between_two_jobs(world: World, ledger: Service) -> None:
    """Far more moves to one spot than a number has digits."""
    first, second, *others = await waiting_jobs(world, 4)
    for turn in range(70):
        done = await change(world, others[turn % 2], before=str(second))
        assert isinstance(done, CommandDone)
    assert await line_up(world) == [first, others[0], others[1], second]


async def test_jobs_of_one_moment_can_be_put_in_order(world: World, ledger: Service) -> None:
    jobs = await waiting_jobs(world, 5)
    pool = await world.database.pool("jobs")
    await pool.execute("UPDATE jobs SET place = 1000")
    await pool.close()
    before = await line_up(world)
    await change(world, before[4], before=str(before[1]))
    assert await line_up(world) == [before[0], before[4], *before[1:4]]
    assert set(before) == set(jobs)


async def test_a_move_may_change_the_class_with_it(world: World, ledger: Service) -> None:
    slow, mover = await waiting_jobs(world, 2, priority="batch")
    quick, quicker = [await world.submit() for _ in range(2)]
    refused = await change(world, mover, before=str(quicker))
    assert isinstance(refused, CommandRefused)
    assert (refused.status, refused.code, refused.field) == (409, "other_priority", "before")
    done = await change(world, mover, before=str(quicker), priority="normal")
    assert isinstance(done, CommandDone)
    assert done.job is not None
    assert done.job.priority is Priority.NORMAL
    assert await line_up(world) == [quick, mover, quicker, slow]


async def test_what_cannot_be_is_refused_and_nothing_changes(world: World, ledger: Service) -> None:
    a, b = await waiting_jobs(world, 2)
    async with connected(world.nats, GATEWAY) as gateway:
        await rpc.call(gateway, CREATE_PROJECT, CreateProject(id=uuid7(), project=NewProject(name="Academy")))
    stranger = await world.submit(project="academy")
    refusals = {
        "not_found": {"before": "zzzzzzzz", "priority": "batch"},
        "other_project": {"after": str(stranger), "priority": "batch"},
        "invalid": {"before": str(a), "priority": "batch"},
    }
    for code, changes in refusals.items():
        answer = await change(world, a, **changes)
        assert isinstance(answer, CommandRefused)
        assert answer.code == code
    assert (await world.job(a)).priority is Priority.NORMAL
    assert (await world.job(a)).version == 1
    given = (await Worker(world, name="w2").offer()).jobs[0].job_id
    assert given == a
    for mover, changes in ((a, {"before": str(b)}), (b, {"before": str(a)})):
        answer = await change(world, mover, **changes)
        assert isinstance(answer, CommandRefused)
        assert answer.code == ("too_late" if mover == a else "not_waiting")


def test_one_place_at_a_time() -> None:
    with pytest.raises(ValueError, match="give one of before, after, move"):
        JobChanges(before="abcd1234", move=Move.FRONT)


async def measured(world: World, seconds: float, loading: float) -> Worker:
    """A worker whose only job took so long, and which takes no other yet."""
    worker = Worker(world)
    job = await world.submit()
    (offered,) = (await worker.offer()).jobs
    assert offered.job_id == job
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=began)
    await complete(world, worker, offered, {Phase.LOADING: loading, Phase.SAMPLING: seconds - loading})
    worker.fields = {"slots": 0, "free_slots": 0, "resident": ()}
    await worker.beat()
    return worker


async def complete(world: World, worker: Worker, offered: OfferedJob, timings: dict[Phase, float]) -> None:
    await world.fact(
        AttemptFinished,
        worker,
        offered,
        engine="noop",
        device="cpu",
        settings=offered.settings,
        outputs=(staged(),),
        timings=timings,
        finished_at=datetime.now(UTC),
    )
    await world.event("filing", offered.job_id)
    await file(world, offered)
    await world.event("completed", offered.job_id)


async def foreseen(pool: Pool, job: UUID) -> float | None:
    """In how many seconds a job was told to end."""
    found = await pool.fetchval("SELECT extract(epoch FROM foreseen_end - foreseen_at) FROM jobs WHERE id = $1", job)
    return None if found is None else float(found)


async def test_what_ended_says_when_the_waiting_jobs_will_and_that_is_held_against_what_comes(world: World) -> None:
    async with ledger_running(world, look_ahead=0, offer_repeat=30.0):
        worker = await measured(world, 20.0, loading=4.0)
        first, second = [await world.submit() for _ in range(2)]

        async def told() -> bool:
            await worker.beat()
            return all(entry.eta_seconds is not None for entry in (await state(world)).entries)

        await eventually(told, within=25)
        found = (await state(world)).entries
        assert [entry.job_id for entry in found] == [first, second]
        assert [entry.eta_seconds for entry in found] == pytest.approx([20.0, 36.0], abs=1.0)
        pool = await world.database.pool("jobs")

        async def kept(seconds: float) -> bool:
            await worker.beat()
            return await foreseen(pool, second) == pytest.approx(seconds, abs=1.0)

        await eventually(lambda: kept(36.0))
        await change(world, second, move=Move.FRONT)
        await eventually(lambda: kept(20.0))
        await pool.close()

        before = REGISTRY.get_sample_value("anime_eta_ratio_count") or 0.0
        hopeful = REGISTRY.get_sample_value("anime_eta_ratio_bucket", {"le": "10.0"}) or 0.0
        worker.fields = {}
        (offered,) = (await worker.offer()).jobs
        assert offered.job_id == second
        await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=datetime.now(UTC))
        await complete(world, worker, offered, {Phase.SAMPLING: 0.1})
        assert REGISTRY.get_sample_value("anime_eta_ratio_count") == before + 1
        # It came far sooner than in the 20 s that were told, by more than ten times.
        assert (REGISTRY.get_sample_value("anime_eta_ratio_bucket", {"le": "10.0"}) or 0.0) in {hopeful, hopeful + 1}


async def test_a_job_that_is_given_at_once_is_told_of_as_well(world: World) -> None:
    async with ledger_running(world, look_ahead=0, offer_repeat=30.0):
        worker = await measured(world, 20.0, loading=0.0)
        pool = await world.database.pool("jobs")
        # What was learned before is kept for some seconds: only then the new sample counts.
        worker.fields = {}

        async def known() -> bool:
            job = await world.submit()
            (offered,) = (await worker.offer()).jobs
            assert offered.job_id == job
            found = await foreseen(pool, job)
            now = datetime.now(UTC)
            await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=now - timedelta(seconds=20))
            await complete(world, worker, offered, {Phase.SAMPLING: 20.0})
            return found is not None and found == pytest.approx(20.0, abs=2.0)

        await eventually(known, within=25)
        await pool.close()
