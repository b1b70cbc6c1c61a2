"""Connections to a test's own NATS server, and the server with the topology applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_common import db, provision
from anime_common.bus import Bus
from anime_common.messages import uuid7
from anime_common.settings import ServiceSettings
from anime_common.topology import JOBS, User

Connect = Callable[[NatsServer, User], Coroutine[Any, Any, Bus]]


def settings_of(server: NatsServer, user: User) -> ServiceSettings:
    """The settings of a service that uses `server` as `user`."""
    return ServiceSettings(nats_url=server.url, nats_password_file=server.password_file(user.name))


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects as a user; closes every connection at the end."""
    made: list[Bus] = []

    async def connected(server: NatsServer, user: User) -> Bus:
        bus = await asyncio.wait_for(Bus.connect(settings_of(server, user), user), 10)
        made.append(bus)
        return bus

    yield connected
    for bus in made:
        await bus.close()


@pytest_asyncio.fixture
async def ledger(nats: NatsServer, connect: Connect) -> Bus:
    """The bus as `jobs`, on the test's own server, with all streams and consumers."""
    bus = await connect(nats, JOBS)
    await provision.apply(bus)
    return bus


BOXES = """
    CREATE TABLE inbox (ce_id text PRIMARY KEY, received_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate text NOT NULL, subject text NOT NULL,
        headers text NOT NULL, body bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE effects (number bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL);
"""
"""The tables of an inbox and an outbox, and one that handlers write to."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A database of the test's own, with the tables of `BOXES` in its schema."""

    dsn: str
    password: str
    pool: db.Pool

    async def connection(self) -> db.Connection:
        """A connection outside of the pool, as a leader has; ended by whoever leads."""
        return await db.connect(self.dsn, schema="public", application_name="test-leader", password=self.password)

    async def effects(self) -> list[str]:
        """What handlers did, in order."""
        return [row["name"] for row in await self.pool.fetch("SELECT name FROM effects ORDER BY number")]


@pytest_asyncio.fixture
async def scratch(postgres_server: PostgresServer) -> AsyncIterator[Scratch]:
    """An empty database of the test's own."""
    name = f"scratch_{uuid7().hex}"
    admin = await asyncpg.connect(postgres_server.dsn, password=postgres_server.password)
    await admin.execute(f"CREATE DATABASE {name}")
    dsn = postgres_server.dsn_of(name)
    pool = await db.create_pool(dsn, schema="public", application_name="test", password=postgres_server.password)
    await pool.execute(BOXES)
    yield Scratch(dsn, postgres_server.password, pool)
    await pool.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
