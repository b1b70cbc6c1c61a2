"""The library as people see it: find, curate, delete."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from anime_common import failpoints
from anime_common.contracts.files import (
    FileChanges,
    FileDeleted,
    FileQuery,
    FileRef,
    FileUpdated,
    FileView,
    UpdateFile,
)
from anime_common.failpoints import FailpointError
from anime_common.messages import uuid7
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Empty
from tests.files.conftest import PROJECT, Desk


async def found(desk: Desk, **query: object) -> list[FileView]:
    return list((await desk.library.list(FileQuery.model_validate(query))).items)


async def only(desk: Desk) -> FileView:
    (file,) = await found(desk)
    return file


async def curate(desk: Desk, file: FileView, **changes: object) -> FileView:
    return await desk.library.update(UpdateFile(id=file.id, changes=FileChanges.model_validate(changes)))


async def test_get_shows_everything(desk: Desk) -> None:
    filing = await desk.filed()
    file = await desk.library.get(FileRef(id=(await only(desk)).id))
    assert (file.job_id, file.attempt_id, file.code) == (filing.job.id, filing.attempt_id, filing.job.code)
    assert (file.project, file.project_id, file.type, file.index) == ("sky", PROJECT, "image", 0)
    assert file.settings is not None
    assert (file.settings.prompt, file.settings.seed) == ("1girl, blue hair", 7)
    assert (file.rating, file.favourite, file.tags, file.version) == (0, False, (), 1)


async def test_what_is_not_there_is_refused(desk: Desk) -> None:
    for ask in (desk.library.get, desk.library.delete):
        with pytest.raises(Refused) as refusal:
            await ask(FileRef(id=uuid7()))
        assert (refusal.value.status, refusal.value.field) == (404, "id")


async def test_reserved_files_are_invisible(desk: Desk) -> None:
    failpoints.configure("files.after_copy=error")
    with pytest.raises(FailpointError):
        await desk.filed()
    assert await found(desk) == []
    assert (await desk.library.stats(Empty())).files == 0


async def test_pages_are_newest_first_and_meet_without_gap_or_overlap(desk: Desk) -> None:
    for count in (3, 1, 2):
        await desk.filed(count=count)
    everything = [file.id for file in await found(desk)]
    assert len(everything) == 6
    pages, cursor = [], None
    while True:
        page = await desk.library.list(FileQuery(limit=2, cursor=cursor))
        pages.append([file.id for file in page.items])
        cursor = page.next
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [ident for page in pages for ident in page] == everything


@pytest.mark.parametrize("cursor", ["x", "!!!!", "AAAA", "MjAyNi0wMS0wMQ", "ä"])
async def test_a_cursor_of_somebody_else_is_refused(desk: Desk, cursor: str) -> None:
    with pytest.raises(Refused) as refusal:
        await desk.library.list(FileQuery(cursor=cursor))
    assert (refusal.value.status, refusal.value.code, refusal.value.field) == (422, "bad_cursor", "cursor")


@pytest.mark.parametrize(
    ("q", "hits"),
    [
        ("blue", 1),
        ("BLUE_hair", 1),
        ("hair blu", 1),
        ("hair", 2),
        ("school", 1),
        ("green", 0),
        ("1girl, red", 1),
        ("favourites", 1),
        ("  ", 2),
        ("!!!", 0),
        ("'; DROP TABLE files; --", 0),
        ("& | ! ( ) :* <->", 0),
    ],
)
async def test_search_finds_words_of_the_prompt_and_tags(desk: Desk, q: str, hits: int) -> None:
    await desk.filed(prompt="1girl, blue hair, (School_Uniform:1.2)")
    await curate(desk, await only(desk), tags=["my favourites"])
    await desk.filed(prompt="1girl, red hair")
    assert len(await found(desk, q=q)) == hits


async def test_filters(desk: Desk) -> None:
    first = await desk.filed(project="sky")
    await desk.filed(project="sea", project_id=uuid7())
    (file,) = await found(desk, project="sky")
    await curate(desk, file, rating=4, favourite=True, tags=["Best", "best", "sky"])
    for query in (
        {"project": str(PROJECT).upper()},
        {"job_id": str(first.job.id)},
        {"tag": "best"},
        {"favourite": True},
        {"min_rating": 4},
    ):
        assert [each.id for each in await found(desk, **query)] == [file.id]
    assert len(await found(desk, favourite=False)) == 1
    assert len(await found(desk, type="image")) == 2
    assert await found(desk, type="video") == []
    assert await found(desk, tag="nothing") == []
    assert await found(desk, min_rating=5) == []


async def test_curating_tells_once_and_keeps_what_is_absent(desk: Desk) -> None:
    await desk.filed()
    file = await only(desk)
    rated = await curate(desk, file, rating=3, tags=["b", "a", "B"])
    assert (rated.rating, rated.tags, rated.version) == (3, ("b", "a"), 2)
    starred = await curate(desk, file, favourite=True)
    assert (starred.rating, starred.favourite, starred.tags, starred.version) == (3, True, ("b", "a"), 3)
    assert await curate(desk, file, favourite=True) == starred
    _, *events = await desk.said()
    assert [event.file.version for event in events if isinstance(event, FileUpdated)] == [2, 3]
    assert (await desk.said_ids())[-1] == f"1:files:updated:{file.id}:3"


@pytest.mark.parametrize("changes", [{"rating": 6}, {"rating": "3"}, {"favourite": 1}, {"tags": [""]}, {"colour": 1}])
def test_bad_changes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FileChanges.model_validate(changes)


async def test_deleting_removes_the_file_and_tells(desk: Desk) -> None:
    filing = await desk.filed(count=2)
    keep, gone = await found(desk)
    deleted = await desk.library.delete(FileRef(id=gone.id))
    assert deleted.id == gone.id
    event = (await desk.said())[-1]
    assert isinstance(event, FileDeleted)
    assert (event.file_id, event.job_id, event.key) == (gone.id, filing.job.id, gone.key)
    assert await found(desk) == [keep]
    assert await desk.sweeper.sweep() == 1
    assert await desk.sweeper.sweep() == 0
    assert desk.lying() == [keep.key]
    with pytest.raises(Refused):
        await desk.library.delete(FileRef(id=gone.id))


@pytest.mark.parametrize("point", ["files.after_delete", "files.sweeper.removed"])
async def test_dying_while_deleting_leaves_nothing_behind(desk: Desk, point: str) -> None:
    await desk.filed()
    file = await only(desk)
    failpoints.configure(f"{point}=error")
    with pytest.raises(FailpointError):
        await _delete(desk, file)
    await desk.sweeper.sweep()
    assert desk.lying() == []
    assert [type(message) for message in await desk.said()][1:] == [FileDeleted]


async def _delete(desk: Desk, file: FileView) -> None:
    await desk.library.delete(FileRef(id=file.id))
    await desk.sweeper.sweep()


async def test_stats(desk: Desk) -> None:
    filing = await desk.filed(count=2)
    stats = await desk.library.stats(Empty())
    assert (stats.files, stats.bytes) == (2, sum(each.size for each in filing.staged))
