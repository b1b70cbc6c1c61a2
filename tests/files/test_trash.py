"""The trash: what becomes of the files of a deleted project."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from anime_common import failpoints
from anime_common.consume import Delivery
from anime_common.contracts.files import (
    FileDeleted,
    FileQuery,
    FileRef,
    FileRestored,
    FileTrashed,
    FileView,
    UseQuestion,
)
from anime_common.contracts.projects import Project, ProjectChanged
from anime_common.failpoints import FailpointError
from anime_common.messages import Envelope, uuid7
from anime_common.outcomes import Refused
from anime_common.pull import Pulled
from anime_common.rpc_contract import Empty
from anime_files.trash import Trash
from tests.files.conftest import PROJECT, Desk

ELSEWHERE = uuid7()


def gone(*, deleted: bool = True) -> Delivery:
    """The ledger says that the project of the test has changed, or was deleted."""
    now = datetime.now(UTC)
    project = Project(id=PROJECT, slug="sky", name="Sky", created_at=now, updated_at=now)
    message = ProjectChanged(project_id=PROJECT, project=project, deleted=deleted)
    ident = message.ident(epoch=1, version=2)
    pulled = Pulled(message.subject_for(), {}, message.body(), "$JS.ACK.ANIME_LEDGER.files-ledger.1.1.1.1.0")
    return Delivery(Envelope(ident, message.ce_type(), "/anime/jobs", message.subject_for()), message, pulled)


def trash_of(desk: Desk, days: float = 30.0) -> Trash:
    return Trash(desk.pool, asyncio.Event(), interval=30.0, days=days, committed=lambda: None)


async def library(desk: Desk, *, trashed: bool = False) -> list[FileView]:
    return list((await desk.library.list(FileQuery(trashed=trashed))).items)


async def test_all_files_of_a_deleted_project_go_there_and_no_others(desk: Desk) -> None:
    await desk.filed(count=3)
    await desk.filed(project_id=ELSEWHERE, project="sea")
    await desk.ledger.handle([gone()])
    assert [file.project for file in await library(desk)] == ["sea"]
    trashed = await library(desk, trashed=True)
    assert len(trashed) == 3
    assert all(file.project == "sky" and file.trashed_at is not None for file in trashed)
    told = [each for each in await desk.said() if isinstance(each, FileTrashed)]
    assert {each.file_id for each in told} == {file.id for file in trashed}
    stats = await desk.library.stats(Empty())
    assert (stats.files, stats.trashed) == (1, 3)
    assert stats.trashed_bytes == sum(file.size for file in trashed)


async def test_told_again_it_moves_nothing_again(desk: Desk) -> None:
    await desk.filed()
    await desk.ledger.handle([gone()])
    before = await library(desk, trashed=True)
    await desk.ledger.handle([gone()])
    assert await library(desk, trashed=True) == before
    assert len([each for each in await desk.said() if isinstance(each, FileTrashed)]) == 1


async def test_a_project_that_only_changes_keeps_its_files(desk: Desk) -> None:
    await desk.filed()
    await desk.ledger.handle([gone(deleted=False)])
    assert len(await library(desk)) == 1


async def test_who_dies_on_the_way_leaves_all_or_nothing(desk: Desk) -> None:
    await desk.filed(count=2)
    failpoints.configure("files.trash.before_commit=error")
    with pytest.raises(FailpointError):
        await desk.ledger.handle([gone()])
    failpoints.configure("")
    assert len(await library(desk)) == 2
    await desk.ledger.handle([gone()])
    assert len(await library(desk, trashed=True)) == 2


async def test_its_bytes_stay_and_it_can_be_taken_back(desk: Desk) -> None:
    await desk.filed()
    (file,) = await library(desk)
    lying = desk.lying()
    await desk.ledger.handle([gone()])
    assert desk.lying() == lying
    with pytest.raises(Refused) as refusal:
        await desk.library.get(FileRef(id=file.id))
    assert refusal.value.status == 404
    back = await trash_of(desk).restore(FileRef(id=file.id))
    assert (back.key, back.trashed_at, back.version) == (file.key, None, file.version + 2)
    assert await library(desk) == [back]
    assert [each.file_id for each in await desk.said() if isinstance(each, FileRestored)] == [file.id]
    assert await trash_of(desk).restore(FileRef(id=file.id)) == back, "asked again, nothing changes"
    with pytest.raises(Refused) as refusal:
        await trash_of(desk).restore(FileRef(id=uuid7()))
    assert (refusal.value.status, refusal.value.field) == (404, "id")


async def test_what_has_lain_there_long_enough_is_deleted_for_good(desk: Desk) -> None:
    await desk.filed(count=2)
    await desk.ledger.handle([gone()])
    assert await trash_of(desk).sweep() == 0, "it lies there for a month"
    assert await trash_of(desk, days=0).sweep() == 2
    assert await library(desk, trashed=True) == []
    assert len([each for each in await desk.said() if isinstance(each, FileDeleted)]) == 2
    await desk.sweeper.sweep()
    assert desk.lying() == []
    (file, _) = await desk.rows("deleted")
    with pytest.raises(Refused):
        await trash_of(desk).restore(FileRef(id=file["id"]))


async def test_one_file_of_it_can_be_deleted_at_once(desk: Desk) -> None:
    await desk.filed()
    await desk.ledger.handle([gone()])
    (file,) = await library(desk, trashed=True)
    await desk.library.delete(FileRef(id=file.id))
    assert await library(desk, trashed=True) == []


async def test_how_much_is_held_of_each_project(desk: Desk) -> None:
    await desk.filed(count=2)
    await desk.filed(project_id=ELSEWHERE, project="sea")
    await desk.ledger.handle([gone()])
    nobody = uuid7()
    (sea,) = await library(desk)
    use = await desk.library.use(UseQuestion(project_ids=(ELSEWHERE, PROJECT, nobody)))
    held = [(each.project_id, each.files, each.bytes) for each in use.items]
    assert held == [(ELSEWHERE, 1, sea.size), (PROJECT, 0, 0), (nobody, 0, 0)]
