"""The whole service on real servers: events in, facts out, questions answered, an ordered stop."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import rpc
from anime_common.artifacts import Artifacts, staging_key, staging_prefix, upload_key
from anime_common.bus import Bus
from anime_common.contracts.files import (
    DELETE_FILE,
    GET_FILE,
    LIBRARY_STATS,
    LIST_FILES,
    REGISTER_UPLOAD,
    UPDATE_FILE,
    FileChanges,
    Filed,
    FileDeleted,
    FileQuery,
    FileRef,
    FileUpdated,
    FileUploaded,
    RegisterUpload,
    UpdateFile,
)
from anime_common.contracts.jobs import JobCompleted, JobEvent
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Message, Outgoing, uuid7
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Empty
from anime_common.service import Runtime
from anime_common.topology import FACTS, FILES, GATEWAY, GENERATOR
from anime_files.__main__ import build
from anime_files.settings import FilesSettings
from tests.buses import Connect, running, stored
from tests.conftest import Database
from tests.files.conftest import delivery, filing_of, job, picture, staged
from tests.waiting import eventually


@pytest.fixture
async def service(
    nats: NatsServer, ledger: Bus, database: Database, tmp_path: Path
) -> AsyncIterator[Runtime[FilesSettings]]:
    settings = FilesSettings(
        nats_url=nats.url,
        nats_password_file=nats.password_file("files"),
        postgres_dsn=database.dsn("files"),
        artifacts_url=(tmp_path / "artifacts").as_uri(),
    )
    async with running(FILES, settings, build) as runtime:
        yield runtime


async def publish(ledger: Bus, message: JobEvent) -> None:
    await ledger.publish(Outgoing(message, delivery(message).id))


async def facts(admin: Bus) -> list[Message]:
    return [message for _, message in await stored(admin, FACTS)]


async def test_from_the_event_to_the_question(
    service: Runtime[FilesSettings], ledger: Bus, admin: Bus, nats: NatsServer, connect: Connect
) -> None:
    artifacts = Artifacts(service.settings.artifacts_url)
    data = picture((640, 480))
    filing = filing_of(job(), [staged(data, size=(640, 480))])
    await artifacts.put(staging_key(filing.job.id, filing.attempt_id, 0, "image/png"), data)
    await publish(ledger, filing)

    async def count() -> int:
        return len(await facts(admin))

    await eventually(lambda: _equals(count(), 1))
    (filed,) = await facts(admin)
    assert isinstance(filed, Filed)
    await publish(ledger, JobCompleted(job=filing.job.model_copy(update={"version": 6, "state": JobState.COMPLETED})))
    await eventually(lambda: not (artifacts.path(staging_prefix(filing.job.id)) or Path()).exists())

    gateway = await connect(nats, GATEWAY)
    ref = FileRef(id=filed.outputs[0].file_id)
    file = await rpc.call(gateway, GET_FILE, ref)
    assert await artifacts.get(file.key) == data
    assert file.thumbnail_key is not None
    assert await artifacts.exists(file.thumbnail_key)
    assert (await rpc.call(gateway, LIST_FILES, FileQuery(q="blue"))).items == (file,)
    assert (await rpc.call(gateway, LIBRARY_STATS, Empty())).bytes == len(data)
    changed = await rpc.call(gateway, UPDATE_FILE, UpdateFile(id=ref.id, changes=FileChanges(rating=5)))
    assert (changed.rating, changed.version) == (5, 2)
    await rpc.call(gateway, DELETE_FILE, ref)
    with pytest.raises(Refused) as refusal:
        await rpc.call(gateway, GET_FILE, ref)
    assert refusal.value.status == 404
    await eventually(lambda: _equals(count(), 3))
    assert [type(message) for message in await facts(admin)] == [Filed, FileUpdated, FileDeleted]
    await eventually(lambda: _equals(artifacts.exists(file.key), wanted=False))
    await eventually(lambda: _equals(artifacts.exists(str(file.thumbnail_key)), wanted=False))


async def test_an_upload_over_the_bus(
    service: Runtime[FilesSettings], ledger: Bus, admin: Bus, nats: NatsServer, connect: Connect
) -> None:
    artifacts, data, ident = Artifacts(service.settings.artifacts_url), picture((640, 480)), uuid7()
    await artifacts.put(upload_key(ident), data)
    gateway, generator = await connect(nats, GATEWAY), await connect(nats, GENERATOR)
    question = RegisterUpload(
        id=ident,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        project_id=uuid7(),
        project="sky",
        name="sketch.png",
    )
    file = await rpc.call(gateway, REGISTER_UPLOAD, question)
    assert await rpc.call(gateway, REGISTER_UPLOAD, question) == file
    assert await artifacts.get(file.key) == data
    assert not await artifacts.exists(upload_key(ident))
    assert await rpc.call(generator, GET_FILE, FileRef(id=ident)) == file

    async def told() -> bool:
        return [type(message) for message in await facts(admin)] == [FileUploaded]

    await eventually(told)
    with pytest.raises(Refused) as refusal:
        await rpc.call(gateway, REGISTER_UPLOAD, question.model_copy(update={"id": uuid7()}))
    assert (refusal.value.status, refusal.value.code) == (503, "upload_missing")


async def test_uploads_that_nobody_registers_expire(
    nats: NatsServer, ledger: Bus, database: Database, tmp_path: Path
) -> None:
    settings = FilesSettings(
        nats_url=nats.url,
        nats_password_file=nats.password_file("files"),
        postgres_dsn=database.dsn("files"),
        artifacts_url=(tmp_path / "artifacts").as_uri(),
        files_sweep_interval=0.05,
        files_upload_grace=0.2,
    )
    artifacts, key = Artifacts(settings.artifacts_url), upload_key(uuid7())
    await artifacts.put(key, b"left")
    async with running(FILES, settings, build):
        await eventually(lambda: _equals(artifacts.exists(key), wanted=False))


async def _equals(found: Awaitable[object], wanted: object) -> bool:
    return bool(await found == wanted)


async def test_it_says_what_is_wrong(service: Runtime[FilesSettings], tmp_path: Path) -> None:
    assert {name: await check() for name, check in service.checks.items()} == {"database": None, "artifacts": None}
    (tmp_path / "artifacts" / "health" / "files").unlink()
    (tmp_path / "artifacts" / "health").rmdir()
    (tmp_path / "artifacts" / "health").touch()
    wrong = await service.checks["artifacts"]()
    assert wrong is not None
    assert wrong.startswith("the artifact store cannot be written")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"files_key_template": "{project}/{code}.{ext}"}, "index must appear"),
        ({"files_parallel": 0}, "greater than or equal to 1"),
        ({"files_max_pixels": 10**12}, "less than or equal"),
        ({"files_upload_pixels": 10**12}, "less than or equal"),
        ({"time_zone": "Middle-earth/Shire"}, "IANA time zone"),
        ({"artifacts_url": "http://x"}, "must start with file:// or s3://"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FilesSettings.model_validate(changes)
