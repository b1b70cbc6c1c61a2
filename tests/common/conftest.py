"""A database with the tables of an inbox and an outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest_asyncio

from anime_cli.postgres import PostgresServer
from anime_common import db
from anime_common.messages import uuid7

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
