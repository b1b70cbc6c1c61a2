"""A gateway on real servers: NATS with the topology's permissions, uvicorn with the door's own protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog

from anime_cli.nats_server import NatsServer
from anime_common import http, provision, topology
from anime_common.bus import Bus
from anime_common.service import Runtime
from anime_common.topology import User
from anime_gateway.__main__ import SERVER, make
from anime_gateway.app import serve
from anime_gateway.deps import Gateway
from anime_gateway.settings import GatewaySettings
from tests.buses import connected
from tests.gateway.ledger import Ledger

Connect = Callable[[User], Awaitable[Bus]]
PATIENCE = 10.0
QUICK: dict[str, Any] = {"gateway_tail_check": 0.2, "gateway_submit_wait": 0.5, "gateway_publish_wait": 1.0}


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """As in a running service, stacks in logs are plain: drawing them with the values of all names takes seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture
async def connect(nats: NatsServer) -> AsyncIterator[Connect]:
    """Connects as a user of the topology to the test's server."""
    async with AsyncExitStack() as closing:

        async def connected_until_the_end(user: User) -> Bus:
            return await closing.enter_async_context(connected(nats, user))

        yield connected_until_the_end


@pytest_asyncio.fixture
async def ledger(connect: Connect) -> AsyncIterator[Ledger]:
    """The test's ledger, with all streams made."""
    found = Ledger(await connect(topology.JOBS), await connect(topology.GENERATOR))
    await provision.apply(found.bus)
    await found.start()
    yield found
    await found.deafen()


@dataclass(slots=True)
class Event:
    """One event as a client got it."""

    event: str
    data: Any
    id: str | None = None


class Stream:
    """A client of an event stream. `comments` counts heartbeats."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        """The next event; None at the end of the stream."""
        event, ident = "message", None
        data: list[str] = []
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if line == "" and data:
                    return Event(event, json.loads("\n".join(data)), ident)
                if name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                elif name == "id":
                    ident = value
                elif line.startswith(":"):
                    self.comments += 1
        return None

    async def until(self, found: Callable[[Event], bool]) -> list[Event]:
        """All events up to the first that is wanted."""
        events: list[Event] = []
        while True:
            event = await self.next()
            assert event is not None, f"the stream ended after {events}"
            events.append(event)
            if found(event):
                return events

    async def rest(self) -> list[Event]:
        """All events to the end of the stream."""
        events: list[Event] = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@dataclass(slots=True)
class Door:
    """A running gateway and a client of it."""

    gateway: Gateway
    runtime: Runtime[GatewaySettings]
    client: httpx.AsyncClient
    port: int

    @asynccontextmanager
    async def events(self, path: str = "/events", last_id: str | None = None) -> AsyncIterator[Stream]:
        """An open event stream."""
        headers = {"Last-Event-ID": last_id} if last_id is not None else {}
        async with self.client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            yield Stream(response)


OpenDoor = Callable[..., Awaitable[Door]]


@pytest_asyncio.fixture
async def open_door(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> AsyncIterator[OpenDoor]:
    """Starts a gateway with other settings."""
    async with AsyncExitStack() as stack:

        async def opened(**changes: Any) -> Door:
            settings = GatewaySettings(
                **(QUICK | changes),
                nats_url=nats.url,
                nats_password_file=nats.password_file("gateway"),
                artifacts_url=(tmp_path / "artifacts").as_uri(),
            )
            bus = await Bus.connect(settings, topology.GATEWAY)
            stack.push_async_callback(bus.close)
            runtime = Runtime("gateway", settings, bus, asyncio.Event(), {}, AsyncExitStack())
            gateway = make(runtime)
            hub = runtime.spawn(gateway.hub.run(runtime.stop), "hub")
            port = await stack.enter_async_context(http.running(serve(gateway), host="127.0.0.1", port=0, **SERVER))

            async def stop() -> None:
                runtime.stop.set()
                async with asyncio.timeout(PATIENCE):
                    await hub

            stack.push_async_callback(stop)
            base = f"http://127.0.0.1:{port}/api/anime"
            client = httpx.AsyncClient(base_url=base, timeout=PATIENCE, trust_env=False)
            await stack.enter_async_context(client)
            async with asyncio.timeout(PATIENCE):
                await gateway.hub.feed.ready.wait()
            return Door(gateway, runtime, client, port)

        yield opened


@pytest_asyncio.fixture
async def door(open_door: OpenDoor) -> Door:
    """A running gateway."""
    return await open_door()
