"""Messages that come twice, late, in another order, or from a worker whose job was given away."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from anime_common.bus import Bus, Received
from anime_common.messages import uuid7
from anime_common.topology import ADMIN, FACTS, JOBS
from tests.faults.breaking import all_completed, armed, child_of, second_generator, several, taken
from tests.faults.oracle import everything
from tests.stacks import Product
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

COPY = "anime-copy"
TWICE = ("anime.cmd.>", "anime.evt.>", "anime.dispatch.*")


async def again(bus: Bus, subject: str, headers: dict[str, str], body: bytes) -> None:
    """Store a message once more: the same id for who reads it, another for the stream's own memory."""
    await bus.store(subject, {**headers, "Nats-Msg-Id": str(uuid7()), COPY: "1"}, body)


@asynccontextmanager
async def everything_twice(product: Product) -> AsyncIterator[list[str]]:
    """As soon as a message is stored, it is stored again; the subjects of those that were."""
    doubled: list[str] = []
    async with product.bus(ADMIN) as admin, product.bus(JOBS) as ledger:

        async def double(received: Received) -> None:
            if "ce-id" not in received.headers or COPY in received.headers:
                return
            bus = ledger if received.subject.startswith("anime.dispatch.") else admin
            headers = {name: value for name, value in received.headers.items() if name.startswith(("ce-", "trace"))}
            await again(bus, received.subject, headers, received.data)
            doubled.append(received.subject)

        for subject in TWICE:
            await admin.listen(subject, double)
        yield doubled


async def test_every_message_is_delivered_twice(faulty: Product) -> None:
    async with everything_twice(faulty) as doubled:
        jobs = await several(faulty, 10)
        await all_completed(faulty, jobs)
        await eventually(lambda: sum(".completed." in subject for subject in doubled) >= len(jobs))
    kinds = {".".join(subject.split(".")[1:4]) for subject in doubled}
    assert {"cmd.jobs.submit", "evt.jobs.filing", "evt.generator.finished", "evt.files.filed"} <= kinds, kinds
    assert any(subject.startswith("anime.dispatch.") for subject in doubled)
    report = await faulty.audit(accepted=jobs, dead=0)
    assert report.repeats >= 3 * len(jobs)


async def test_old_facts_under_new_ids_in_reverse_order_change_nothing(faulty: Product) -> None:
    jobs = await several(faulty, 3)
    await all_completed(faulty, jobs)
    before = [await faulty.job(job) for job in jobs]
    async with faulty.bus(ADMIN) as bus:
        facts = [each for each in await everything(bus, FACTS) if each.subject.rsplit(".", 1)[-1] in jobs]
        assert len(facts) >= 3 * len(jobs)
        for fact in reversed(facts):
            headers = {name: value for name, value in fact.headers.items() if name.startswith(("ce-", "trace"))}
            await again(bus, fact.subject, {**headers, "ce-id": str(uuid7())}, fact.data)
    await faulty.audit(accepted=jobs, dead=0)
    assert [await faulty.job(job) for job in jobs] == before


@pytest.mark.parametrize("errors", [3, 7])
async def test_facts_that_were_put_back_are_overtaken_by_later_ones(faulty: Product, errors: int) -> None:
    async with armed(faulty, "jobs", f"jobs.before_commit=error*{errors}") as points:
        jobs = await several(faulty, 6)
        await all_completed(faulty, jobs)
        await points.until_fired("jobs.before_commit", errors)
    await faulty.audit(accepted=jobs, dead=0)


async def test_a_frozen_generator_comes_back_after_its_job_was_given_away(faulty: Product) -> None:
    async with armed(faulty, "generator", "generator.before_finished=stop") as points:
        job = await taken(faulty)
        await points.until_fired("generator.before_finished")
        pid = faulty.stack.pids["generator"]
        first = await faulty.job(job)
        async with second_generator(faulty) as second:
            done = await faulty.until(job, "completed")
            assert done["worker"] == second != first["worker"]
            assert done["attempt_id"] != first["attempt_id"]
            frozen = await incarnation(faulty, first["worker"])
            os.kill(pid, signal.SIGCONT)
            await eventually(lambda: _reported(faulty, job, first["attempt_id"]), within=20)
            await eventually(lambda: _renewed(faulty, first["worker"], frozen), within=20)
    assert "action=renew" in child_of(faulty, "generator").output()
    assert (await faulty.job(job))["version"] == done["version"]
    after = await taken(faulty)
    assert (await faulty.until(after, "completed"))["worker"] == first["worker"]
    await faulty.audit(accepted=[job, after], dead=0)


async def incarnation(product: Product, worker: str) -> str:
    found = await product.row("SELECT incarnation::text FROM ledger.workers WHERE worker = $1", worker)
    return str(found["incarnation"])


async def _renewed(product: Product, worker: str, old: str) -> bool:
    return await incarnation(product, worker) != old


async def _reported(product: Product, job: str, attempt_id: str) -> bool:
    """Whether the late `finished` of that attempt is stored."""
    async with product.bus(ADMIN) as bus:
        facts = await bus.read(FACTS, 1, match=f"anime.evt.generator.finished.{job}")
    return any(json.loads(fact.data)["attempt_id"] == attempt_id for fact in facts)
