"""PostgreSQL: connections, roles and schemas, and what "the database is away" looks like.

One database, one schema and one role a service; no role sees another's schema. Migrations are in `migrations`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg
import structlog

log = structlog.get_logger(__name__)

if TYPE_CHECKING:  # generic in the stubs alone
    Pool: TypeAlias = asyncpg.Pool[Any]
    Connection: TypeAlias = asyncpg.Connection[Any]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

SCHEMAS: Mapping[str, tuple[str, ...]] = {"jobs": ("ledger", "anime_api"), "files": ("library",), "echo": ("echo",)}
"""The schemas that each service owns; the first is the one it works in."""

CONNECT_TIMEOUT = 10.0
COMMAND_TIMEOUT = 30.0

_PROVISION_LOCK = 0x616E696D65  # "anime": two provisioners at once would trip over each other's catalogue rows

_AWAY: tuple[type[BaseException], ...] = (
    OSError,  # refused, reset, unreachable, and TimeoutError
    EOFError,  # the server closed in the middle of an answer
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # starting up, shutting down, recovering
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.QueryCanceledError,  # the server's own time-out
    asyncpg.ReadOnlySQLTransactionError,  # a standby that has not been promoted yet
    asyncpg.TransactionRollbackError,  # deadlock or serialisation: the same transaction succeeds when run again
    asyncpg.LockNotAvailableError,
    asyncpg.InternalClientError,  # the farewell of a crashing server came between two statements
)

ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All that talking to PostgreSQL may raise: mistakes, and, as `is_unavailable` tells, a server that is away."""

_GONE = ("is closed", "is closing", "was closed", "connection lost", "released back to the pool")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the database is away or busy, so that the same work will succeed later.

    Anything else (bad SQL, a violated constraint, a wrong password) is a mistake that waiting does not mend.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_unavailable(member) for member in error.exceptions)
    if isinstance(error, _AWAY):
        return True
    # asyncpg uses one class for wrong use and for connections that are gone; only the text tells them apart. A pooled
    # connection that the server closes while it is held counts as "released back to the pool".
    return (
        isinstance(error, asyncpg.InterfaceError)
        and not isinstance(error, asyncpg.DataError)
        and any(words in str(error) for words in _GONE)
    )


async def create_pool(
    dsn: str,
    *,
    schema: str,
    application_name: str,
    password: str | None = None,
    min_size: int = 0,
    max_size: int = 6,
    command_timeout: float = COMMAND_TIMEOUT,
) -> Pool:
    """A pool of connections that work in `schema`; `json` and `jsonb` are Python values both ways.

    With `min_size` 0 nothing is connected yet, so that a service can start before its database; otherwise raises what
    `connect` raises. `password` stands in for one that is not in the DSN.
    """
    pool: Pool = await asyncpg.create_pool(
        dsn,
        password=password,
        min_size=min_size,
        max_size=max_size,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
        server_settings=_session(schema, application_name),
        init=_init,
    )
    return pool


async def connect(
    dsn: str,
    *,
    schema: str,
    application_name: str,
    password: str | None = None,
    command_timeout: float = COMMAND_TIMEOUT,
) -> Connection:
    """One connection of its own, with the settings of the pool's: for advisory locks, which a pool gives back.

    Raises what asyncpg raises; `is_unavailable` tells whether trying again helps.
    """
    connection: Connection = await asyncpg.connect(
        dsn,
        password=password,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
        server_settings=_session(schema, application_name),
    )
    await _init(connection)
    return connection


async def close(pool: Pool, *, grace: float = 3.0) -> None:
    """Close a pool, giving connections in use `grace` seconds; then they are cut."""
    try:
        async with asyncio.timeout(grace):
            await pool.close()
    except TimeoutError:
        log.warning("database_pool_cut", grace=grace)
        pool.terminate()


def _session(schema: str, application_name: str) -> dict[str, str]:
    # Our statements are short: compiling them takes longer than running them.
    return {"search_path": schema, "application_name": application_name, "jit": "off", "timezone": "UTC"}


