"""The engine, the broker and the database die, lose their data or stand still while jobs are made."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from anime_common.messages import uuid7
from anime_gateway.idempotency import keyed_id
from tests.faults.breaking import all_completed, armed, children_of, frozen, several, taken
from tests.stacks import QUICK, Product
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

LOST_AFTER = float(QUICK["ANIME_WORKER_LOST_AFTER"])


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """While this file exists, the engine waits in the middle of a job; it is gone after the test, however that ends."""
    path = tmp_path / "gate"
    yield path
    path.unlink(missing_ok=True)


async def held(product: Product, gate: Path) -> str:
    """A job that runs, and waits in the middle of its sampling while the gate exists."""
    gate.touch()
    job = await taken(product, f"noop: hold_at=4 hold={gate}")
    await product.until(job, "running")
    await eventually(lambda: _at_step(product, job, 3), within=20)
    return job


async def _at_step(product: Product, job: str, step: int) -> bool:
    return bool((await product.job(job))["progress"].get("step") == step)


async def test_the_engine_is_killed_mid_sampling(faulty: Product, gate: Path) -> None:
    job = await held(faulty, gate)
    engines = children_of(faulty.stack.pids["generator"])
    assert engines
    for pid in engines:
        os.kill(pid, signal.SIGKILL)
    gate.unlink()
    done = await faulty.until(job, "completed")
    assert (done["attempt"], done["failures"]) == (2, 1)
    await faulty.audit(accepted=[job], dead=0)


async def test_the_generator_is_killed_mid_sampling(faulty: Product, gate: Path) -> None:
    job = await held(faulty, gate)
    faulty.stack.kill("generator")
    gate.unlink()
    done = await faulty.until(job, "completed")
    assert (done["attempt"], done["failures"]) == (2, 1)
    await faulty.audit(accepted=[job], dead=0)


@pytest.mark.parametrize("server", ["nats", "postgres"])
async def test_a_server_is_killed_mid_sampling(faulty: Product, gate: Path, server: str) -> None:
    job = await held(faulty, gate)
    waiting = await several(faulty, 3)
    faulty.stack.kill(server)
    gate.unlink()
    jobs = [job, *waiting, *await several(faulty, 3)]
    await all_completed(faulty, jobs)
    assert (await faulty.job(job))["attempt"] == 1
    await faulty.audit(accepted=jobs, dead=0)


async def test_the_broker_loses_its_disk(faulty: Product, gate: Path) -> None:
    job = await held(faulty, gate)
    waiting = await several(faulty, 3)
    await faulty.stack.halt("nats", signal.SIGKILL)
    shutil.rmtree(faulty.home / "nats" / "jetstream")
    await faulty.stack.resume("nats")
    gate.unlink()
    jobs = [job, *waiting, *await several(faulty, 3)]
    await all_completed(faulty, jobs)
    await faulty.audit(accepted=jobs, dead=0)


async def test_the_database_is_away_during_a_hundred_submits(faulty: Product) -> None:
    before = (await faulty.row("SELECT count(*) AS n FROM ledger.jobs"))["n"]
    await faulty.stack.halt("postgres", signal.SIGKILL)
    keys = [str(uuid7()) for _ in range(100)]

    async def submit(key: str) -> int:
        answer = await faulty.http.post("/jobs", json={"prompt": "noop:"}, headers={"Idempotency-Key": key})
        return answer.status_code

    try:
        told = await asyncio.gather(*map(submit, keys))
    finally:
        await faulty.stack.resume("postgres")
    assert set(told) <= {202, 503, 504}, Counter(told)
    promised = [str(keyed_id("job", key)) for key, status in zip(keys, told, strict=True) if status == 202]
    refused = [str(keyed_id("job", key)) for key, status in zip(keys, told, strict=True) if status == 503]
    assert promised
    await all_completed(faulty, promised)
    await faulty.audit(accepted=promised, dead=0)
    there = await faulty.row(
        "SELECT count(*) AS n, count(*) FILTER (WHERE id::text = ANY($1)) AS refused FROM ledger.jobs", refused
    )
    assert there["refused"] == 0
    assert len(promised) <= there["n"] - before <= len(promised) + told.count(504)


async def test_a_hundred_submits_without_a_database_outlive_the_broker_too(faulty: Product) -> None:
    before = (await faulty.row("SELECT count(*) AS n FROM ledger.jobs"))["n"]
    keys = [str(uuid7()) for _ in range(100)]
    promised: dict[str, str] = {}

    async def submit(key: str) -> bool:
        answer = await faulty.http.post("/jobs", json={"prompt": "noop:"}, headers={"Idempotency-Key": key})
        assert answer.status_code in {202, 503, 504}, answer.text
        if answer.status_code == 202:
            promised[key] = answer.json()["job_id"]
        return answer.status_code == 202

    async def until_taken(key: str) -> None:
        await eventually(lambda: submit(key), within=40)

    await faulty.stack.halt("postgres", signal.SIGKILL)
    try:
        await asyncio.gather(*map(until_taken, keys[:50]))
        await faulty.stack.halt("nats", signal.SIGKILL)
        await faulty.stack.resume("nats")
        await asyncio.gather(*map(until_taken, keys[50:]))
    finally:
        await faulty.stack.resume("postgres")
    assert promised == {key: str(keyed_id("job", key)) for key in keys}
    await all_completed(faulty, list(promised.values()))
    await faulty.audit(accepted=list(promised.values()), dead=0)
    assert (await faulty.row("SELECT count(*) AS n FROM ledger.jobs"))["n"] - before == 100


@pytest.mark.parametrize("part", ["jobs", "nats", "postgres"])
async def test_the_ledger_is_deaf_for_longer_than_the_loss_time(faulty: Product, gate: Path, part: str) -> None:
    job = await held(faulty, gate)
    async with frozen(faulty, part):
        await asyncio.sleep(LOST_AFTER + 1.5)  # the fault itself: nothing can be observed while it lasts
    gate.unlink()
    done = await faulty.until(job, "completed")
    assert (done["attempt"], done["failures"]) == (1, 0)
    await faulty.audit(accepted=[job], dead=0)


async def test_work_ends_while_the_ledger_is_deaf(faulty: Product, gate: Path) -> None:
    job = await held(faulty, gate)
    async with frozen(faulty, "jobs"):
        gate.unlink()
        await asyncio.sleep(LOST_AFTER + 1.5)  # the fault itself
    done = await faulty.until(job, "completed")
    assert (done["attempt"], done["failures"]) == (1, 0)
    await faulty.audit(accepted=[job], dead=0)


async def test_a_finished_fact_slower_than_the_heartbeat(faulty: Product) -> None:
    slow = LOST_AFTER + 1
    async with armed(faulty, "generator", f"generator.before_finished=sleep:{slow:g}"):
        job = await taken(faulty)
        done = await faulty.until(job, "completed")
    assert (done["attempt"], done["failures"]) == (1, 0)
    await faulty.audit(accepted=[job], dead=0)
