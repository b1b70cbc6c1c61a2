"""Uploads at the door: what comes in, what is refused before and while it is read, and what files is asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from anime_common import rpc, topology
from anime_common.artifacts import upload_key
from anime_common.contracts.files import REGISTER_UPLOAD, FileUploaded, FileView, RegisterUpload
from anime_common.contracts.projects import Project, ProjectState
from anime_common.messages import Outgoing, uuid7
from anime_common.outcomes import Refused
from anime_common.tokens import Scope, TokenFile, mint
from anime_gateway.uploads import FRAME, last_part
from tests import builders
from tests.gateway.conftest import Connect, Door, OpenDoor
from tests.gateway.ledger import Ledger, now
from tests.gateway.test_doors import check
from tests.waiting import eventually

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200
AS_PNG = {"Content-Type": "image/png"}
LIMIT = 64 * 1024
BOUNDARY = "x" * 20


def form(*parts: bytes, end: bytes = b"--" + BOUNDARY.encode() + b"--\r\n") -> bytes:
    return b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data


def file_of(question: RegisterUpload) -> FileView:
    return FileView(
        **question.model_dump(),
        key=f"{question.project}/2026-06-01/upload/abcd2345_00.png",
        thumbnail_key=None,
        date=datetime.now(UTC).date(),
        index=0,
        type="upload",
        media_type="image/png",
        width=64,
        height=64,
        created_at=now(),
        updated_at=now(),
    )


@dataclass
class Shelf:
    """The files service, played by the test: takes whatever lies in the store, unless told to refuse."""

    door: Door
    asked: list[RegisterUpload] = field(default_factory=list)
    taken: dict[UUID, bytes] = field(default_factory=dict)
    refusal: Refused | None = None
    late: float = 0.0

    async def register(self, question: RegisterUpload) -> FileView:
        self.asked.append(question)
        if self.late and len(self.asked) == 1:
            await asyncio.sleep(self.late)
        if self.refusal is not None:
            raise self.refusal
        self.taken[question.id] = await self.door.gateway.artifacts.get(upload_key(question.id))
        return file_of(question)

    async def left(self) -> list[str]:
        """All that lies in the store."""
        root = self.door.gateway.artifacts.root
        assert root is not None
        return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def project(slug: str, state: ProjectState = ProjectState.ACTIVE, ident: UUID | None = None) -> Project:
    return Project(id=ident or uuid7(), slug=slug, name=slug, state=state, created_at=now(), updated_at=now())


@pytest_asyncio.fixture
async def door(open_door: OpenDoor) -> Door:
    return await open_door(gateway_max_upload=LIMIT)


@pytest_asyncio.fixture
async def shelf(door: Door, connect: Connect, ledger: Ledger) -> Shelf:
    """Files at its place, and projects in the ledger."""
    for known in (
        project("default", ident=builders.DEFAULT_PROJECT),
        project("sky"),
        project("old", ProjectState.ARCHIVED),
    ):
        ledger.productions[str(known.id)] = known
    found = Shelf(door)
    await rpc.serve(await connect(topology.FILES), {REGISTER_UPLOAD: found.register})
    return found


async def send(door: Door, content: Any = PNG, headers: dict[str, str] | None = None, **params: str) -> httpx.Response:
    return await door.client.post("/uploads", content=content, headers=AS_PNG | (headers or {}), params=params)


async def send_form(door: Door, *parts: bytes, **params: str) -> httpx.Response:
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Origin": f"http://127.0.0.1:{door.port}",
    }
    return await door.client.post("/uploads", content=form(*parts), headers=headers, params=params)


async def in_pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/webp", "Image/PNG; x=y"])
async def test_a_picture_as_the_body(door: Door, shelf: Shelf, kind: str) -> None:
    response = await send(door, headers={"Content-Type": kind}, name="sketch.png", project="sky")
    assert response.status_code == 201, response.text
    (asked,) = shelf.asked
    file = response.json()
    assert response.headers["location"] == f"/api/anime/files/{asked.id}"
    assert (file["id"], file["content_url"]) == (str(asked.id), f"/api/anime/files/{asked.id}/content")
    assert shelf.taken == {asked.id: PNG}
    assert (asked.size, asked.sha256) == (len(PNG), hashlib.sha256(PNG).hexdigest())
    assert (asked.project, asked.name) == ("sky", "sketch.png")
    assert await shelf.left() == [upload_key(asked.id)]


async def test_a_body_without_a_length(door: Door, shelf: Shelf) -> None:
    assert (await send(door, in_pieces(PNG, 777))).status_code == 201
    assert list(shelf.taken.values()) == [PNG]
    assert shelf.asked[0].project_id == builders.DEFAULT_PROJECT


async def test_a_form_of_a_browser(door: Door, shelf: Shelf) -> None:
    origin = {"Origin": f"http://127.0.0.1:{door.port}"}
    files = {"file": ("ルーフ.png", PNG, "application/octet-stream")}
    response = await door.client.post("/uploads", files=files, data={"project": "sky"}, headers=origin)
    assert response.status_code == 201, response.text
    (asked,) = shelf.asked
    assert (asked.project, asked.name, shelf.taken[asked.id]) == ("sky", "ルーフ.png", PNG)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([part("file", PNG, "a.png"), part("project", b"sky")], ("sky", "a.png")),
        ([part("file", PNG)], ("default", None)),
        ([part("project", b""), part("file", PNG, "")], ("default", None)),
        ([part("file", PNG, "C:\\\\fakepath\\\\b.png")], ("default", "b.png")),
        ([part("file", PNG, "../../etc/passwd")], ("default", "passwd")),
        ([part("file", PNG, "../..")], ("default", "..")),
        ([part("file", PNG, "/")], ("default", None)),
    ],
)
async def test_what_a_form_says(door: Door, shelf: Shelf, parts: list[bytes], wanted: tuple[str, str | None]) -> None:
    response = await send_form(door, *parts)
    assert response.status_code == 201, response.text
    (asked,) = shelf.asked
    assert (asked.project, asked.name) == wanted
    assert shelf.taken == {asked.id: PNG}


async def test_a_form_in_tiny_pieces(door: Door, shelf: Shelf) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Origin": f"http://127.0.0.1:{door.port}"}
    tricky = PNG[:600] + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n--\r\n" + PNG[:600]
    body = form(part("file", tricky, "a.png"), part("project", b"sky"))
    response = await door.client.post("/uploads", content=in_pieces(body, 3), headers=headers)
    assert response.status_code == 201, response.text
    assert list(shelf.taken.values()) == [tricky]


@pytest.mark.parametrize(
    ("parts", "status", "code", "fault"),
    [
        ([part("project", b"sky")], 422, "invalid", "file"),
        ([], 422, "invalid", "file"),
        ([part("file", PNG), part("file", b"x")], 422, "invalid", "file"),
        ([part("file", PNG), part("project", b"sky"), part("project", b"sky")], 422, "invalid", "project"),
        ([part("file", PNG), part("projct", b"sky")], 422, "invalid", "projct"),
        ([part("file", PNG), part("project", b"nowhere")], 422, "unknown_project", "project"),
        ([part("file", PNG), part("project", b"x" * 65)], 422, "unknown_project", "project"),
        ([part("file", PNG), part("project", b"a\0b")], 422, "unknown_project", "project"),
        ([part("file", PNG), part("project", b"x" * 2000)], 400, "malformed_form", None),
        ([part("file", PNG, "a\tb.png")], 422, "invalid", "name"),
        ([part("file", PNG, "x" * 256)], 422, "invalid", "name"),
        ([b"X-Header: y\r\n\r\n" + PNG], 400, "malformed_form", None),
        ([b"Content-Disposition: attachment\r\n\r\n" + PNG], 400, "malformed_form", None),
        ([b"no colon\r\n\r\n" + PNG], 400, "malformed_form", None),
    ],
)
async def test_a_bad_form_is_refused_and_not_kept(
    door: Door, shelf: Shelf, parts: list[bytes], status: int, code: str, fault: str | None
) -> None:
    check(await send_form(door, *parts), status, code, fault)
    assert shelf.asked == []
    assert await shelf.left() == []


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=" + "b" * 300])
async def test_a_form_without_a_usable_boundary(door: Door, shelf: Shelf, kind: str) -> None:
    headers = {"Content-Type": kind, "Origin": f"http://127.0.0.1:{door.port}"}
    check(await door.client.post("/uploads", content=b"--x--", headers=headers), 400, "malformed_form")


async def test_a_form_that_ends_too_early(door: Door, shelf: Shelf) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Origin": f"http://127.0.0.1:{door.port}"}
    cut = form(part("file", PNG, "a.png"))[:-30]
    check(await door.client.post("/uploads", content=cut, headers=headers), 400, "malformed_form")
    assert await shelf.left() == []


async def test_a_form_of_a_foreign_page_is_refused(door: Door, shelf: Shelf) -> None:
    files = {"file": ("a.png", PNG, "image/png")}
    check(await door.client.post("/uploads", files=files), 403, "origin_required", "Origin")
    for origin in ("https://evil.example", "null"):
        response = await door.client.post("/uploads", files=files, headers={"Origin": origin})
        check(response, 403, "foreign_origin", "Origin")
        check(await send(door, headers={"Origin": origin}), 403, "foreign_origin", "Origin")
    asked = await door.client.options("/uploads", headers={"Origin": "https://evil.example"})
    check(asked, 403, "foreign_origin", "Origin")
    assert shelf.asked == []


async def test_a_token_may_send_a_form_and_one_for_reading_may_not(
    open_door: OpenDoor, shelf: Shelf, tmp_path: Path
) -> None:
    tokens, kept = {}, []
    for scope in (Scope.READ, Scope.SUBMIT):
        token, tokens[scope] = mint(scope.value, scope, datetime.now(UTC), None)
        kept.append(token)
    file = tmp_path / "tokens.json"
    file.write_text(TokenFile(tokens=tuple(kept)).model_dump_json())
    door = await open_door(gateway_tokens=file)
    files = {"file": ("a.png", PNG, "image/png")}
    for scope, status in ((Scope.SUBMIT, 201), (Scope.READ, 403)):
        headers = {"Authorization": f"Bearer {tokens[scope]}"}
        assert (await door.client.post("/uploads", files=files, headers=headers)).status_code == status
    wrong = await door.client.post("/uploads", files=files, headers={"Authorization": "Bearer anime_x"})
    check(wrong, 401, "invalid_token")


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "image/gif", "image/svg+xml", "application/x-www-form-urlencoded", ""]
)
async def test_other_types_are_refused(door: Door, shelf: Shelf, kind: str) -> None:
    problem = check(await send(door, headers={"Content-Type": kind}), 415, "not_a_picture_type", "Content-Type")
    assert "image/webp" in problem["detail"]
    assert "multipart/form-data" in problem["detail"]


async def test_elsewhere_pictures_are_still_no_json(door: Door) -> None:
    for path in ("/jobs", "/uploads/", "/uploads/x"):
        check(await door.client.post(path, content=PNG, headers=AS_PNG), 415, "not_json", "Content-Type")
    for method in ("GET", "PUT", "DELETE"):
        response = await door.client.request(method, "/uploads", content=PNG, headers=AS_PNG)
        check(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_much_is_refused_with_the_limit_and_not_kept(door: Door, shelf: Shelf, chunked: bool) -> None:
    big = bytes(LIMIT + 1)
    response = await send(door, in_pieces(big) if chunked else big)
    problem = check(response, 413, "too_large", "file")
    assert str(LIMIT) in problem["detail"]
    assert response.headers["connection"] == "close"
    assert shelf.asked == []
    assert await shelf.left() == []
    exactly = await send(door, in_pieces(bytes(LIMIT)) if chunked else bytes(LIMIT))
    assert exactly.status_code == 201


async def test_too_much_in_a_form(door: Door, shelf: Shelf) -> None:
    assert (await send_form(door, part("file", bytes(LIMIT), "a.png"))).status_code == 201
    for data in (bytes(LIMIT + 1), bytes(LIMIT + FRAME + 1)):
        check(await send_form(door, part("file", data, "a.png")), 413, "too_large", "file")
    assert len(await shelf.left()) == 1


@pytest.mark.parametrize(
    ("ref", "code"),
    [("nowhere", "unknown_project"), ("../sky", "unknown_project"), ("old", "project_archived"), ("x" * 65, "invalid")],
)
async def test_a_project_that_takes_nothing(door: Door, shelf: Shelf, ref: str, code: str) -> None:
    check(await send(door, project=ref), 422, code, "project")
    assert await shelf.left() == []
    assert shelf.asked == []


async def test_a_project_is_named_once(door: Door, shelf: Shelf) -> None:
    file = part("file", PNG, "a.png")
    check(await send_form(door, file, part("project", b"default"), project="sky"), 422, "invalid", "project")
    assert (await send_form(door, file, part("project", b"sky"), project="sky")).status_code == 201


@pytest.mark.parametrize("params", [{"name": "a\nb"}, {"name": "x" * 256}, {"name": ""}, {"nam": "x"}])
async def test_a_bad_query_is_refused(door: Door, shelf: Shelf, params: dict[str, str]) -> None:
    response = await door.client.post("/uploads", content=PNG, headers=AS_PNG, params=params)
    check(response, 422, "invalid", next(iter(params)))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (None, None),
        ("a.png", "a.png"),
        ("../../a b.png", "a b.png"),
        ("\\\\host\\share\\c.png", "c.png"),
        ("folder/", None),
        ("..", ".."),
    ],
)
def test_of_a_name_its_last_part_is_kept(name: str | None, kept: str | None) -> None:
    assert last_part(name) == kept


async def test_a_key_makes_one_upload(door: Door, shelf: Shelf) -> None:
    key = {"Idempotency-Key": "sketch-1"}
    answers = [await send(door, headers=key) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await send(door)).json()["id"] != answers[0].json()["id"]
    check(await send(door, headers={"Idempotency-Key": "x" * 256}), 422, "invalid", "Idempotency-Key")


async def test_what_files_refuses_is_passed_on(door: Door, shelf: Shelf) -> None:
    shelf.refusal = Refused(422, "not_a_picture", "this cannot be taken: it is empty", "file")
    check(await send(door, b""), 422, "not_a_picture", "file")


async def test_files_that_answers_late_is_asked_again(open_door: OpenDoor, shelf: Shelf) -> None:
    door = await open_door(gateway_upload_wait=0.2)
    shelf.late = 0.5
    assert (await send(door)).status_code == 201
    assert len(shelf.asked) == 2
    assert shelf.asked[0] == shelf.asked[1]


async def test_without_files_or_the_ledger(door: Door, ledger: Ledger) -> None:
    known = project("default")
    ledger.productions[str(known.id)] = known
    problem = check(await send(door), 503, "unavailable")
    assert "files" in problem["detail"]


async def test_whoever_stops_sending_is_let_go(open_door: OpenDoor, shelf: Shelf) -> None:
    door = await open_door(gateway_stuck_after=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"POST /api/anime/uploads HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Type: image/png\r\n"
    writer.write(head.encode() + b"Content-Length: 1000\r\n\r\nabc")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in answer
    assert await shelf.left() == []


async def test_a_lost_connection_leaves_nothing(door: Door, shelf: Shelf) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"POST /api/anime/uploads HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Type: image/png\r\n"
    writer.write(head.encode() + b"Content-Length: 60000\r\n\r\n" + bytes(30_000))
    await writer.drain()
    await eventually(lambda: door.gateway.uploading._value < door.runtime.settings.gateway_uploads)
    writer.transport.abort()
    await eventually(lambda: door.gateway.uploading._value == door.runtime.settings.gateway_uploads)
    assert await shelf.left() == []
    assert shelf.asked == []


async def test_uploads_wait_for_each_other(open_door: OpenDoor, shelf: Shelf) -> None:
    door = await open_door(gateway_uploads=1)
    answers = await asyncio.gather(*(send(door) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [201] * 5


async def test_everybody_hears_of_it(door: Door, ledger: Ledger, connect: Connect) -> None:
    question = RegisterUpload(id=uuid7(), sha256="0" * 64, size=5, project_id=uuid7(), project="sky", name="a.png")
    event = FileUploaded(file_id=question.id, epoch=1, file=file_of(question))
    files = await connect(topology.FILES)
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        await files.publish(Outgoing(event, event.ident()))
        (*_, heard) = await stream.until(lambda event: event.event == "file")
    assert (heard.data["type"], heard.data["file_id"], heard.data["job_id"]) == ("uploaded", str(question.id), None)
    assert heard.data["file"]["content_url"] == f"/api/anime/files/{question.id}/content"
