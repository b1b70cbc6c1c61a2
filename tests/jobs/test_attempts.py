"""What is kept and shown of every attempt at a job, on real servers."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from anime_common import rpc, topology
from anime_common.contracts.files import FilingFailed
from anime_common.contracts.generator import AttemptFailed, AttemptReleased, AttemptStarted
from anime_common.contracts.jobs import GET_ATTEMPTS, Attempts, JobQuestion
from anime_common.contracts.vocabulary import Phase, Reached
from anime_common.messages import Outgoing
from anime_common.outcomes import Refused
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World
from tests.jobs.test_service import finish

FAR = Reached(phase=Phase.SAMPLING, step=9, steps=20, percent=46.0)


async def shown(world: World, job: UUID | str) -> Attempts:
    async with connected(world.nats, topology.GATEWAY) as gateway:
        return await rpc.call(gateway, GET_ATTEMPTS, JobQuestion(job=str(job)))


async def test_every_attempt_is_shown_with_why_it_ended_and_how_long_until_the_next(
    world: World, ledger: Service
) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    (first,) = (await worker.offer()).jobs
    now = datetime.now(UTC)
    await world.fact(AttemptStarted, worker, first, engine="noop", started_at=now)
    told = {"code": "engine_error", "message": "it broke", "retryable": True, "reached": FAR, "failed_at": now}
    await world.fact(AttemptFailed, worker, first, **told)
    (second,) = (await worker.offer()).jobs
    await world.fact(AttemptReleased, worker, second, reason="it drains", released_at=now)
    (third,) = (await worker.offer()).jobs
    found = await shown(world, job_id)
    assert (found.job_id, found.failures) == (job_id, 1)
    assert [(each.number, each.id) for each in found.items] == [
        (number, job.attempt_id) for number, job in enumerate((first, second, third), start=1)
    ]
    failed, released, held = found.items
    assert (failed.outcome, failed.code, failed.error, failed.reached) == ("failed", "engine_error", "it broke", FAR)
    assert failed.started_at == now
    assert failed.ended_at is not None
    assert failed.retry_delay is not None
    assert failed.retry_delay > 0
    assert (released.outcome, released.code, released.error) == ("released", None, "it drains")
    assert (released.reached, released.retry_delay) == (None, 0.0)
    assert (held.outcome, held.ended_at, held.retry_delay) == (None, None, None)
    assert await shown(world, found.job_code) == found


async def test_the_last_attempt_of_a_failed_job_has_none_to_follow(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    (offered,) = (await worker.offer()).jobs
    told = {"code": "bad_settings", "message": "no", "retryable": False, "failed_at": datetime.now(UTC)}
    await world.fact(AttemptFailed, worker, offered, **told)
    await world.event("failed", job_id)
    (only,) = (await shown(world, job_id)).items
    assert (only.outcome, only.code, only.retry_delay) == ("failed", "bad_settings", None)


async def test_an_attempt_whose_pictures_could_not_be_filed_says_so_and_stays_finished(
    world: World, ledger: Service
) -> None:
    worker = Worker(world)
    job_id = await world.submit()
    (offered,) = (await worker.offer()).jobs
    await finish(world, worker, offered)
    filing = await world.event("filing", job_id)
    answer = FilingFailed(
        job_id=job_id, attempt_id=offered.attempt_id, repeat=filing.repeat, epoch=1, code="staging_missing",
        message="it is gone", retryable=True,
    )  # fmt: skip
    await world.files.publish(Outgoing(answer, answer.ident()))
    (again,) = (await worker.offer()).jobs
    first, second = (await shown(world, job_id)).items
    assert (first.outcome, first.code, first.error) == ("finished", "staging_missing", "it is gone")
    assert first.retry_delay is not None
    assert (second.id, second.outcome, second.code) == (again.attempt_id, None, None)


async def test_a_job_that_is_not_there_has_no_attempts(world: World, ledger: Service) -> None:
    with pytest.raises(Refused) as refused:
        await shown(world, "zzzzzzzz")
    assert (refused.value.status, refused.value.code) == (404, "not_found")
