"""Every migration of every service, down and up again on a database that holds what it would lose.

A new migration needs a line in `LOST`: rows that only it can keep, or an empty text when its down loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from anime_cli.services import SERVICES
from anime_common import db, migrations
from tests.conftest import Database

JOB = "00000000-0000-7000-8000-0000000000aa"
DEFAULT_PROJECT = "00000000-0000-7000-8000-000000000001"


@dataclass(frozen=True)
class Kept:
    """What a database holds before its migrations are undone: `base` of them all, and a question whose answer stays."""

    base: str
    question: str
    answer: object


BASES: Mapping[str, Kept] = {
    "jobs": Kept(
        "INSERT INTO jobs (id, code, version, epoch, state, client, project_id, priority, request, request_hash,"
        " prompt, seed, created_at, updated_at)"
        f" VALUES ('{JOB}', 'k3v9x2mq', 1, 1, 'failed', 'tower', '{DEFAULT_PROJECT}',"
        " 'normal', '{}', 'h', '1girl', 7, now(), now());"
        "INSERT INTO attempts (id, job_id, number, offer_id, worker, incarnation, dispatched_at)"
        f" VALUES (uuidv7(), '{JOB}', 1, uuidv7(), 'w1', uuidv7(), now())",
        "SELECT j.code || ' ' || a.worker FROM jobs j JOIN attempts a ON a.job_id = j.id",
        "k3v9x2mq w1",
    ),
    "files": Kept(
        "INSERT INTO files (id, state, key, index, project_id, project, date, type, media_type, size, width, height,"
        f" sha256) VALUES ('{JOB}', 'filed', 'a/b.png', 0, '{DEFAULT_PROJECT}', 'default', '2026-01-02', 'image',"
        " 'image/png', 3, 4, 5, 'abc')",
        "SELECT key || ' ' || type FROM files WHERE key = 'a/b.png'",
        "a/b.png image",
    ),
    "echo": Kept(
        "INSERT INTO optimizations (family, prompt, negative_prompt, provider, refused)"
        " VALUES ('sd', '1girl', '', 'builtin', 'no')",
        "SELECT prompt FROM optimizations",
        "1girl",
    ),
}
LOST: Mapping[str, Mapping[str, str]] = {
    "jobs": {
        "0001_ledger": "SELECT",
        "0002_reached": """UPDATE jobs SET reached = '{"phase": "sampling"}'""",
        "0003_costs": "UPDATE attempts SET engine = 'noop'",
        "0004_projects": "UPDATE projects SET rating = 'explicit'",
        "0005_characters": (
            f"INSERT INTO characters (id, slug) VALUES ('{JOB}', 'yuki');"
            f"INSERT INTO character_versions (character_id, version, content) VALUES ('{JOB}', 1, '{{}}')"
        ),
        "0006_batches": (
            "INSERT INTO batches (id, code, client, project_id, asked, asked_hash, total, created_at, updated_at)"
            f" VALUES ('{JOB}', 'b4k7m2p9', 'gateway', '{DEFAULT_PROJECT}', '{{}}', 'h', 1, now(), now())"
        ),
        "0007_attempts": "UPDATE attempts SET code = 'engine_error'",
        "0008_queue": "UPDATE projects SET paused = true",
        "0009_places": "UPDATE jobs SET foreseen_at = now(), foreseen_end = now()",
        "0010_statistics": "",
    },
    "files": {
        "0001_library": "SELECT",
        "0002_uploads": "UPDATE files SET name = 'sketch.png'",
        "0003_media": "UPDATE files SET duration = 1.5",
        "0004_trash": (
            "INSERT INTO files (id, state, key, index, project_id, project, date, type, media_type, size, width,"
            " height, sha256, trashed_at)"
            f" VALUES (gen_random_uuid(), 'trashed', 'a/c.png', 0, '{DEFAULT_PROJECT}', 'default',"
            " '2026-01-02', 'image', 'image/png', 3, 4, 5, 'abc', now())"
        ),
        "0005_sheets": f"INSERT INTO sheets (batch_id, version, epoch, asked) VALUES ('{JOB}', 1, 1, '{{}}')",
        "0006_sheets_again": (
            f"INSERT INTO sheet_tries (file_id, batch_id, epoch, version) VALUES ('{JOB}', '{JOB}', 1, 1)"
        ),
    },
    "echo": {"0001_echo": "SELECT"},
}
"""By service and migration: what makes it hold something. `SELECT` when the base does already, empty when it cannot."""

MODULES = {service.name: service.module for service in SERVICES if service.has_database}


def test_every_migration_is_tried() -> None:
    for service, module in MODULES.items():
        names = [file.stem for file in sorted(migrations.folder_of(module).glob("*.sql"))]
        assert list(LOST[service]) == names


@pytest.mark.parametrize("service", MODULES)
async def test_a_down_that_would_lose_data_says_so_and_what_is_older_survives(database: Database, service: str) -> None:
    folder, own, schema = migrations.folder_of(MODULES[service]), database.access[service], db.SCHEMAS[service][0]
    kept, lost = BASES[service], LOST[service]
    connection = await db.connect(own.dsn, schema=schema, application_name="test", password=own.password)
    try:
        await connection.execute(kept.base)
        for change in filter(None, lost.values()):
            await connection.execute(change)
        for number, (name, change) in enumerate(reversed(list(lost.items())), start=1):
            if change:
                with pytest.raises(migrations.MigrationError, match=r"refused: .* would be lost"):
                    await migrations.rollback(own.dsn, folder, schema, password=own.password)
                assert await _applied(connection) == len(lost) - number + 1, f"{name} was undone all the same"
                await migrations.rollback(own.dsn, folder, schema, password=own.password, allow_data_loss=True)
            else:
                await migrations.rollback(own.dsn, folder, schema, password=own.password)
            assert await _applied(connection) == len(lost) - number
            if number < len(lost):
                assert await connection.fetchval(kept.question) == kept.answer
        await migrations.migrate(own.dsn, folder, schema, password=own.password)
        await connection.reload_schema_state()
        await connection.execute(kept.base)
        assert await connection.fetchval(kept.question) == kept.answer
    finally:
        await connection.close()


@pytest.mark.parametrize("service", [name for name in MODULES if len(LOST[name]) > 1])
async def test_what_newer_migrations_do_not_hold_survives_their_down_and_up(database: Database, service: str) -> None:
    folder, own, schema = migrations.folder_of(MODULES[service]), database.access[service], db.SCHEMAS[service][0]
    kept, newer = BASES[service], len(LOST[service]) - 1
    connection = await db.connect(own.dsn, schema=schema, application_name="test", password=own.password)
    try:
        await connection.execute(kept.base)
        await migrations.rollback(own.dsn, folder, schema, password=own.password, steps=newer)
        assert await _applied(connection) == 1
        await migrations.migrate(own.dsn, folder, schema, password=own.password)
        assert await _applied(connection) == newer + 1
        assert await connection.fetchval(kept.question) == kept.answer
    finally:
        await connection.close()


async def _applied(connection: db.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM schema_migrations"))
