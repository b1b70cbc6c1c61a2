"""Failed jobs, run again by why they failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from anime_common import rpc
from anime_common.contracts.generator import AttemptFailed
from anime_common.contracts.jobs import RETRY_JOBS, Retried, RetryFilter
from anime_common.contracts.vocabulary import JobState
from anime_common.outcomes import Refused
from anime_common.topology import GATEWAY
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World


async def retry(world: World, **fields: Any) -> Retried:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, RETRY_JOBS, RetryFilter.model_validate(fields))


async def fail(world: World, worker: Worker, code: str) -> UUID:
    job_id = await world.submit()
    (offered,) = (await worker.offer()).jobs
    assert offered.job_id == job_id
    await world.fact(
        AttemptFailed,
        worker,
        offered,
        code=code,
        message="as said",
        retryable=False,
        counts=True,
        failed_at=datetime.now(UTC),
    )
    await world.event("failed", job_id)
    return job_id


async def states(world: World, *jobs: UUID) -> list[JobState]:
    return [(await world.job(job)).state for job in jobs]


async def test_those_of_one_code_are_run_again_and_no_others(world: World, ledger: Service) -> None:
    worker = Worker(world)
    memory = [await fail(world, worker, "out_of_memory") for _ in range(2)]
    other = await fail(world, worker, "bad_settings")
    dry = await retry(world, code="out_of_memory", dry_run=True)
    assert (dry.found, dry.retried, dry.codes, dry.more) == (2, 0, {"out_of_memory": 2}, False)
    assert await states(world, *memory) == [JobState.FAILED] * 2
    some = await retry(world, code="out_of_memory", limit=1)
    assert (some.retried, some.more) == (1, True)
    rest = await retry(world, code="out_of_memory")
    assert (rest.retried, rest.more) == (1, False)
    assert JobState.FAILED not in await states(world, *memory)
    assert await states(world, other) == [JobState.FAILED]
    assert (await retry(world, code="out_of_memory")).found == 0, "asked again, nothing is left"


async def test_by_project_model_and_time(world: World, ledger: Service) -> None:
    worker = Worker(world)
    job_id = await fail(world, worker, "bad_settings")
    model = (await world.job(job_id)).settings
    assert model is not None
    now = datetime.now(UTC)
    assert (await retry(world, since=(now + timedelta(hours=1)).isoformat())).found == 0
    assert (await retry(world, model="elsewhere")).found == 0
    found = await retry(world, project="default", model=model.model, since=(now - timedelta(hours=1)).isoformat())
    assert (found.retried, found.codes) == (1, {"bad_settings": 1})
    for wrong, code in (({"project": "nowhere"}, "unknown_project"), ({"batch": "zzzzzzzz"}, "not_found")):
        with pytest.raises(Refused) as refusal:
            await retry(world, **wrong)
        assert refusal.value.code == code


@pytest.mark.parametrize(
    "fields",
    [{}, {"dry_run": True}, {"limit": 5}, {"code": ""}, {"code": "x", "limit": 0}, {"since": 0}, {"since": "7"}],
)
def test_something_must_be_said(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetryFilter.model_validate(fields)
