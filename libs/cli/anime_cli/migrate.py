"""`anime migrate`: which migrations a database has, and undoing the newest ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import typer

from anime_cli import render
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Yes, confirm, run, show_json
from anime_cli.postgres import PostgresServer
from anime_cli.process import StackError
from anime_cli.services import SERVICES, Service
from anime_cli.settings import StackSettings
from anime_cli.stack_file import HomeLock
from anime_common import db
from anime_common.migrations import MigrationError, folder_of, rollback
from anime_common.settings import load

app = typer.Typer(no_args_is_help=True, help="Migrations: what the database has. `anime up` applies what is missing.")

OWNERS = {service.name: service for service in SERVICES if service.has_database}

Whose = Annotated[str, typer.Argument(help=f"Whose schema: {', '.join(OWNERS)}.", show_default=False)]
Steps = Annotated[int, typer.Option(min=1, help="How many of the newest migrations to undo.")]
Loss = Annotated[bool, typer.Option("--allow-data-loss", help="Go on although rows are lost with it.")]


@dataclass(frozen=True, slots=True)
class Access:
    """How the administrator reaches the database of the stack."""

    dsn: str
    password: str | None


@asynccontextmanager
async def database() -> AsyncIterator[Access]:
    """The database of the stack, which must not run: the embedded one is started for it, an external one is there."""
    settings = load(StackSettings)
    home = settings.home.expanduser().absolute()
    if settings.postgres_dsn is None and not (home / "postgres" / "data").exists():
        raise CliError(ExitStatus.NOT_FOUND, f"there is no database in {home}: `anime up` makes one")
    lock = HomeLock(home)
    try:
        lock.acquire()
    except StackError as error:
        raise CliError(ExitStatus.CONFLICT, str(error)) from error
    try:
        if settings.postgres_dsn is not None:
            dsn, password = db.split_password(settings.postgres_dsn)
            file = settings.postgres_password_file
            yield Access(dsn, password or (file.read_text().strip() if file else None))
            return
        server = PostgresServer(home, settings.postgres_port)
        try:
            await server.start()
        except StackError as error:
            raise CliError(ExitStatus.UNREACHABLE, str(error)) from error
        try:
            yield Access(server.dsn, server.password)
        finally:
            await server.stop()
    finally:
        lock.release()


async def applied(access: Access, service: Service) -> list[str]:
    """The versions that a schema has, oldest first; raises CliError when the database does not answer."""
    schema = db.SCHEMAS[service.name][0]
    try:
        connection = await asyncpg.connect(access.dsn, password=access.password, timeout=10)
    except db.ERRORS as error:
        raise CliError(ExitStatus.UNREACHABLE, f"{access.dsn} does not let us in: {error}") from error
    try:
        if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.schema_migrations") is None:
            return []
        # The schema is one of our own table of them.
        rows = await connection.fetch(f"SELECT version FROM {schema}.schema_migrations ORDER BY version")  # noqa: S608
        return [row["version"] for row in rows]
    finally:
        await connection.close()


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show every migration of every service, and whether the database has it."""

    async def work() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with database() as access:
            for service in OWNERS.values():
                there = await applied(access, service)
                for file in sorted(folder_of(service.module).glob("*.sql")):
                    known = file.stem.split("_", 1)[0] in there
                    found.append({"service": service.name, "migration": file.stem, "applied": known})
        return found

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [(each["service"], each["migration"], "applied" if each["applied"] else "missing") for each in found]
    render.table(("service", "migration", "state"), rows, "no migrations")


@app.command()
def down(
    owner: Whose, *, steps: Steps = 1, allow_data_loss: Loss = False, yes: Yes = False, as_json: Json = False
) -> None:
    """Undo the newest migrations of a service: for going back to an older version of it, which is then to be started.

    One that would lose rows says so and is refused, unless it is allowed.
    """

    async def work() -> list[str]:
        service = OWNERS.get(owner)
        if service is None:
            raise CliError(ExitStatus.USAGE, f"{owner!r} has no schema: one of {', '.join(OWNERS)} has")
        schema = db.SCHEMAS[service.name][0]
        async with database() as access:
            before = await applied(access, service)
            if len(before) < steps:
                text = f"the schema {schema} has {len(before)} migrations: --steps can be no more"
                raise CliError(ExitStatus.USAGE, text)
            loses = ", with all rows that only they hold" if allow_data_loss else ""
            confirm(f"undo {', '.join(before[-steps:])} of {service.name}{loses}?", yes=yes)
            try:
                await rollback(
                    access.dsn,
                    folder_of(service.module),
                    schema,
                    password=access.password,
                    steps=steps,
                    allow_data_loss=allow_data_loss,
                )
            except MigrationError as error:
                raise _refused(error) from error
            left = await applied(access, service)
            return [version for version in before if version not in left]

    undone = run(work(), as_json=as_json)
    if as_json:
        show_json({"undone": undone})
    else:
        render.console().print(f"undone: {', '.join(undone)} of {owner}; `anime up` applies what its code has")


def _refused(error: MigrationError) -> CliError:
    text = str(error)
    if "refused:" not in text:
        return CliError(ExitStatus.FAILED, text)
    why = text.partition("refused:")[2].partition("(allow_data_loss")[0].strip()
    return CliError(ExitStatus.CONFLICT, f"refused: {why}", "keep a backup, then say --allow-data-loss")
