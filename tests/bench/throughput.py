"""Whole jobs a second through all five services, and how quickly a thousand are accepted at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from anime_common.topology import ADMIN, STREAMS
from tests.bench import costs, machine
from tests.bench.measures import rate, sustained
from tests.bench.running import BATCH_LIMIT, DURABILITY, Submitter, audited, measured, pids, submitter, until_ended
from tests.bench.tables import Cell, Result, Table
from tests.stacks import Product

WARM_UP = 20
AT_ONCE = 256
"""Submits that wait for their answer at a time."""

STATS_DELAY = 1.5
"""Seconds after which PostgreSQL's processes have told what they counted."""

Step = Callable[[Product], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of database and broker at one moment."""

    commits: int
    wal_fsyncs: int
    wal_bytes: int
    stored: int

    @classmethod
    async def read(cls, found: Product) -> Counts:
        """Read them, when they are up to date."""
        await asyncio.sleep(STATS_DELAY)
        row = await found.row(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,"
            " (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal')::bigint AS fsyncs,"
            " (SELECT wal_bytes FROM pg_stat_wal)::bigint AS bytes"
        )
        async with found.bus(ADMIN) as bus:
            stored = sum([(await bus.stream_state(stream.name)).last for stream in STREAMS])
        return cls(row["commits"], row["fsyncs"] or 0, row["bytes"], stored)

    def table(self, before: Counts, jobs: int) -> Table:
        """What each job cost since `before`."""
        rows = (
            (
                "transactions committed, reads included (PostgreSQL, all services)",
                (self.commits - before.commits) / jobs,
            ),
            ("WAL fsyncs (PostgreSQL)", (self.wal_fsyncs - before.wal_fsyncs) / jobs),
            ("WAL written, kB", (self.wal_bytes - before.wal_bytes) / jobs / 1000),
            ("messages stored, each with an fsync (NATS)", (self.stored - before.stored) / jobs),
        )
        return Table(("what", "per job"), rows, "Durable work")


async def run(parent: Path | None, jobs: int, before_audit: Step | None = None, within: float = 60.0) -> Result:
    """Submit as fast as they are accepted, wait for the last end, audit, and only then tell the rate.

    The audit may take `within` seconds, since some work goes on after the last end.
    """
    settings: dict[str, Cell] = {
        "jobs": jobs, "submits waiting at a time": AT_ONCE, "generators": 1, "batch limit": BATCH_LIMIT, **DURABILITY,
    }  # fmt: skip
    result = Result("throughput", "Whole jobs through all five services, no-op engine", settings)
    async with measured(parent) as found, submitter(found) as client:
        await warm_up(found, client)
        counts, running = await Counts.read(found), {**pids(found), "bench client": os.getpid()}
        before, began = costs.read(running), time.time()
        await submit_all(client, jobs)
        accepted = time.time() - began
        await until_ended(found, WARM_UP + jobs, within=60 + jobs / 5)
        spent = costs.Costs.between(before, costs.read(running), jobs, machine.cores())
        ends = [end for end in await _ends(found) if end > began]
        after = await Counts.read(found)
        if before_audit is not None:
            await before_audit(found)
        remark = await audited(found, client.accepted, within)
    assert len(ends) == jobs, f"{len(ends)} of {jobs} jobs ended"
    lasting, total = sustained(ends), rate(ends, began)
    result.numbers = {
        "sustained jobs/s": lasting, "total jobs/s": total, "accepted in s": accepted, "idle share": spent.idle,
        "CPU ms per job": sum(map(spent.per_job, spent.processes)),
    }  # fmt: skip
    rows = (
        ("sustained, 10 % to 90 %", lasting),
        ("from the first submit to the last end", total),
        ("accepted", jobs / accepted),
    )
    result.tables += [Table(("rate", "jobs/s"), rows), spent.table(), after.table(counts, jobs)]
    result.remarks += [
        f"Bottleneck: {spent.bottleneck()}.",
        f"Of the machine, {100 * spent.idle:.0f} % idled and {100 * spent.others:.0f} % went to other programs.",
        "Goal: 100 jobs/s sustained on 2 cores.",
        remark,
    ]
    return result


async def accepted_at_once(parent: Path | None, jobs: int) -> Result:
    """Submit all at once; how long until each has its answer."""
    result = Result("accepted", f"{jobs:,} jobs accepted", {"jobs": jobs, **DURABILITY})
    async with measured(parent) as found, submitter(found) as client:
        await warm_up(found, client)
        began = time.time()
        await asyncio.gather(*(client.submit(within=120) for _ in range(jobs)))
        took = client.answered_at - began
        await until_ended(found, WARM_UP + jobs, within=60 + jobs / 5)
        remark = await audited(found, client.accepted)
    result.numbers = {"seconds": took}
    rows = (("single submits over the bus, all at once, to the last `command_done`", took, jobs / took),)
    result.tables.append(Table(("way", "seconds", "jobs/s"), rows))
    result.remarks += ["Goal: 2 s for a batch. There are no batches yet: these are single submits.", remark]
    return result


async def warm_up(found: Product, client: Submitter) -> None:
    """Some jobs before the clock starts."""
    await submit_all(client, WARM_UP)
    await until_ended(found, WARM_UP, within=60)


async def submit_all(client: Submitter, jobs: int) -> None:
    """Submit, a bounded number waiting at a time."""
    left = iter(range(jobs))

    async def one_after_another() -> None:
        for _ in left:
            await client.submit()

    await asyncio.gather(*(one_after_another() for _ in range(min(AT_ONCE, jobs))))


async def _ends(found: Product) -> list[float]:
    rows = await found.rows("SELECT extract(epoch FROM ended_at)::float8 AS at FROM ledger.jobs ORDER BY 1")
    return [row["at"] for row in rows]