async def _init(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


@dataclass(frozen=True, slots=True)
class Access:
    """How a service reaches its schema. The DSN never holds the password; None means that the DSN needs none."""

    dsn: str
    password: str | None
    own_role: bool


def role_of(service: str) -> str:
    """The database role of a service."""
    return f"anime_{service}"


async def provision(
    admin_dsn: str,
    service_roles: Mapping[str, str],
    *,
    admin_password: str | None = None,
    exclusive: bool = False,
) -> dict[str, Access]:
    """Make the role and the schemas of each service (`service_roles`: service → password); returns how each connects.

    May be run any number of times. `exclusive` says that the database is ours alone, and shuts everybody else out of
    it. Where the admin may not create roles, every service uses the admin's own access, with a warning.
    """
    plain_dsn, dsn_password = split_password(admin_dsn)
    password = admin_password or dsn_password
    admin: Connection = await asyncpg.connect(plain_dsn, password=password, timeout=CONNECT_TIMEOUT)
    try:
        async with admin.transaction():
            await admin.execute("SELECT pg_advisory_xact_lock($1)", _PROVISION_LOCK)
            rights = await admin.fetchrow(
                "SELECT rolsuper, rolsuper OR rolcreaterole AS creates FROM pg_roles WHERE rolname = current_user"
            )
            assert rights is not None
            for service, secret in service_roles.items():
                role = None
                if rights["creates"]:
                    role = role_of(service)
                    await _make_role(admin, role, secret, superuser=rights["rolsuper"])
                await _make_schemas(admin, SCHEMAS[service], role)
            if exclusive:
                await _shut_out(admin)
    finally:
        await admin.close()
    if not rights["creates"]:
        log.warning("shared_role", reason="the database user may not create roles: all services share it")
        return {service: Access(plain_dsn, password, own_role=False) for service in service_roles}
    return {
        service: Access(_with_user(plain_dsn, role_of(service)), secret, own_role=True)
        for service, secret in service_roles.items()
    }


async def _make_role(admin: Connection, role: str, password: str, *, superuser: bool) -> None:
    if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
        await _execute(admin, "CREATE ROLE %I", role)
    await _execute(admin, "ALTER ROLE %I WITH LOGIN PASSWORD %L", role, password)
    database = await admin.fetchval("SELECT current_database()")
    await _execute(admin, "GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I", database, role)
    if not superuser:
        # Whoever makes a schema for another role must be a member of it.
        await _execute(admin, "GRANT %I TO CURRENT_USER", role)


async def _make_schemas(admin: Connection, schemas: tuple[str, ...], role: str | None) -> None:
    for schema in schemas:
        await _execute(admin, "CREATE SCHEMA IF NOT EXISTS %I", schema)
        await _execute(admin, "REVOKE ALL ON SCHEMA %I FROM PUBLIC", schema)
        if role is not None:
            await _execute(admin, "ALTER SCHEMA %I OWNER TO %I", schema, role)


async def _shut_out(admin: Connection) -> None:
    database = await admin.fetchval("SELECT current_database()")
    await _execute(admin, "REVOKE ALL ON DATABASE %I FROM PUBLIC", database)
    await admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")


async def _execute(admin: Connection, template: str, *arguments: str) -> None:
    """Run a statement that takes no parameters, with names and literals quoted by the server."""
    holes = ", ".join(f"${number}::text" for number in range(2, len(arguments) + 2))
    await admin.execute(await admin.fetchval(f"SELECT format($1, {holes})", template, *arguments))


def split_password(dsn: str) -> tuple[str, str | None]:
    """A DSN without its password, and the password."""
    parts = urlsplit(dsn)
    if parts.password is None:
        return dsn, None
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.split(':', 1)[0]}@{host}")), unquote(parts.password)


def with_password(dsn: str, password: str | None) -> str:
    """A DSN with the password inside, for programs that take it no other way: never log it."""
    plain, present = split_password(dsn)
    secret = password if password is not None else present
    if secret is None:
        return dsn
    parts = urlsplit(plain)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(secret, safe='')}@{host}"))


def _with_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}@{host}"))
