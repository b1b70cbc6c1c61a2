"""`anime migrate` on a real embedded database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from anime_cli.errors import ExitStatus
from anime_cli.main import app
from anime_cli.postgres import PostgresServer
from anime_cli.services import prepare_database
from anime_cli.stack_file import HomeLock

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated database that does not run, and a project in it that is rated."""
    found = tmp_path_factory.mktemp("migrated")
    asyncio.run(prepare(found))
    return found


async def prepare(home: Path) -> None:
    server = PostgresServer(home, wanted_port=0, durable=False)
    await server.start()
    try:
        await prepare_database(server.dsn, {"jobs": "a", "files": "b", "echo": "c"}, admin_password=server.password)
        connection = await asyncpg.connect(server.dsn, password=server.password)
        await connection.execute("UPDATE ledger.projects SET paused = true")
        await connection.close()
    finally:
        await server.stop()


def anime(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["migrate", *arguments], env={"ANIME_HOME": str(home), "ANIME_POSTGRES_PORT": "0"})


def states(home: Path) -> dict[str, bool]:
    found = json.loads(anime(home, "status", "--json").stdout)
    return {f"{each['service']}/{each['migration']}": each["applied"] for each in found}


def test_what_would_lose_rows_says_so_and_needs_a_flag(home: Path) -> None:
    assert all(states(home).values())
    while states(home)["jobs/0009_places"]:
        assert anime(home, "down", "jobs", "--yes").exit_code == ExitStatus.OK, "it holds nothing yet"
    refused = anime(home, "down", "jobs", "--yes")
    assert (refused.exit_code, "what is held back would be lost" in refused.stderr) == (ExitStatus.CONFLICT, True)
    assert "--allow-data-loss" in refused.stderr
    assert states(home)["jobs/0008_queue"]
    done = anime(home, "down", "jobs", "--allow-data-loss", "--yes")
    assert (done.exit_code, "0008" in done.stdout) == (ExitStatus.OK, True), done.stderr
    assert not states(home)["jobs/0008_queue"]
    assert states(home)["jobs/0007_attempts"]


def test_nothing_is_undone_without_an_answer_under_a_running_stack_or_where_there_is_nothing(home: Path) -> None:
    assert anime(home, "down", "files").exit_code == ExitStatus.USAGE, "nobody is there to answer"
    assert anime(home, "down", "echo", "--steps", "9", "--yes").exit_code == ExitStatus.USAGE
    assert anime(home, "down", "gateway", "--yes").exit_code == ExitStatus.USAGE
    lock = HomeLock(home)
    lock.acquire()
    try:
        held = anime(home, "down", "files", "--yes")
    finally:
        lock.release()
    assert (held.exit_code, "a stack already runs" in held.stderr) == (ExitStatus.CONFLICT, True)
    assert anime(home / "elsewhere", "status").exit_code == ExitStatus.NOT_FOUND
    assert all(done for name, done in states(home).items() if name.startswith("files/"))
