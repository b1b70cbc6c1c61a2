"""Starts the echo bridge: the composition root."""

from __future__ import annotations

from functools import partial

from anime_common import db, rpc
from anime_common.consume import Loop
from anime_common.http import Check
from anime_common.leader import Leader
from anime_common.outbox import Inbox, Relay, transaction
from anime_common.outcomes import Unavailable
from anime_common.service import Runtime, run
from anime_common.topology import ECHO, ECHO_COMMANDS
from anime_echo_bridge.handlers import HANDLERS, SERVICE, Bridge
from anime_echo_bridge.settings import EchoSettings

SCHEMA = "echo"
APPLICATION = "anime-echo-bridge"


async def build(runtime: Runtime[EchoSettings]) -> None:
    """Wire the service: consumer, relay, questions, health."""
    settings, bus, stop = runtime.settings, runtime.bus, runtime.stop
    dsn, password = settings.postgres_dsn, settings.postgres_secret()
    pool = await db.create_pool(
        dsn, schema=SCHEMA, application_name=APPLICATION, password=password, max_size=settings.postgres_pool
    )
    runtime.closing.push_async_callback(db.close, pool)
    connect = partial(db.connect, dsn, schema=SCHEMA, application_name=APPLICATION, password=password)
    relay = Relay(bus, SERVICE, poll=settings.echo_relay_interval)
    inbox = Inbox(pool, SERVICE, HANDLERS, relay.wake)
    runtime.checks["database"] = _database(pool)
    runtime.spawn(Leader("echo:relay", connect, stop).run(relay.run), "relay")
    runtime.spawn(Loop(bus, ECHO_COMMANDS, inbox.handle, stop, batch=settings.echo_batch).run(), "commands")
    await rpc.serve(bus, Bridge(pool).answers())


def _database(pool: db.Pool) -> Check:
    async def check() -> str | None:
        try:
            async with transaction(pool) as connection:
                await connection.execute("SELECT FROM optimizations LIMIT 1")
        except Unavailable as error:
            return str(error)
        return None

    return check


if __name__ == "__main__":
    run(SERVICE, ECHO, EchoSettings, build)
