"""A library on a real database and a real folder, and jobs whose pictures lie in staging."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from anime_common import db, failpoints
from anime_common.artifacts import Artifacts, staging_key
from anime_common.consume import Delivery
from anime_common.contracts.jobs import Job, JobEvent, JobFiling
from anime_common.contracts.vocabulary import JobState, Sampler, StagedOutput
from anime_common.messages import REGISTRY, Envelope, Message, uuid7
from anime_common.pull import Pulled
from anime_files.copying import Copier
from anime_files.handlers import Ledger
from anime_files.model import DEFAULT_TEMPLATE
from anime_files.queries import Library
from anime_files.sweeper import Sweeper
from tests import builders
from tests.conftest import Database

DAY = date(2026, 3, 14)
NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
PROJECT = UUID("01890000-0000-7000-8000-000000000001")

_codes = itertools.count(1)


def picture(size: tuple[int, int] = (64, 48), colour: str = "teal", kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def staged(data: bytes, index: int = 0, size: tuple[int, int] = (64, 48), **changes: Any) -> StagedOutput:
    known: dict[str, Any] = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "width": size[0],
        "height": size[1],
    }
    return builders.staged(index, **known | changes)


def job(state: JobState = JobState.FILING, **changes: Any) -> Job:
    known: dict[str, Any] = {
        "id": uuid7(),
        "code": f"code{next(_codes):04d}",
        "version": 5,
        "state": state,
        "project_id": PROJECT,
        "project": "sky",
        "attempt_id": uuid7(),
        "settings": None,
        "created_at": NOW,
        "updated_at": NOW,
        "queued_at": None,
    }
    return builders.job(**known | changes)


def filing_of(
    known: Job, outputs: Sequence[StagedOutput], *, prompt: str = "1girl, blue hair", repeat: int = 0
) -> JobFiling:
    assert known.attempt_id is not None
    settings = builders.settings(
        prompt=prompt, model="sprite", height=48, sampler=Sampler.EULER, count=max(len(outputs), 1)
    )
    return JobFiling(
        job=known, attempt_id=known.attempt_id, repeat=repeat, staged=tuple(outputs), settings=settings, date=DAY
    )


def delivery(message: JobEvent, ident: str | None = None) -> Delivery:
    """A message as the consumer loop hands it over."""
    repeat = getattr(message, "repeat", 0)
    name = f"{message.job.epoch}:{message.wire.replace('.', ':')}:{message.job.id}:{message.job.version}:{repeat}"
    subject = message.subject_for()
    pulled = Pulled(subject, {}, message.body(), "$JS.ACK.ANIME_LEDGER.files-ledger.1.1.1.1700000000000000000.0")
    return Delivery(Envelope(ident or name, message.ce_type(), "/anime/jobs", subject), message, pulled)


@dataclass(slots=True)
class Desk:
    """Everything of the files service but the bus, on one database and one folder."""

    pool: db.Pool
    artifacts: Artifacts
    root: Path
    ledger: Ledger
    library: Library
    sweeper: Sweeper
    committed: int = 0

    async def stage(self, filing: JobFiling, *contents: bytes) -> None:
        """Put files where the generator leaves them."""
        for output, data in zip(filing.staged, contents, strict=True):
            key = staging_key(filing.job.id, filing.attempt_id, output.index, output.media_type)
            await self.artifacts.put(key, data)

    async def filed(self, *, prompt: str = "1girl, blue hair", count: int = 1, **changes: Any) -> JobFiling:
        """A job whose pictures lie in the library."""
        data = [picture(colour=f"#0000{40 + index:02x}") for index in range(count)]
        known = filing_of(job(**changes), [staged(each, index) for index, each in enumerate(data)], prompt=prompt)
        await self.stage(known, *data)
        await self.ledger.handle([delivery(known)])
        return known

    async def said(self) -> list[Message]:
        """What lies in the outbox, in order."""
        async with self.pool.acquire() as connection:
            rows = await connection.fetch("SELECT headers, body FROM outbox ORDER BY id")
        return [_parsed(row["headers"], row["body"]) for row in rows]

    async def said_ids(self) -> list[str]:
        async with self.pool.acquire() as connection:
            rows = await connection.fetch("SELECT headers::jsonb ->> 'ce-id' AS id FROM outbox ORDER BY id")
        return [row["id"] for row in rows]

    async def rows(self, states: str = "reserved filed withdrawn trashed deleted") -> list[Any]:
        async with self.pool.acquire() as connection:
            found: list[Any] = await connection.fetch(
                "SELECT * FROM files WHERE state = ANY($1) ORDER BY created_at, index", states.split()
            )
        return found

    def lying(self) -> list[str]:
        """Every file in the store but the staged ones."""
        paths = [path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()]
        return sorted(str(path) for path in paths if path.parts[0] != "staging")


def _parsed(headers: str, body: bytes) -> Message:
    import json

    return REGISTRY[json.loads(headers)["ce-type"]].parse(body)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[db.Pool]:
    found = await database.pool("files")
    yield found
    await found.close()


@pytest.fixture
def desk(pool: db.Pool, tmp_path: Path) -> Desk:
    root = tmp_path / "artifacts"
    artifacts = Artifacts(root.as_uri())
    copier = Copier(artifacts, asyncio.Semaphore(4), max_pixels=4096 * 4096, thumbnail_pixels=384)

    def committed() -> None:
        made.committed += 1

    made = Desk(
        pool,
        artifacts,
        root,
        Ledger(pool, artifacts, copier, DEFAULT_TEMPLATE, committed),
        Library(pool, committed),
        Sweeper(pool, artifacts, asyncio.Event(), interval=30.0),
    )
    return made


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.configure("")
