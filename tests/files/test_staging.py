"""What attempts that are over left in staging goes, however late it was written; what may be needed stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import rpc
from anime_common.artifacts import Artifacts, staging_key, staging_prefix
from anime_common.bus import Bus
from anime_common.contracts.jobs import GET_JOB, Job, JobQuestion, JobView
from anime_common.contracts.vocabulary import JobState, Progress
from anime_common.messages import uuid7
from anime_common.outcomes import Refused, not_found
from anime_common.topology import FILES
from anime_files import model
from anime_files.__main__ import build
from anime_files.settings import FilesSettings
from anime_files.staging import StagingSweeper
from tests.buses import Connect, running
from tests.conftest import Database
from tests.files.conftest import NOW, job
from tests.waiting import eventually

GRACE = 60.0


@dataclass
class Staging:
    """A store with staged files, a ledger that knows jobs, and the sweeper between them."""

    artifacts: Artifacts
    sweeper: StagingSweeper
    jobs: dict[UUID, Job] = field(default_factory=dict)
    asked: list[UUID] = field(default_factory=list)
    away: bool = False

    async def answer(self, question: JobQuestion) -> JobView:
        ident = UUID(question.job)
        self.asked.append(ident)
        if self.away:
            raise Refused(503, "unavailable", "the database is away")
        if ident not in self.jobs:
            raise not_found("job", question.job)
        known = self.jobs[ident]
        return JobView(**dict(known), progress=Progress(job_id=ident, state=known.state))

    async def stage(self, known: Job, attempt: UUID, *, age: float = 2 * GRACE) -> str:
        """A file of an attempt of a job that the ledger knows, written so many seconds ago."""
        self.jobs[known.id] = known
        return await stage(self.artifacts, known.id, attempt, age=age)

    async def left(self) -> set[str]:
        return set(await self.artifacts.list("staging"))


async def stage(artifacts: Artifacts, job_id: UUID, attempt: UUID, *, age: float) -> str:
    key = staging_key(job_id, attempt, 0, "image/png")
    await artifacts.put(key, b"late")
    path = artifacts.path(key)
    assert path is not None
    then = datetime.now(UTC).timestamp() - age
    os.utime(path, (then, then))
    return key


@pytest.fixture
async def staging(nats: NatsServer, ledger: Bus, connect: Connect, tmp_path: Path) -> Staging:
    artifacts = Artifacts((tmp_path / "artifacts").as_uri())
    sweeper = StagingSweeper(await connect(nats, FILES), artifacts, asyncio.Event(), interval=0.05, grace=GRACE)
    found = Staging(artifacts, sweeper)
    await rpc.serve(ledger, {GET_JOB: found.answer})
    return found


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
async def test_what_was_written_after_the_end_goes(staging: Staging, state: JobState) -> None:
    ended = job(state)
    assert ended.attempt_id is not None
    await staging.stage(ended, ended.attempt_id)
    assert await staging.sweeper.sweep() == 1
    folder = staging.artifacts.path(staging_prefix(ended.id))
    assert folder is not None
    assert not folder.exists()


@pytest.mark.parametrize("state", [JobState.DISPATCHED, JobState.RUNNING, JobState.FILING])
async def test_the_attempt_that_owns_a_job_keeps_its_files_and_those_before_it_do_not(
    staging: Staging, state: JobState
) -> None:
    fenced, owner = uuid7(NOW - timedelta(minutes=1)), uuid7(NOW)
    known = job(state, attempt_id=owner)
    await staging.stage(known, fenced)
    kept = await staging.stage(known, owner)
    assert await staging.sweeper.sweep() == 1
    assert await staging.left() == {kept}


async def test_a_job_that_waits_keeps_what_an_attempt_made_since_needs(staging: Staging) -> None:
    waiting = job(JobState.QUEUED, attempt_id=None)
    await staging.stage(waiting, uuid7(NOW - timedelta(minutes=1)))
    kept = await staging.stage(waiting, uuid7(NOW + timedelta(minutes=1)))
    assert await staging.sweeper.sweep() == 1
    assert await staging.left() == {kept}


async def test_what_belongs_to_no_job_goes(staging: Staging) -> None:
    await stage(staging.artifacts, uuid7(), uuid7(), age=2 * GRACE)
    assert await staging.sweeper.sweep() == 1
    assert await staging.left() == set()


async def test_nobody_is_asked_about_what_was_written_just_now(staging: Staging) -> None:
    kept = await staging.stage(job(JobState.FAILED), uuid7(NOW), age=GRACE / 2)
    assert await staging.sweeper.sweep() == 0
    assert await staging.left() == {kept}
    assert staging.asked == []


async def test_without_the_ledger_everything_stays(staging: Staging) -> None:
    ended = job(JobState.FAILED)
    assert ended.attempt_id is not None
    kept = await staging.stage(ended, ended.attempt_id)
    staging.away = True
    with pytest.raises(Refused, match="the database is away"):
        await staging.sweeper.sweep()
    assert await staging.left() == {kept}
    staging.away = False
    assert await staging.sweeper.sweep() == 1


async def test_what_is_not_ours_stays(staging: Staging) -> None:
    strange = {"staging/readme.txt", "staging/a/b/0.png", f"staging/{uuid7()}/0.png"}
    for key in strange:
        await staging.artifacts.put(key, b"x")
        path = staging.artifacts.path(key)
        assert path is not None
        os.utime(path, (0, 0))
    assert await staging.sweeper.sweep() == 0
    assert await staging.left() == strange


def test_the_newest_file_of_an_attempt_counts() -> None:
    known, attempt = uuid7(), uuid7()
    objects = {
        f"staging/{known}/{attempt}/0.png": NOW,
        f"staging/{known}/{attempt}/1.png": NOW + timedelta(seconds=9),
    }
    assert model.abandoned(objects, NOW + timedelta(seconds=9)) == {}
    assert model.abandoned(objects, NOW + timedelta(seconds=10)) == {known: {attempt}}


@pytest.fixture
async def service(nats: NatsServer, ledger: Bus, database: Database, tmp_path: Path) -> AsyncIterator[Artifacts]:
    settings = FilesSettings(
        nats_url=nats.url,
        nats_password_file=nats.password_file("files"),
        postgres_dsn=database.dsn("files"),
        artifacts_url=(tmp_path / "artifacts").as_uri(),
        files_sweep_interval=0.1,
        files_staging_grace=GRACE,
    )
    async with running(FILES, settings, build):
        yield Artifacts(settings.artifacts_url)


async def test_the_service_sweeps_by_itself_once_the_ledger_answers(service: Artifacts, ledger: Bus) -> None:
    ended = job(JobState.FAILED)
    assert ended.attempt_id is not None
    key = await stage(service, ended.id, ended.attempt_id, age=2 * GRACE)

    async def answer(_: JobQuestion) -> JobView:
        return JobView(**dict(ended), progress=Progress(job_id=ended.id, state=ended.state))

    await rpc.serve(ledger, {GET_JOB: answer})

    async def swept() -> bool:
        return not await service.exists(key)

    await eventually(swept)
