"""Real servers for tests: PostgreSQL once a session with a database a test, NATS once a test."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import hypothesis
import pytest
import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_cli.services import prepare_database
from anime_common import db

pytest_plugins = ["tests.buses", "tests.stacks"]

# No test sees the settings of whoever runs it, but for those that are meant for tests.
for _name in [name for name in os.environ if name.startswith("ANIME_") and not name.startswith("ANIME_TEST_")]:
    del os.environ[_name]

# A shell that starts us in the background has SIGINT ignored, and programs that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SERVER_FIXTURES = {"nats", "nats_server", "postgres_server", "database"}
STACK_FIXTURES = {"stack_settings", "noop", "sprite", "faulty"}
TEMPLATE = "anime_template"

hypothesis.settings.register_profile("tower", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tower")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs servers by what it asks for; whole stacks come last: their processes slow the others down."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SERVER_FIXTURES:
            item.add_marker(pytest.mark.server)
        if fixtures & STACK_FIXTURES:
            item.add_marker(pytest.mark.stack)
    items.sort(key=lambda item: item.get_closest_marker("stack") is not None)


@pytest_asyncio.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A NATS server of this test's own, with the permissions of the topology and no streams yet."""
    server = NatsServer(tmp_path / "nats-home", wanted_port=0, wanted_monitor_port=0)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A NATS server that all tests share: for what keeps nothing in streams (rpc, permissions, core messages)."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), wanted_port=0, wanted_monitor_port=0)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL server that all tests share; it survives no power failure, so it is quick."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"), wanted_port=0, durable=False)
    await server.start()
    yield server
    await server.stop()


@dataclass(frozen=True, slots=True)
class Database:
    """One test's database: how the administrator and each service (`jobs`, `files`, `echo`) reach it."""

    name: str
    admin: db.Access
    access: Mapping[str, db.Access]

    def dsn(self, service: str) -> str:
        """How one service reaches it, with the password inside."""
        own = self.access[service]
        return db.with_password(own.dsn, own.password)

    async def pool(self, service: str, max_size: int = 4) -> db.Pool:
        """A pool with the rights of one service; the caller closes it."""
        own = self.access[service]
        schema = db.SCHEMAS[service][0]
        return await db.create_pool(
            own.dsn, schema=schema, application_name=f"test-{service}", password=own.password, max_size=max_size
        )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres_server: PostgresServer) -> Mapping[str, str]:
    """A database with every role, schema and migration, to clone; returns the services' passwords."""
    passwords = {service: f"{service}-password" for service in db.SCHEMAS}
    await _as_admin(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    await prepare_database(
        postgres_server.dsn_of(TEMPLATE), passwords, admin_password=postgres_server.password, exclusive=True
    )
    return passwords


@pytest_asyncio.fixture
async def database(postgres_server: PostgresServer, migrated_template: Mapping[str, str]) -> AsyncIterator[Database]:
    """A migrated database of this test's own."""
    name = f"test_{next(_numbers)}"
    await _as_admin(postgres_server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    dsn = postgres_server.dsn_of(name)
    access = {
        service: db.Access(dsn.replace("//anime_admin@", f"//{db.role_of(service)}@"), password, own_role=True)
        for service, password in migrated_template.items()
    }
    yield Database(name, db.Access(dsn, postgres_server.password, own_role=False), access)
    await _as_admin(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def _as_admin(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.dsn_of("postgres"), password=server.password)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
