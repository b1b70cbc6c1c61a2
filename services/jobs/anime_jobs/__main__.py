"""Composition root of the ledger."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from anime_common import db, outbox, rpc, topology
from anime_common.consume import Loop
from anime_common.contracts.jobs import PREVIEW_PROMPT
from anime_common.leader import Leader
from anime_common.outbox import Inbox, Relay, transaction
from anime_common.outcomes import Unavailable
from anime_common.pull import Pulled
from anime_common.service import Runtime, run
from anime_jobs import books, store
from anime_jobs.dispatcher import Dispatcher
from anime_jobs.fleet import Fleet
from anime_jobs.handlers import HANDLERS, Ledger, dead_command
from anime_jobs.previewing import Previews
from anime_jobs.queries import Queries
from anime_jobs.settings import JobsSettings

log = structlog.get_logger(__name__)

SCHEMA = "ledger"


async def build(runtime: Runtime[JobsSettings]) -> None:
    """Wire the ledger: two consumers into one inbox, one relay, one scheduler, and the questions."""
    settings, bus, stop = runtime.settings, runtime.bus, runtime.stop
    password = settings.postgres_secret()
    pool = await db.create_pool(
        settings.postgres_dsn,
        schema=SCHEMA,
        application_name="anime-jobs",
        password=password,
        max_size=settings.postgres_pool,
    )
    runtime.closing.push_async_callback(db.close, pool)
    ledger = Ledger(settings, await _epoch(pool))
    fleet = Fleet()
    relay = Relay(bus, "jobs")
    connect = partial(
        db.connect, settings.postgres_dsn, schema=SCHEMA, application_name="anime-jobs-leader", password=password
    )
    lead_relay = Leader("ledger:relay", connect, stop, idle_timeout=settings.leader_idle_timeout)
    lead_scheduler = Leader("ledger:scheduler", connect, stop, idle_timeout=settings.leader_idle_timeout)
    queries = Queries(pool, ledger, fleet, lambda: lead_scheduler.leading, relay.wake)
    dispatcher = Dispatcher(bus, ledger, fleet, queries, relay.wake)

    def committed() -> None:
        queries.changed()
        relay.wake()
        dispatcher.wake()

    handlers = {message: partial(handler, ledger) for message, handler in HANDLERS.items()}
    inbox = Inbox(pool, "jobs", handlers, committed, work=books.of_batch)

    async def on_dead(message: Pulled, reason: str, field: str | None) -> None:
        answer = dead_command(ledger, message, reason, field)
        if answer is not None:
            async with transaction(pool) as connection:
                await outbox.add(connection, [answer], "jobs")
            relay.wake()

    bus.on_reconnect(dispatcher.topology_changed)
    await bus.listen("anime.tel.generator.*", dispatcher.on_heartbeat)
    previews = Previews(pool, fleet, bus, settings.worker_lost_after)
    await rpc.serve(bus, {**queries.table(), PREVIEW_PROMPT: previews.preview})
    runtime.spawn(lead_relay.run(relay.run), "relay")
    runtime.spawn(lead_scheduler.run(dispatcher.run), "scheduler")
    runtime.spawn(Loop(bus, topology.JOBS_COMMANDS, inbox.handle, stop, on_dead=on_dead).run(), "commands")
    runtime.spawn(Loop(bus, topology.JOBS_FACTS, inbox.handle, stop).run(), "facts")

    async def database_check() -> str | None:
        async with pool.acquire(timeout=1.5) as connection:
            await connection.fetchval("SELECT 1")
        return None

    async def streams_check() -> str | None:
        for stream in topology.STREAMS:
            await bus.stream_state(stream.name)
        return None

    runtime.checks["database"] = database_check
    runtime.checks["streams"] = streams_check


async def _epoch(pool: db.Pool) -> int:
    """The ledger's epoch, waiting for the database as long as it takes."""
    pause = 0.1
    while True:
        try:
            async with transaction(pool) as connection:
                return await store.epoch(connection)
        except Unavailable as error:
            log.warning("database_unreachable", error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


if __name__ == "__main__":
    run("jobs", topology.JOBS, JobsSettings, build)
