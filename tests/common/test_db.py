"""Connections, roles, schemas and migrations on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from anime_cli.postgres import PostgresServer
from anime_cli.services import SERVICES
from anime_common import db, migrations
from tests.conftest import Database

FIRST = """-- migrate:up
CREATE TABLE things (id int PRIMARY KEY);

-- migrate:down
DROP TABLE things;
"""
SECOND = """-- migrate:up
ALTER TABLE things ADD COLUMN name text;

-- migrate:down
ALTER TABLE things DROP COLUMN name;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "migrations"
    place.mkdir()
    (place / "20260101000000_things.sql").write_text(FIRST)
    (place / "20260102000000_names.sql").write_text(SECOND)
    return place


@pytest.fixture
async def trial(database: Database) -> db.Access:
    """A schema `trial` with no migrations yet, and who owns it."""
    admin = await asyncpg.connect(database.admin.dsn, password=database.admin.password)
    await admin.execute("CREATE SCHEMA trial AUTHORIZATION anime_echo")
    await admin.close()
    return database.access["echo"]


async def connect_as(database: Database, service: str) -> db.Connection:
    own = database.access[service]
    return await db.connect(own.dsn, schema=db.SCHEMAS[service][0], application_name="test", password=own.password)


@pytest.mark.parametrize("service", list(db.SCHEMAS))
async def test_a_service_works_in_its_own_schema_and_sees_no_other(database: Database, service: str) -> None:
    connection = await connect_as(database, service)
    try:
        await connection.execute("CREATE TABLE mine (id int)")
        assert await connection.fetchval("SELECT 'mine'::regclass::oid::regclass::text") == "mine"
        for schema in (name for other, names in db.SCHEMAS.items() if other != service for name in names):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"CREATE TABLE {schema}.theirs (id int)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT * FROM {schema}.schema_migrations")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE public.everybodys (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE ROLE another")
    finally:
        await connection.close()


async def test_provision_may_be_repeated_and_run_twice_at_once(database: Database) -> None:
    roles = {service: access.password or "" for service, access in database.access.items()}
    admin = database.admin
    runs = (db.provision(admin.dsn, roles, admin_password=admin.password, exclusive=True) for _ in range(3))
    first, *others = await asyncio.gather(*runs)
    assert all(other == first for other in others)
    assert first == dict(database.access)
    assert all("password" not in access.dsn for access in first.values())


async def test_an_admin_that_may_create_roles_but_is_no_superuser_is_enough(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, wanted_port=0, durable=False)
    await server.start()
    try:
        admin = await asyncpg.connect(server.dsn, password=server.password)
        await admin.execute("CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'm'")
        await admin.execute("ALTER DATABASE anime OWNER TO maker")
        await admin.close()
        dsn = server.dsn.replace("anime_admin@", "maker:m@")
        await db.provision(dsn, {"files": "secret"})
        access = await db.provision(dsn, {"files": "secret", "jobs": "other"})
        for service, own in access.items():
            schema = db.SCHEMAS[service][0]
            connection = await db.connect(own.dsn, schema=schema, application_name="test", password=own.password)
            await connection.execute("CREATE TABLE mine (id int)")
            await connection.close()
    finally:
        await server.stop()


async def test_without_the_right_to_create_roles_all_services_share_the_given_one(database: Database) -> None:
    own = database.access["echo"]
    admin = await asyncpg.connect(database.admin.dsn, password=database.admin.password)
    await admin.execute(f"GRANT CREATE ON DATABASE {database.name} TO anime_echo")
    await admin.close()
    shared = await db.provision(db.with_password(own.dsn, own.password), {"echo": "unused"})
    assert shared == {"echo": db.Access(own.dsn, own.password, own_role=False)}


async def test_json_goes_in_and_out_as_python_values(database: Database) -> None:
    pool = await database.pool("jobs")
    try:
        value = {"prompt": "1girl", "sizes": [512, 512], "nothing": None}
        assert await pool.fetchval("SELECT $1::jsonb", value) == value
        assert await pool.fetchval("SELECT $1::json", value) == value
    finally:
        await pool.close()


async def test_migrate_is_repeatable_and_concurrent_and_rollback_undoes(trial: db.Access, folder: Path) -> None:
    await asyncio.gather(*(migrations.migrate(trial.dsn, folder, "trial", password=trial.password) for _ in range(3)))
    connection = await db.connect(trial.dsn, schema="trial", application_name="test", password=trial.password)
    try:
        assert await connection.fetchval("SELECT count(*) FROM trial.schema_migrations") == 2
        await connection.execute("INSERT INTO things (id, name) VALUES (1, 'x')")
        await migrations.rollback(trial.dsn, folder, "trial", password=trial.password, steps=2)
        assert await connection.fetchval("SELECT to_regclass('things') IS NULL")
    finally:
        await connection.close()


async def test_a_failing_migration_says_why_without_the_password(trial: db.Access, folder: Path) -> None:
    bad = "-- migrate:up\nCREATE TABLE wrong (id nonsense);\n-- migrate:down\n"
    (folder / "20260103000000_bad.sql").write_text(bad)
    with pytest.raises(migrations.MigrationError, match='type "nonsense" does not exist'):
        await migrations.migrate(trial.dsn, folder, "trial", password=trial.password)


async def test_a_wrong_password_is_not_shown(trial: db.Access, folder: Path) -> None:
    with pytest.raises(migrations.MigrationError, match="password authentication failed") as caught:
        await migrations.migrate(trial.dsn, folder, "trial", password="s3cr:t/?", wait=0.1)
    assert "s3cr" not in str(caught.value)


async def test_a_migration_older_than_the_newest_applied_is_refused(trial: db.Access, folder: Path) -> None:
    await migrations.migrate(trial.dsn, folder, "trial", password=trial.password)
    (folder / "20260101120000_late.sql").write_text("-- migrate:up\nSELECT 1;\n-- migrate:down\n")
    with pytest.raises(migrations.MigrationError, match="out of order"):
        await migrations.migrate(trial.dsn, folder, "trial", password=trial.password)


@pytest.mark.parametrize("service", [service.name for service in SERVICES if service.has_database])
async def test_every_migration_of_a_service_can_be_undone_and_done_again(database: Database, service: str) -> None:
    module = next(entry.module for entry in SERVICES if entry.name == service)
    place, own, schema = migrations.folder_of(module), database.access[service], db.SCHEMAS[service][0]
    files = sorted(place.glob("*.sql"))
    await migrations.rollback(own.dsn, place, schema, password=own.password, steps=len(files))
    connection = await connect_as(database, service)
    try:
        left = await connection.fetch(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'v', 'S', 'p')"
            " AND c.relname <> 'schema_migrations'",
            list(db.SCHEMAS[service]),
        )
        assert [tuple(row) for row in left] == []
    finally:
        await connection.close()
    await migrations.migrate(own.dsn, place, schema, password=own.password)


