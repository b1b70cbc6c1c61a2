"""Submit → started on an idle stack, one job at a time, over HTTP and over the bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from httpx_sse import aconnect_sse

from tests.bench.measures import Spread
from tests.bench.running import DURABILITY, Submitter, audited, measured, submitter
from tests.bench.tables import Result, Table
from tests.stacks import Product, data

WARM_UP = 10
PAUSE = 0.05
"""Seconds between two samples, so that each finds an idle stack."""

GOAL = "Goal: p50 ≤ 15 ms, p99 ≤ 50 ms from sent to started."


@dataclass(slots=True)
class Watch:
    """Hears over SSE when jobs start and end; times are those of the wall clock."""

    started: dict[UUID, float] = field(default_factory=dict)
    _ended: dict[UUID, asyncio.Event] = field(default_factory=dict)

    def ended(self, job: UUID) -> asyncio.Event:
        """Set when the end of a job is heard."""
        return self._ended.setdefault(job, asyncio.Event())

    async def run(self, http: httpx.AsyncClient, ready: asyncio.Event) -> None:
        """Follow everything."""
        async with aconnect_sse(http, "GET", "/events", timeout=None) as source:
            async for event in source.aiter_sse():
                at = time.time()
                if event.event == "snapshot":
                    ready.set()
                if event.event == "job":
                    self._see(data(event), at)

    def _see(self, told: dict[str, Any], at: float) -> None:
        job = UUID(told["job"]["id"])
        if told["type"] == "started":
            self.started[job] = at
        elif told["type"] in {"completed", "failed", "cancelled"}:
            self.ended(job).set()


@asynccontextmanager
async def watching(found: Product) -> AsyncIterator[Watch]:
    """A client that follows everything, for one block."""
    watch, ready = Watch(), asyncio.Event()
    async with httpx.AsyncClient(base_url=found.http.base_url, trust_env=False) as http:
        task = asyncio.create_task(watch.run(http, ready))
        try:
            async with asyncio.timeout(20):
                await ready.wait()
            yield watch
        finally:
            task.cancel()
            await asyncio.wait({task})


async def sample(submit: Callable[[], Awaitable[UUID]], watch: Watch, count: int) -> dict[UUID, float]:
    """Submit one job after another, each when the last has ended; when each was sent, without the warm-up."""
    sent: dict[UUID, float] = {}
    for number in range(WARM_UP + count):
        began = time.time()
        job = await submit()
        if number >= WARM_UP:
            sent[job] = began
        async with asyncio.timeout(30):
            await watch.ended(job).wait()
        await asyncio.sleep(PAUSE)
    return sent


async def times(found: Product) -> dict[UUID, tuple[float, float]]:
    """When the ledger made the row of each job, and when its worker says that it began."""
    rows = await found.rows(
        "SELECT id, extract(epoch FROM created_at)::float8 AS made, extract(epoch FROM started_at)::float8 AS began"
        " FROM ledger.jobs"
    )
    return {row["id"]: (row["made"], row["began"]) for row in rows}


def spreads(door: str, sent: dict[UUID, float], watch: Watch, rows: dict[UUID, tuple[float, float]]) -> list[list[Any]]:
    """One row a way of measuring, in milliseconds."""
    ways = {
        "sent → worker began": [rows[job][1] - at for job, at in sent.items()],
        "row made → worker began (ledger's rows)": [rows[job][1] - rows[job][0] for job in sent],
        "sent → client sees `started` (SSE)": [watch.started[job] - at for job, at in sent.items()],
    }
    found = {way: Spread.of(1000 * each for each in values) for way, values in ways.items()}
    return [[door, way, each.count, each.p50, each.p99, each.worst] for way, each in found.items()]


async def run(parent: Path | None, samples: int) -> Result:
    """Measure both doors."""
    result = Result("started", "Submit → started, idle stack", {"samples a door": samples, **DURABILITY})
    async with measured(parent) as found, watching(found) as watch, submitter(found) as client:
        doors: dict[str, Callable[[], Awaitable[UUID]]] = {"HTTP": _over_http(found), "bus": client.submit}
        sent = {door: await sample(submit, watch, samples) for door, submit in doors.items()}
        remark = await audited(found, _accepted(sent, client))
        rows = await times(found)
    lines = [line for door, each in sent.items() for line in spreads(door, each, watch, rows)]
    result.tables.append(Table(("door", "from → to", "jobs", "p50 ms", "p99 ms", "worst ms"), lines))
    for door, way, _, p50, p99, _ in lines:
        if way == "sent → worker began":
            result.numbers |= {f"{door} p50 ms": p50, f"{door} p99 ms": p99}
    result.remarks += [GOAL, remark]
    return result


def _over_http(found: Product) -> Callable[[], Awaitable[UUID]]:
    async def submit() -> UUID:
        return UUID((await found.submit("noop:"))["id"])

    return submit


def _accepted(sent: dict[str, dict[UUID, float]], client: Submitter) -> set[UUID]:
    return {job for each in sent.values() for job in each} | client.accepted
