"""The bus of a test: connections as any user of the topology, and a service of ours running in the test's process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_common import provision
from anime_common.bus import Bus
from anime_common.messages import Message, decode, read_envelope
from anime_common.service import Build, Runtime
from anime_common.settings import ServiceSettings
from anime_common.topology import ADMIN, JOBS, User

Connect = Callable[[NatsServer, User], Coroutine[Any, Any, Bus]]
S = TypeVar("S", bound=ServiceSettings)


def settings_of(server: NatsServer, user: User) -> ServiceSettings:
    """The settings of a service that uses `server` as `user`."""
    return ServiceSettings(nats_url=server.url, nats_password_file=server.password_file(user.name))


@asynccontextmanager
async def connected(server: NatsServer, user: User) -> AsyncIterator[Bus]:
    """A connection as `user`, for one block."""
    bus = await asyncio.wait_for(Bus.connect(settings_of(server, user), user), 10)
    try:
        yield bus
    finally:
        await bus.close()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects as a user; closes every connection at the end."""
    async with AsyncExitStack() as closing:

        async def connected_until_the_end(server: NatsServer, user: User) -> Bus:
            return await closing.enter_async_context(connected(server, user))

        yield connected_until_the_end


@pytest_asyncio.fixture
async def ledger(nats: NatsServer, connect: Connect) -> Bus:
    """The ledger's side of the test's own bus: connected as `jobs`, with all streams and consumers made.

    Where a test needs more of a ledger than its connection, its folder has a fixture of this name that gives more.
    """
    bus = await connect(nats, JOBS)
    await provision.apply(bus)
    return bus


@pytest_asyncio.fixture
async def admin(nats: NatsServer, connect: Connect) -> Bus:
    """The owner of the server, who may read every stream."""
    return await connect(nats, ADMIN)


async def stored(bus: Bus, stream: str) -> list[tuple[str, Message]]:
    """The ids and messages of a stream that holds no more than one batch, in order."""
    found = await bus.read(stream, 1)
    envelopes = [read_envelope(each.subject, each.headers) for each in found]
    return [(envelope.id, decode(envelope, each.data)) for envelope, each in zip(envelopes, found, strict=True)]


@asynccontextmanager
async def running(user: User, settings: S, build: Build[S], *, grace: float = 15.0) -> AsyncIterator[Runtime[S]]:
    """A service in this process, up until the block ends; by then it must have stopped in order, and not failed.

    `grace` is how many seconds its tasks may take to end.
    """
    bus = await asyncio.wait_for(Bus.connect(settings, user), 10)
    runtime = Runtime(user.name, settings, bus, asyncio.Event(), {}, AsyncExitStack())
    try:
        await build(runtime)
        yield runtime
    finally:
        runtime.stop.set()
        late = (await asyncio.wait(set(runtime.tasks), timeout=grace))[1] if runtime.tasks else set()
        try:
            await runtime.closing.aclose()
        finally:
            await bus.close()
        assert not late
    assert runtime.failure is None, runtime.failure
