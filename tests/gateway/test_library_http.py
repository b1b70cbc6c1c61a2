"""Files, projects, prompts and the state of the whole over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from anime_common import rpc, topology
from anime_common.contracts.echo import OPTIMIZE, OptimizedPrompt, OptimizeQuestion
from anime_common.contracts.files import (
    DELETE_FILE,
    GET_FILE,
    LIBRARY_STATS,
    LIBRARY_USE,
    LIST_FILES,
    RESTORE_FILE,
    UPDATE_FILE,
    FilePage,
    FileQuery,
    FileRef,
    FileView,
    LibraryStats,
    ProjectUse,
    UpdateFile,
    Use,
    UseQuestion,
)
from anime_common.contracts.vocabulary import EXTENSIONS
from anime_common.messages import uuid7
from anime_common.outcomes import not_found
from anime_common.rpc_contract import Empty
from tests import builders
from tests.gateway.conftest import Connect, Door
from tests.gateway.ledger import Ledger, now

BYTES = bytes(range(256)) * 5000
THUMBNAIL = b"RIFFwebp"
SHA = hashlib.sha256(BYTES).hexdigest()


@dataclass
class Library:
    """The files service, played by the test."""

    files: dict[UUID, FileView] = field(default_factory=dict)
    asked: list[FileQuery] = field(default_factory=list)

    def add(self, **fields: Any) -> FileView:
        defaults: dict[str, Any] = {
            "id": uuid7(),
            "key": "default/2026-06-01/image/abcd2345_00.png",
            "thumbnail_key": "thumbnails/abcd2345_00.webp",
            "project_id": builders.DEFAULT_PROJECT,
            "project": "default",
            "date": "2026-06-01",
            "index": 0,
            "type": "image",
            "media_type": "image/png",
            "size": len(BYTES),
            "width": 64,
            "height": 64,
            "sha256": SHA,
            "created_at": now(),
            "updated_at": now(),
        }
        file = FileView.model_validate(defaults | fields)
        self.files[file.id] = file
        return file

    async def get(self, question: FileRef) -> FileView:
        if question.id not in self.files:
            raise not_found("file", question.id, "id")
        return self.files[question.id]

    async def list(self, query: FileQuery) -> FilePage:
        self.asked.append(query)
        return FilePage(items=tuple(self.files.values()), next="more")

    async def update(self, question: UpdateFile) -> FileView:
        file = await self.get(FileRef(id=question.id))
        changed = file.model_copy(update=question.changes.model_dump(exclude_unset=True))
        self.files[file.id] = changed
        return changed

    async def delete(self, question: FileRef) -> FileView:
        await self.get(question)
        return self.files.pop(question.id)

    async def restore(self, question: FileRef) -> FileView:
        return (await self.get(question)).model_copy(update={"trashed_at": None})

    async def use(self, question: UseQuestion) -> Use:
        held = {
            each: [file for file in self.files.values() if file.project_id == each] for each in question.project_ids
        }
        items = [
            ProjectUse(project_id=each, files=len(files), bytes=sum(file.size for file in files))
            for each, files in held.items()
        ]
        return Use(items=tuple(items))

    async def stats(self, _: Empty) -> LibraryStats:
        return LibraryStats(files=len(self.files), bytes=len(BYTES))


@pytest_asyncio.fixture
async def library(door: Door, connect: Connect) -> AsyncIterator[Library]:
    """The library, with the bytes of its one picture in the store."""
    found = Library()
    await rpc.serve(
        await connect(topology.FILES),
        {
            GET_FILE: found.get,
            LIST_FILES: found.list,
            UPDATE_FILE: found.update,
            DELETE_FILE: found.delete,
            LIBRARY_STATS: found.stats,
            LIBRARY_USE: found.use,
            RESTORE_FILE: found.restore,
        },
    )
    await door.gateway.artifacts.put("default/2026-06-01/image/abcd2345_00.png", BYTES)
    await door.gateway.artifacts.put("thumbnails/abcd2345_00.webp", THUMBNAIL)
    yield found


@pytest_asyncio.fixture
async def echo(connect: Connect) -> None:
    """The prompt optimiser, played by the test."""

    async def optimize(question: OptimizeQuestion) -> OptimizedPrompt:
        return OptimizedPrompt(prompt=f"masterpiece, {question.prompt}", provider="builtin")

    await rpc.serve(await connect(topology.ECHO), {OPTIMIZE: optimize})


async def test_a_file_is_sent_whole_with_what_browsers_need(door: Door, library: Library) -> None:
    file = library.add()
    data = (await door.client.get(f"/files/{file.id}")).json()
    assert data["content_url"] == f"/api/anime/files/{file.id}/content"
    assert data["thumbnail_url"] == f"/api/anime/files/{file.id}/thumbnail"
    response = await door.client.get(f"/files/{file.id}/content")
    assert (response.status_code, response.content) == (200, BYTES)
    expected = {
        "content-type": "image/png",
        "content-length": str(len(BYTES)),
        "etag": f'"{SHA}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": 'inline; filename="abcd2345_00.png"',
        "x-content-type-options": "nosniff",
    }
    assert {name: response.headers[name] for name in expected} == expected
    saved = await door.client.get(f"/files/{file.id}/content", params={"download": True})
    assert saved.headers["content-disposition"] == 'attachment; filename="abcd2345_00.png"'


async def test_a_head_sends_the_headers_alone(door: Door, library: Library) -> None:
    response = await door.client.head(f"/files/{library.add().id}/content")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", str(len(BYTES)))


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=1200000-", 1200000, 1280000), ("bytes=-5", 1279995, 1280000)],
)
async def test_a_range_is_sent_alone(door: Door, library: Library, wanted: str, start: int, end: int) -> None:
    response = await door.client.get(f"/files/{library.add().id}/content", headers={"Range": wanted})
    assert (response.status_code, response.content) == (206, BYTES[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(BYTES)}"


async def test_ranges_and_conditions_that_do_not_hold(door: Door, library: Library) -> None:
    url = f"/files/{library.add().id}/content"
    beyond = await door.client.get(url, headers={"Range": f"bytes={len(BYTES)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(BYTES)}")
    changed = await door.client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (changed.status_code, len(changed.content)) == (200, len(BYTES))
    same = await door.client.get(url, headers={"If-None-Match": f'W/"{SHA}"'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", f'"{SHA}"')


async def test_the_thumbnail_is_sent(door: Door, library: Library) -> None:
    response = await door.client.get(f"/files/{library.add().id}/thumbnail")
    assert (response.content, response.headers["content-type"]) == (THUMBNAIL, "image/webp")
    without = await door.client.get(f"/files/{library.add(thumbnail_key=None).id}/thumbnail")
    assert (without.status_code, without.json()["code"]) == (404, "not_found")


async def test_bytes_that_are_gone_are_said_to_be_gone(door: Door, library: Library) -> None:
    file = library.add(key="default/2026-06-01/image/gone_00.png")
    for range_ in ({}, {"Range": "bytes=0-1"}):
        response = await door.client.get(f"/files/{file.id}/content", headers=range_)
        assert (response.status_code, response.json()["code"]) == (404, "content_missing")


async def test_a_type_that_a_browser_would_run_is_not_passed_on(door: Door, library: Library) -> None:
    response = await door.client.get(f"/files/{library.add(media_type='text/html').id}/content")
    assert response.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in response.headers["content-security-policy"]


@pytest.mark.parametrize(("media_type", "extension"), EXTENSIONS.items())
async def test_every_type_is_sent_as_it_is(door: Door, library: Library, media_type: str, extension: str) -> None:
    key = f"default/2026-06-01/any/abcd2345_00.{extension}"
    await door.gateway.artifacts.put(key, BYTES)
    file = library.add(key=key, media_type=media_type)
    response = await door.client.get(f"/files/{file.id}/content", headers={"Range": "bytes=100-299"})
    assert (response.status_code, response.content) == (206, BYTES[100:300])
    assert response.headers["content-type"] == media_type
    assert response.headers["content-disposition"] == f'inline; filename="abcd2345_00.{extension}"'
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "allow-scripts" not in policy
    assert ("media-src 'self'" in policy) == media_type.startswith(("video/", "audio/"))


async def test_a_sound_is_shown_without_a_picture(door: Door, library: Library) -> None:
    file = library.add(
        type="audio", media_type="audio/flac", thumbnail_key=None, width=0, height=0, duration=1.5, frames=None
    )
    told = (await door.client.get(f"/files/{file.id}")).json()
    assert (told["type"], told["duration"], told["frames"], told["thumbnail_url"]) == ("audio", 1.5, None, None)
    assert (await door.client.get("/files", params={"type": "audio"})).status_code == 200
    assert library.asked[-1].type == "audio"


async def test_files_are_found_rated_and_deleted(door: Door, library: Library) -> None:
    file = library.add()
    page = (await door.client.get("/files", params={"q": "blue", "favourite": True, "tag": "Cover", "limit": 5})).json()
    assert page["next"] == "more"
    assert page["items"][0]["content_url"]
    assert library.asked[0] == FileQuery(q="blue", favourite=True, tag="cover", limit=5)
    rated = await door.client.patch(f"/files/{file.id}", json={"rating": 4, "tags": ["Night", "cover"]})
    assert (rated.json()["rating"], rated.json()["tags"]) == (4, ["night", "cover"])
    wrong = await door.client.patch(f"/files/{file.id}", json={"rating": 6})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "rating")
    assert (await door.client.delete(f"/files/{file.id}")).status_code == 200
    assert (await door.client.get(f"/files/{file.id}")).status_code == 404


async def test_projects_are_made_read_and_changed(door: Door, ledger: Ledger) -> None:
    made = await door.client.post("/projects", json={"name": "Moonlit Academy"})
    assert made.status_code == 201
    project = made.json()
    assert made.headers["location"] == f"/api/anime/projects/{project['id']}"
    read = await door.client.get("/projects/moonlit-academy")
    assert (read.json(), read.headers["etag"]) == (project, '"1"')
    assert (project["files"], project["bytes"]) == (None, None), "files is away, and that stops nobody"
    changed = await door.client.patch(
        "/projects/moonlit-academy", json={"description": "Pilot"}, headers={"If-Match": '"1"'}
    )
    assert (changed.json()["name"], changed.json()["description"]) == ("Moonlit Academy", "Pilot")
    stale = await door.client.patch("/projects/moonlit-academy", json={"name": "X"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "changed_meanwhile")
    replaced = await door.client.put("/projects/moonlit-academy", json={"name": "Moonlit II"})
    assert (replaced.json()["name"], replaced.json()["description"]) == ("Moonlit II", "")


async def test_a_project_is_shown_with_what_the_library_holds_of_it(
    door: Door, ledger: Ledger, library: Library
) -> None:
    cover = library.add()
    made = (await door.client.post("/projects", json={"name": "Academy", "cover": str(cover.id)})).json()
    assert made["cover_url"] == f"/api/anime/files/{cover.id}/thumbnail"
    for _ in range(2):
        library.add(project_id=made["id"], project="academy")
    for shown in (
        (await door.client.get("/projects/academy")).json(),
        (await door.client.get("/projects")).json()["items"][0],
    ):
        assert (shown["files"], shown["bytes"]) == (2, 2 * len(BYTES))


async def test_a_cover_is_a_picture_of_the_library(door: Door, ledger: Ledger, library: Library) -> None:
    clip = library.add(media_type="video/mp4", type="video")
    for cover, code in ((uuid7(), "unknown_file"), (clip.id, "not_a_picture")):
        refused = await door.client.post("/projects", json={"name": "Academy", "cover": str(cover)})
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, code, "cover")
    assert not ledger.productions


async def test_who_deletes_a_project_is_told_how_many_files_go(door: Door, ledger: Ledger, library: Library) -> None:
    made = (await door.client.post("/projects", json={"name": "Academy"})).json()
    for _ in range(3):
        library.add(project_id=made["id"], project="academy")
    kept = await door.client.delete("/projects/academy")
    assert (kept.json()["deleted"], kept.json()["trashed"]) == (False, 0)
    assert kept.json()["project"]["state"] == "archived"
    stale = await door.client.delete("/projects/academy", params={"force": True}, headers={"If-Match": '"9"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "changed_meanwhile")
    gone = await door.client.delete("/projects/academy", params={"force": True})
    assert (gone.json()["deleted"], gone.json()["trashed"], gone.json()["trashed_bytes"]) == (True, 3, 3 * len(BYTES))


async def test_nothing_is_deleted_while_nobody_can_say_how_much_goes(door: Door, ledger: Ledger) -> None:
    await door.client.post("/projects", json={"name": "Academy"})
    refused = await door.client.delete("/projects/academy", params={"force": True})
    assert (refused.status_code, len(ledger.productions)) == (503, 1)


async def test_a_file_is_taken_out_of_the_trash(door: Door, library: Library) -> None:
    file = library.add(trashed_at=now())
    back = await door.client.post(f"/files/{file.id}/restore")
    assert (back.status_code, back.json()["trashed_at"]) == (200, None)
    assert back.json()["content_url"]
    assert (await door.client.post(f"/files/{uuid7()}/restore")).status_code == 404


async def test_a_key_makes_one_project(door: Door, ledger: Ledger) -> None:
    headers = {"Idempotency-Key": "academy"}
    answers = [await door.client.post("/projects", json={"name": "Academy"}, headers=headers) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(ledger.productions) == 1


async def test_a_field_at_fault_is_named_as_the_person_wrote_it(door: Door) -> None:
    taken = await door.client.post("/projects", json={"name": "A", "slug": "taken"})
    assert (taken.status_code, taken.json()["field"]) == (409, "slug")
    bad = await door.client.post("/projects", json={"name": "A", "slug": "Not A Slug"})
    assert (bad.status_code, bad.json()["field"]) == (422, "slug")
    match = await door.client.patch("/projects/x", json={"name": "A"}, headers={"If-Match": "3"})
    assert (match.status_code, match.json()["field"]) == (422, "If-Match")
    missing = await door.client.get("/projects/nowhere")
    assert (missing.status_code, missing.json()["field"]) == (404, "project")


async def test_a_prompt_is_improved(door: Door, echo: None) -> None:
    response = await door.client.post("/prompts/optimize", json={"prompt": "1girl"})
    assert (response.status_code, response.json()["prompt"]) == (200, "masterpiece, 1girl")
    blank = await door.client.post("/prompts/optimize", json={"prompt": " "})
    assert (blank.status_code, blank.json()["field"]) == (422, "prompt")


async def test_everything_runs(door: Door, library: Library, echo: None) -> None:
    response = await door.client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "ok"
    assert set(health["parts"]) == {"bus", "events", "jobs", "files", "echo", "generators"}


async def test_a_missing_optimiser_degrades_and_a_missing_library_stops(door: Door, ledger: Ledger) -> None:
    response = await door.client.get("/health")
    assert response.status_code == 503
    parts = response.json()["parts"]
    assert {name for name, part in parts.items() if not part["ok"]} == {"files", "echo"}
    assert "not running" in parts["files"]["detail"]


async def test_without_echo_health_is_degraded_only(door: Door, library: Library) -> None:
    response = await door.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_the_state_of_the_whole(door: Door, library: Library) -> None:
    stats = (await door.client.get("/stats")).json()
    assert (stats["jobs"]["epoch"], stats["files"]["files"], stats["gateway"]["streams"]) == (1, 0, 0)
    assert stats["history"]["window"] == "24h"
    assert (await door.client.get("/stats", params={"window": "7d"})).json()["history"]["window"] == "7d"
    refused = await door.client.get("/stats", params={"window": "2h"})
    assert (refused.status_code, refused.json()["field"]) == (422, "window")
    assert (await door.client.get("/queue")).json()["waiting"] == 0
    generators = (await door.client.get("/generators")).json()
    assert (generators["items"][0]["worker"], generators["next"]) == ("w1", None)
    models = (await door.client.get("/models")).json()
    assert models["items"][0]["model"]["key"] == "noop"
