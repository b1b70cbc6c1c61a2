"""The ledger on real NATS and PostgreSQL, with a worker, files and Echo played by hand."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from anime_common import rpc
from anime_common.bus import Bus, Received, Stored
from anime_common.contracts.echo import OptimizedPrompt, PromptOptimized
from anime_common.contracts.files import Filed
from anime_common.contracts.generator import (
    AbandonAttempt,
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CancelAttempt,
    FactPosition,
    Heartbeat,
    OfferedJob,
    Renew,
)
from anime_common.contracts.jobs import (
    GET_CATALOGUE,
    GET_WORKERS,
    CancelJob,
    CommandDone,
    CommandRefused,
    JobChanges,
    PrioritizeJob,
    RetryJob,
    SubmitJob,
)
from anime_common.contracts.vocabulary import JobState, LoraInfo, ModelInfo, Phase, Preset, Priority, Reached
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Empty
from anime_common.topology import ADMIN, DEAD, GATEWAY, STREAMS
from tests.builders import held, model_info, output, request, staged
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World, ledger_running
from tests.waiting import eventually


async def finish(world: World, worker: Worker, offered: OfferedJob) -> None:
    now = datetime.now(UTC)
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=now)
    await world.fact(
        AttemptFinished,
        worker,
        offered,
        engine="noop",
        device="cpu",
        settings=offered.settings,
        outputs=(staged(),),
        timings={Phase.SAMPLING: 0.5},
        finished_at=now,
    )


async def file(world: World, offered: OfferedJob, repeat: int = 0) -> None:
    await world.event("filing", offered.job_id)
    filed = Filed(job_id=offered.job_id, attempt_id=offered.attempt_id, repeat=repeat, epoch=1, outputs=(output(),))
    ident = f"1:files:filed:{offered.job_id}:{offered.attempt_id}" + (f":{repeat}" if repeat else "")
    await world.files.publish(Outgoing(filed, ident))


def listed(offered: OfferedJob, offer_id: UUID, **fields: Any) -> Any:
    return held(job_id=offered.job_id, attempt_id=offered.attempt_id, offer_id=offer_id, **fields)


async def test_a_job_runs_from_submit_to_completed(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit(seed=5)
    offer = await worker.offer()
    (offered,) = offer.jobs
    assert (offered.job_id, offered.settings.seed, offered.attempt) == (job_id, 5, 1)
    await finish(world, worker, offered)
    filing = await world.event("filing", job_id)
    assert (filing.attempt_id, filing.staged, filing.job.project) == (offered.attempt_id, (staged(),), "default")
    await file(world, offered)
    completed = await world.event("completed", job_id)
    assert completed.job.outputs[0].key == output().key
    view = await world.job(job_id)
    assert (view.state, view.progress.percent, view.timings) == (JobState.COMPLETED, 100, {Phase.SAMPLING: 0.5})
    wires = [each.wire.rpartition(".")[2] for each in world.events if getattr(each, "job", None)]
    assert wires == ["accepted", "command_done", "updated", "dispatched", "started", "filing", "completed"]


async def test_the_same_id_is_the_same_job_and_another_request_a_conflict(world: World, ledger: Service) -> None:
    job_id = await world.submit()
    again = await world.command(SubmitJob(job_id=job_id, request=request()))
    assert isinstance(again, CommandDone)
    assert again.status == 200
    other = await world.command(SubmitJob(job_id=job_id, request=request(prompt="something else")))
    assert isinstance(other, CommandRefused)
    assert (other.status, other.code) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({"project": "nowhere"}, 422, "unknown_project", "project"),
        ({"model": "unknown"}, 422, "unknown_model", "model"),
        ({"width": 2048}, 422, "invalid", "width"),
        ({"height": 1024}, 422, "invalid", "height"),
        ({"priority": "interactive"}, 403, "priority_not_allowed", "priority"),
    ],
)
async def test_what_cannot_be_is_refused_by_field(
    world: World, ledger: Service, fields: dict[str, Any], status: int, code: str, field: str
) -> None:
    await known_model(world)
    job_id = uuid7()
    answer = await world.command(SubmitJob(job_id=job_id, request=request(**fields)))
    assert isinstance(answer, CommandRefused)
    assert (answer.status, answer.code, answer.field) == (status, code, field)
    with pytest.raises(Refused) as refusal:
        await world.job(job_id)
    assert (refusal.value.status, refusal.value.field) == (410, field)


async def known_model(world: World, **fields: Any) -> Worker:
    """A worker has announced its model."""
    worker = Worker(world, fields=fields)
    pool = await world.database.pool("jobs")

    async def announced() -> bool:
        await worker.beat()
        return bool(await pool.fetchval("SELECT count(*) FROM models"))

    await eventually(announced, every=0.05)
    await pool.close()
    return worker


async def test_what_workers_announce_of_loras_is_in_the_catalogue(world: World, ledger: Service) -> None:
    ink = LoraInfo(key="ink-style", family="sd15", trigger_words=("ink style",), weight=0.7)
    ours = model_info(family="sd15", licence="OpenRAIL", presets=(Preset(name="fast", steps=6),))
    worker = Worker(world, fields={"models": (ours,)})
    shown: list[ModelInfo] = []

    async def announced(*expected: str) -> bool:
        async with connected(world.nats, GATEWAY) as gateway:
            found = await rpc.call(gateway, GET_CATALOGUE, Empty())
        shown[:] = [entry.model for entry in found.items]
        return [lora.key for model in shown for lora in model.loras] == [*expected]

    async def told_in_full() -> bool:
        await worker.beat(loras=(ink,))
        return await announced("ink-style")

    await eventually(told_in_full, every=0.05)
    assert shown == [ours.model_copy(update={"loras": (ink,)})]
    await worker.beat(brief=True, draining=True)

    async def told_briefly() -> bool:
        async with connected(world.nats, GATEWAY) as gateway:
            (found,) = (await rpc.call(gateway, GET_WORKERS, Empty())).items
        return found.heartbeat.draining

    await eventually(told_briefly, every=0.05)
    assert await announced("ink-style")
    await worker.beat()

    async def taken_back() -> bool:
        return await announced()

    await eventually(taken_back, every=0.05)


async def test_an_unreadable_command_is_refused_and_kept_as_a_dead_letter(
    world: World, ledger: Service, admin: Bus
) -> None:
    job_id = await world.submit()
    command_id = str(uuid7())
    headers = {"ce-id": command_id, "ce-type": "anime.jobs.submit.v1", "Nats-Msg-Id": command_id}
    body = b'{"job_id": "%s", "request": {"prompt": "x", "stepps": 3}}' % str(uuid7()).encode()
    await world.tower.store("anime.cmd.jobs.submit.tower", headers, body)
    answer = await world.answer(command_id)
    assert isinstance(answer, CommandRefused)
    assert (answer.status, answer.field) == (422, "request.stepps")
    letters: list[Stored] = []

    async def buried() -> bool:
        letters[:] = await admin.read(DEAD, 1)
        return bool(letters)

    await eventually(buried)
    (letter,) = letters
    assert letter.headers["anime-subject"] == "anime.cmd.jobs.submit.tower"
    assert letter.data == body
    assert (await world.job(job_id)).state is JobState.QUEUED


async def test_cancel_while_queued_dispatched_and_running(world: World, ledger: Service) -> None:
    worker = await known_model(world)
    worker.fields = {"draining": True}
    await worker.beat()
    queued = await world.submit()
    assert isinstance(await world.command(CancelJob(job=str(queued))), CommandDone)
    assert (await world.job(queued)).state is JobState.CANCELLED
    worker.fields = {}
    dispatched = await world.submit()
    offer = await worker.offer()
    assert isinstance(await world.command(CancelJob(job=str(dispatched))), CommandDone)
    assert (await world.job(dispatched)).state is JobState.CANCELLED
    await worker.beat(listed(offer.jobs[0], offer.offer_id))
    await eventually(lambda: any(isinstance(each.order, AbandonAttempt) for each in world.orders))
    running = await world.submit()
    offer = await worker.offer()
    (offered,) = offer.jobs
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=datetime.now(UTC))
    await world.event("started", running)
    await worker.beat(listed(offered, offer.offer_id, started=True))
    asked = await world.command(CancelJob(job=str(running)))
    assert isinstance(asked, CommandDone)
    assert (asked.job.state, asked.job.cancel_requested) == (JobState.RUNNING, True)
    await eventually(lambda: any(isinstance(each.order, CancelAttempt) for each in world.orders))
    await world.fact(AttemptCancelled, worker, offered, cancelled_at=datetime.now(UTC))
    await world.event("cancelled", running)


async def test_a_failed_attempt_is_tried_again_then_by_hand(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    for _ in range(3):
        (offered,) = (await worker.offer()).jobs
        now = datetime.now(UTC)
        await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=now)
        await world.fact(AttemptFailed, worker, offered, code="boom", message="it broke", retryable=True, failed_at=now)
    failed = await world.event("failed", job_id)
    assert (failed.job.failures, failed.job.error.code) == (3, "boom")
    assert isinstance(await world.command(RetryJob(job=failed.job.code)), CommandDone)
    (offered,) = (await worker.offer()).jobs
    assert (offered.job_id, offered.attempt) == (job_id, 4)


async def test_an_ignored_offer_is_repeated_then_given_again(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    first = await worker.offer()
    second = await worker.offer()
    assert (second.offer_id, second.repeat) == (first.offer_id, 1)
    fenced = await world.event("queued", job_id)
    assert (fenced.job.failures, fenced.job.attempt_id) == (0, None)
    while (offer := await worker.offer()).offer_id == first.offer_id:
        pass
    assert offer.jobs[0].attempt == 2


async def test_a_silent_worker_loses_its_job_and_must_renew(world: World) -> None:
    async with ledger_running(world, worker_lost_after=1.0):
        await _silence(world)


async def _silence(world: World) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    offer = await worker.offer()
    (offered,) = offer.jobs
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=datetime.now(UTC))
    await worker.beat(listed(offered, offer.offer_id, started=True))
    lost = await world.event("queued", job_id)
    assert (lost.job.failures, lost.job.error.code) == (1, "worker_lost")
    await worker.beat(listed(offered, offer.offer_id, started=True))
    await eventually(lambda: any(isinstance(each.order, Renew) for each in world.orders))
    await finish(world, worker, offered)
    fresh = Worker(world, incarnation=uuid7())
    (again,) = (await fresh.offer()).jobs
    assert (again.job_id, again.attempt) == (job_id, 2)
    await finish(world, fresh, again)
    await file(world, again)
    done = await world.event("completed", job_id)
    assert done.job.attempt == 2


async def test_how_far_a_lost_attempt_came_outlives_the_ledger(world: World) -> None:
    """The worker and the ledger die together, as when their machine does: what is left is what heartbeats stored."""
    worker = Worker(world)
    async with ledger_running(world, max_failures=1) as first:
        job_id = await world.submit()
        offer = await worker.offer()
        (offered,) = offer.jobs
        await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=datetime.now(UTC))
        await world.event("started", job_id)
        worker.fields = {"resident": ("noop", "another")}
        far = Reached(phase=Phase.SAMPLING, step=3, steps=4, percent=61.5)
        pool = await world.database.pool("jobs")

        async def stored() -> bool:
            await worker.beat(listed(offered, offer.offer_id, started=True, **dict(far)))
            return bool(await pool.fetchval("SELECT heartbeat::text LIKE '%61.5%' FROM workers"))

        await eventually(stored, within=20, every=0.1)
        await pool.close()
        assert first.runtime.failure is None
    async with ledger_running(world, max_failures=1, worker_lost_after=0.8):
        failed = await world.event("failed", job_id)
        assert failed.job.reached == far
        shown = (await world.job(job_id)).progress
        assert shown.state is JobState.FAILED
        assert Reached.model_validate(shown.model_dump()) == far


async def judged(world: World, beat: Heartbeat) -> None:
    """Return when the scheduler has judged a heartbeat: it tells the queue at the end of each look."""

    async def heard() -> bool:
        async with connected(world.nats, GATEWAY) as gateway:
            workers = (await rpc.call(gateway, GET_WORKERS, Empty())).items
        return any(each.heartbeat == beat for each in workers)

    await eventually(heard)
    told: asyncio.Queue[Received] = asyncio.Queue()
    stop = await world.tower.listen("anime.tel.queue", told.put)
    for _ in range(2):  # the look that ends next may have begun before
        await asyncio.wait_for(told.get(), 10)
    await stop()


async def test_a_finished_fact_slower_than_the_heartbeat_is_waited_for(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    offer = await worker.offer()
    (offered,) = offer.jobs
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=datetime.now(UTC))
    started = await world.event("started", job_id)
    created = (await world.generator.stream_state("ANIME_FACTS")).created
    ahead = FactPosition(stream_created=created, sequence=99)
    await judged(world, await worker.beat(last_fact=ahead))
    assert (await world.job(job_id)).version == started.job.version
    await finish(world, worker, offered)
    await world.event("filing", job_id)


async def test_filing_is_asked_for_again_until_answered(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    (offered,) = (await worker.offer()).jobs
    await finish(world, worker, offered)
    again = await world.event("filing", job_id, number=2)
    assert again.repeat == 1
    await file(world, offered, repeat=1)
    await world.event("completed", job_id)


async def test_echo_improves_the_prompt_or_the_job_goes_on_without(world: World, ledger: Service) -> None:
    worker = Worker(world)
    improved = await world.submit(optimize=True)
    answer = PromptOptimized(
        job_id=improved, job_version=1, epoch=1, result=OptimizedPrompt(prompt="1girl, solo", provider="builtin")
    )
    await world.echo.publish(Outgoing(answer, f"1:echo:optimized:{improved}:1"))
    (offered,) = (await worker.offer()).jobs
    assert offered.settings.prompt == "1girl, solo"
    await finish(world, worker, offered)
    await file(world, offered)
    without = await world.submit(optimize=True)
    (offered,) = (await worker.offer()).jobs
    assert (offered.job_id, offered.settings.prompt) == (without, "1girl, blue hair")
    assert "no answer from Echo" in ((await world.job(without)).prompt_note or "")


async def test_priority_and_pause_decide_the_order(world: World, ledger: Service) -> None:
    worker = await known_model(world)
    worker.fields = {"draining": True}
    await worker.beat()
    first, second = await world.submit(), await world.submit(priority="batch")
    third = await world.submit(not_before="2099-01-01T00:00:00Z")
    await world.command(PrioritizeJob(job=str(first), changes=JobChanges(paused=True)))
    await world.command(
        PrioritizeJob(job=str(third), changes=JobChanges(priority=Priority.NORMAL), clear_not_before=True)
    )
    worker.fields = {}
    order = []
    for _ in range(2):
        offer = await worker.offer()
        order.append(offer.jobs[0].job_id)
        await finish(world, worker, offer.jobs[0])
        await file(world, offer.jobs[0])
    assert order == [third, second]
    assert (await world.job(first)).progress.message == "paused"


async def test_only_one_of_two_instances_schedules_and_the_other_takes_over(world: World) -> None:
    worker = Worker(world)
    async with AsyncExitStack() as leader:
        await leader.enter_async_context(ledger_running(world))
        async with ledger_running(world):
            first = await world.submit()
            (offered,) = (await worker.offer()).jobs
            await finish(world, worker, offered)
            await file(world, offered)
            await world.event("completed", first)
            await leader.aclose()
            second = await world.submit()
            (offered,) = (await worker.offer()).jobs
            assert offered.job_id == second


async def test_a_broker_that_lost_everything_is_rebuilt_and_the_job_ends(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    async with connected(world.nats, ADMIN) as admin:
        for stream in STREAMS:
            await admin.api(f"STREAM.DELETE.{stream.name}")
    await world.nats.stop()
    await world.nats.start()
    offer = await worker.offer(within=20)
    assert offer.jobs[0].job_id == job_id
    await finish(world, worker, offer.jobs[0])
    await file(world, offer.jobs[0])
    await world.event("completed", job_id)
