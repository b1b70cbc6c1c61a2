"""A stretch of time, measured from real jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from anime_common import rpc
from anime_common.contracts.generator import AttemptFailed, AttemptFinished, AttemptStarted, OfferedJob
from anime_common.contracts.statistics import GET_HISTORY, History, StatsQuestion, Window
from anime_common.contracts.vocabulary import JobState, Phase, Priority
from anime_common.topology import GATEWAY
from tests.builders import staged
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World
from tests.jobs.test_service import file


async def history(world: World, window: Window = Window.DAY) -> History:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, GET_HISTORY, StatsQuestion(window=window))


async def run(world: World, worker: Worker, seconds: float, loading: float = 0.0) -> OfferedJob:
    """A job that is submitted, takes so long, and is completed."""
    await world.submit()
    (offered,) = (await worker.offer()).jobs
    begun = datetime.now(UTC) - timedelta(seconds=seconds)
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=begun)
    await world.fact(
        AttemptFinished,
        worker,
        offered,
        engine="noop",
        device="cpu",
        settings=offered.settings,
        outputs=(staged(),),
        timings={Phase.LOADING: loading, Phase.SAMPLING: seconds - loading},
        finished_at=datetime.now(UTC),
    )
    await file(world, offered)
    await world.event("completed", offered.job_id)
    return offered


async def test_an_empty_ledger_has_an_empty_history(world: World, ledger: Service) -> None:
    found = await history(world, Window.ALL)
    assert (found.since, found.completed, found.models, found.waits) == (None, 0, (), ())
    assert (found.files, found.bytes, found.eta_factor, found.echo.asked) == (0, 0, None, 0)


async def test_speeds_are_measured_against_the_target(world: World, ledger: Service) -> None:
    worker = Worker(world)
    for seconds, loading in ((10.0, 6.0), (20.0, 0.0), (40.0, 0.0)):
        await run(world, worker, seconds, loading)
    found = await history(world)
    (speed,) = found.models
    assert (speed.finished, speed.pictures) == (3, 3)
    assert speed.median_seconds == pytest.approx(20.0, abs=1.0)
    assert speed.p95_seconds == pytest.approx(38.0, abs=1.5)
    assert speed.within_target == pytest.approx(2 / 3, abs=1e-3)
    assert speed.median_loading == pytest.approx(6.0)
    assert (found.completed, found.submitted) == (3, {JobState.COMPLETED: 3})
    assert found.files == 3
    assert found.bytes > 0
    (waits,) = found.waits
    assert (waits.priority, waits.jobs) == (Priority.NORMAL, 3)


async def test_what_was_tried_again_is_told_with_why(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job = await world.submit()
    for code in ("engine_error", "engine_crashed"):
        (offered,) = (await worker.offer()).jobs
        told = {"code": code, "message": "no", "retryable": True, "failed_at": datetime.now(UTC)}
        await world.fact(AttemptFailed, worker, offered, **told)
    (offered,) = (await worker.offer()).jobs
    assert offered.job_id == job
    found = await history(world)
    assert (found.retries.attempts, found.retries.jobs) == (2, 1)
    assert found.retries.codes == {"engine_error": 1, "engine_crashed": 1}


async def test_what_was_before_the_window_does_not_count(world: World, ledger: Service) -> None:
    await run(world, Worker(world), 5.0)
    pool = await world.database.pool("jobs")
    await pool.execute(
        "UPDATE attempts SET dispatched_at = dispatched_at - interval '2 days',"
        " started_at = started_at - interval '2 days', ended_at = ended_at - interval '2 days'"
    )
    await pool.execute(
        "UPDATE jobs SET created_at = created_at - interval '2 days', ended_at = ended_at - interval '2 days'"
    )
    await pool.close()
    day, week = await history(world, Window.DAY), await history(world, Window.WEEK)
    assert (day.completed, day.models, day.waits, day.files) == (0, (), (), 0)
    assert (week.completed, len(week.models), len(week.waits), week.files) == (1, 1, 1, 1)


async def test_what_became_of_prompts(world: World, ledger: Service) -> None:
    await run(world, Worker(world), 1.0)
    pool = await world.database.pool("jobs")
    notes = {"builtin: added masterpiece": 2, "original prompt used: no answer from Echo in 20 s": 1}
    for note, count in notes.items():
        for _ in range(count):
            job = await world.submit()
            await pool.execute(
                "UPDATE jobs SET prompt_note = $2, request = request || '{\"optimize\": true}' WHERE id = $1", job, note
            )
    await pool.close()
    echo = (await history(world)).echo
    assert (echo.asked, echo.improved, echo.fell_back) == (3, 2, 1)
    assert echo.reasons == {"no answer from Echo in 20 s": 1}
