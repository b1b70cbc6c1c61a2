"""Any one part is restarted, between jobs and during one: the job ends well."""

from __future__ import annotations

import signal

import pytest

from anime_common.messages import uuid7
from tests.stacks import Product, data
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PARTS = ["jobs", "generator", "files", "echo", "gateway", "nats", "postgres"]


@pytest.mark.parametrize("part", PARTS)
async def test_between_jobs(noop: Product, part: str) -> None:
    before = await noop.submit("before")
    await noop.until(before["id"], "completed")
    await noop.stack.restart(part)
    after = await submitted(noop, "after")
    await noop.until(after, "completed")
    await noop.audit()


@pytest.mark.parametrize("part", PARTS)
async def test_during_a_job(noop: Product, part: str) -> None:
    job = await noop.submit("noop: step_ms=40", steps=40)
    await noop.until(job["id"], "running")
    await noop.stack.restart(part)
    done = await noop.until(job["id"], "completed")
    noop.picture(done)
    assert done["failures"] == 0, done
    await noop.audit()


@pytest.mark.parametrize("part", PARTS)
async def test_killed_during_a_job(noop: Product, part: str) -> None:
    job = await noop.submit("noop: step_ms=40", steps=40)
    await noop.until(job["id"], "running")
    noop.stack.kill(part, signal.SIGKILL)
    done = await noop.until(job["id"], "completed")
    noop.picture(done)
    await noop.audit()


async def test_how_far_a_stopped_job_came_outlives_gateway_and_ledger(noop: Product) -> None:
    job = await noop.submit("noop: step_ms=100", steps=100)

    async def under_way() -> bool:
        return bool((await noop.job(job["id"]))["progress"]["percent"] > 5)

    await eventually(under_way, within=30)
    await noop.http.post(f"/jobs/{job['id']}/cancel")
    seen = (await noop.until(job["id"], "cancelled"))["progress"]
    assert (seen["phase"], seen["steps"]) == ("sampling", 100)
    assert 0 < seen["step"] < 100
    assert 5 < seen["percent"] < 99
    told = {event.event: event for event in await noop.events(f"/jobs/{job['id']}/events")}
    assert data(told["snapshot"])["jobs"][0]["progress"] == seen
    for part in ("gateway", "jobs"):
        await noop.stack.restart(part)
        assert (await noop.job(job["id"]))["progress"] == seen


async def submitted(noop: Product, prompt: str) -> str:
    """Submit while a part may still be coming back: a 202 is a promise, 503 and 504 are honest."""
    key = {"Idempotency-Key": str(uuid7())}
    told = ""
    for _ in range(40):
        answer = await noop.http.post("/jobs", json={"prompt": prompt}, headers=key)
        if answer.status_code in {200, 201}:
            return str(answer.json()["id"])
        if answer.status_code == 202:
            return str(answer.json()["job_id"])
        told = answer.text
        assert answer.status_code in {503, 504}, told
    raise AssertionError(f"never taken: {told}")