async def test_a_pool_of_an_absent_database_is_made_and_says_unavailable() -> None:
    pool = await db.create_pool("postgresql://nobody@127.0.0.1:1/none", schema="x", application_name="test")
    with pytest.raises(OSError, match="Connect call failed") as caught:
        await pool.fetchval("SELECT 1")
    assert db.is_unavailable(caught.value)
    pool.terminate()


async def test_a_killed_server_is_unavailable_and_the_pool_recovers(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, wanted_port=0, durable=False)
    await server.start()
    try:
        pool = await db.create_pool(
            server.dsn, schema="public", application_name="test", password=server.password, max_size=2
        )
        held = await pool.acquire()

        async def killed_in_a_transaction() -> None:
            async with pool.acquire() as connection, connection.transaction():
                server.child.signal(signal.SIGKILL)
                await server.child.wait()
                await connection.fetchval("SELECT 1")

        with pytest.raises(db.ERRORS) as caught:
            await killed_in_a_transaction()
        assert db.is_unavailable(caught.value), caught.value
        for use in (held.fetchval, held.fetchval, pool.fetchval):
            with pytest.raises(db.ERRORS) as caught:
                await use("SELECT 1")
            assert db.is_unavailable(caught.value), caught.value
        await pool.release(held)
        await server.start()
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()
    finally:
        await server.stop()


async def test_an_orderly_stop_is_unavailable_too(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, wanted_port=0, durable=False)
    await server.start()
    connection = await db.connect(server.dsn, schema="public", application_name="test", password=server.password)
    sleeping = asyncio.ensure_future(connection.fetchval("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    await server.stop()
    with pytest.raises(db.ERRORS) as caught:
        await sleeping
    assert db.is_unavailable(caught.value), caught.value


@pytest.mark.parametrize(
    "mistake",
    [
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.UndefinedTableError("no such table"),
        asyncpg.InvalidPasswordError("no"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        asyncpg.DataError("the value is closed to us"),
        ValueError("x"),
        ExceptionGroup("two", [OSError(), ValueError()]),
    ],
)
def test_mistakes_are_not_unavailability(mistake: Exception) -> None:
    assert not db.is_unavailable(mistake)


@pytest.mark.parametrize(
    "away",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.CrashShutdownError("x"),
        asyncpg.TooManyConnectionsError("x"),
        asyncpg.DeadlockDetectedError("x"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("pool is closing"),
        asyncpg.InterfaceError("cannot call Connection.fetch(): connection has been released back to the pool"),
        ExceptionGroup("two", [OSError(), TimeoutError()]),
    ],
)
def test_unavailability_is_recognised(away: Exception) -> None:
    assert db.is_unavailable(away)


@pytest.mark.parametrize("secret", ["plain", "a:b@c/d%e?f#g"])
def test_passwords_leave_and_enter_a_dsn_whole(secret: str) -> None:
    plain = "postgresql://anime@db.tower:5432/anime?sslmode=require"
    whole = db.with_password(plain, secret)
    assert db.split_password(whole) == (plain, secret)
    assert db.split_password(plain) == (plain, None)
    assert db.with_password(plain, None) == plain
