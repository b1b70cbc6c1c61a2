"""SSE through one gateway process: events a second to many clients, and how many idle ones it holds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anime_common.bus import Bus
from anime_common.contracts.jobs import Job, JobQueued
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Outgoing, uuid7
from anime_common.topology import JOBS
from tests.bench import costs, machine
from tests.bench.running import allow_open_files, measured
from tests.bench.tables import Cell, Result, Table
from tests.stacks import ROOT, Product

RATES = (4, 6, 8, 9, 10, 12, 14, 16)
"""Events published a second in one round each; every client gets every event."""
GOAL_RATE, GOAL_P99 = 8000, 250.0
BURST = 100
PATIENCE = 30
"""Seconds after its last event in which a round must have reached everybody."""

HOW = (
    f"Goals: {GOAL_RATE:,} events/s to 1,000 clients with p99 ≤ {GOAL_P99:.0f} ms; 5,000 held connections. An event is"
    " stamped when it is published to the broker and counted when a client has it. Clients, gateway, broker and all"
    " other services share the cores."
)
SPARE_FILES = 500
"""Open files that the gateway needs besides its clients."""


@dataclass(slots=True)
class Crowd:
    """The process with the clients."""

    process: asyncio.subprocess.Process
    clients: int

    async def heard(self, number: int, count: int, within: int) -> dict[str, float]:
        """What the clients heard of a round of so many events, once all have all or the time (seconds) is over."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number} {count} {within}\n".encode())
        return await self.answer(within + 30)

    async def answer(self, within: float) -> dict[str, Any]:
        """The next line it says; raises AssertionError with its last words when it says none."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), within)
        if not line:
            words = (await self.process.stderr.read()).decode()
            raise AssertionError(f"the clients ended: {words.splitlines()[-1:]}")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def crowd(url: str, clients: int) -> AsyncIterator[Crowd]:
    """So many clients that follow everything, for one block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.sse_client", f"{url}/api/anime/events", str(clients), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        made = Crowd(process, clients)
        assert (await made.answer(120))["connected"] == clients
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(slots=True)
class Publisher:
    """Publishes events of the ledger about a job that is not: stored, then republished, as every event is."""

    bus: Bus
    job: Job
    round: int = 0
    _version: int = 0
    _sent: list[asyncio.Task[Any]] = field(default_factory=list)

    async def play(self, count: int, per_second: float) -> int:
        """Publish a round, evenly spaced (0: at once); returns its number."""
        self.round += 1
        began, tasks = time.monotonic(), []
        for index in range(count):
            if per_second:
                await asyncio.sleep(max(began + index / per_second - time.monotonic(), 0))
                tasks.append(asyncio.create_task(self._publish(index)))
            else:
                await self._publish(index)
        await asyncio.gather(*tasks)
        return self.round

    async def _publish(self, index: int) -> None:
        self._version += 1
        note = f"bench-{self.round}-{index}-{time.time_ns()}"
        event = JobQueued(job=self.job.model_copy(update={"version": self._version, "prompt_note": note}))
        await self.bus.publish(Outgoing(event, f"bench:{self.job.id}:{self._version}"), timeout=10)


@asynccontextmanager
async def publisher(found: Product) -> AsyncIterator[Publisher]:
    """One that tells about a real job under another id, for one block."""
    done = await found.submit("noop:")
    await found.until(done["id"], "completed")
    job = Job.model_validate(await found.job(done["id"]))
    async with found.bus(JOBS) as bus:
        yield Publisher(bus, job.model_copy(update={"id": uuid7(), "state": JobState.QUEUED}))


async def run(parent: Path | None, clients: int, seconds: int, held: int, rates: Sequence[int] = RATES) -> Result:
    """Rounds of growing rates to `clients`, then `held` idle connections."""
    settings: dict[str, Cell] = {"clients": clients, "seconds a rate": seconds, "gateway processes": 1}
    result = Result("sse", "Server-sent events through one gateway process", settings)
    async with measured(parent) as found, publisher(found) as source:
        async with crowd(found.stack.url, clients) as listening:
            await _rates(result, found, source, listening, [(rate, rate * seconds) for rate in rates])
        await _hold(result, found, source, held)
    result.remarks.append(HOW)
    return result


async def _rates(
    result: Result, found: Product, source: Publisher, listening: Crowd, rounds: Sequence[tuple[int, int]]
) -> None:
    lines: list[tuple[Cell, ...]] = []
    best = 0
    await listening.heard(await source.play(5, 5), 5, 30)  # warm-up
    pids = {"gateway": found.stack.pids["gateway"], "clients": listening.process.pid}
    for per_second, count in (*rounds, (0, BURST)):
        before = costs.read(pids)
        told = await listening.heard(await source.play(count, per_second), count, PATIENCE)
        spent = costs.Costs.between(before, costs.read(pids), 1, machine.cores())
        assert not told["wrong"], f"{told['wrong']:.0f} clients did not get every event once and in order"
        assert told["events"] == count * listening.clients
        rate = told["events"] / max(told["seconds"], 1e-3)
        wanted = per_second * listening.clients
        kept = bool(per_second) and told["p99"] <= GOAL_P99
        best = max(best, wanted) if kept else best
        gateway = 100 * spent.processes["gateway"] / spent.seconds
        lines.append(
            (
                f"{wanted:,}" if per_second else f"{BURST} events at once",
                rate,
                told["p50"],
                told["p99"],
                told["worst"],
                gateway,
            )
        )
        if not per_second:
            result.numbers["burst events/s"] = rate
    columns = ("offered events/s", "delivered events/s", "p50 ms", "p99 ms", "worst ms", "gateway, % of a core")
    result.tables.append(Table(columns, lines, f"To {listening.clients:,} clients"))
    result.numbers["events/s within the goal's p99"] = best
    result.remarks.append("Audit: in every row, each client got each event once and in order.")


async def _hold(result: Result, found: Product, source: Publisher, held: int) -> None:
    most = allow_open_files() - SPARE_FILES
    if held > most:
        result.remarks.append(f"The limit of open files allows {most:,} connections, not {held:,}.")
        held = most
    gateway = found.stack.pids["gateway"]
    before = costs.rss_bytes(gateway)
    async with crowd(found.stack.url, held) as listening:
        after = costs.rss_bytes(gateway)
        told = await listening.heard(await source.play(5, 1), 5, 60)
    assert not told["wrong"], f"{told['wrong']:.0f} of {held} held connections did not get every event"
    each = (after - before) / held / 1000
    result.numbers |= {"held connections": held, "kB a connection": each}
    rows = ((held, before / 1e6, after / 1e6, each, told["p50"], told["p99"]),)
    columns = (
        "connections",
        "gateway MB before",
        "gateway MB with them",
        "kB each",
        "p50 ms of 5 events, 1 a second",
        "p99 ms",
    )
    result.tables.append(Table(columns, rows, "Held, idle"))
