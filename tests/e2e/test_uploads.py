"""A picture of somebody's own through the whole product: the door, the library, its events, its end."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from httpx_sse import aconnect_sse
from PIL import Image

from anime_cli.errors import ExitStatus
from tests.stacks import Product, data
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

AS_PNG = {"Content-Type": "image/png"}


def picture(size: tuple[int, int] = (640, 480), kind: str = "PNG", colour: str = "teal") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def waiting(product: Product) -> list[Path]:
    """What lies under `uploads/`."""
    return [path for path in (product.artifacts / "uploads").rglob("*") if path.is_file()]


async def test_from_the_door_to_the_library_and_out_again(noop: Product) -> None:
    sent = picture()
    async with aconnect_sse(noop.http, "GET", "/events", timeout=60) as source:
        events = source.aiter_sse()
        await anext(events)
        made = await noop.http.post("/uploads", content=sent, headers=AS_PNG, params={"name": "Sketch.png"})
        assert made.status_code == 201, made.text
        file = made.json()
        async for event in events:
            if event.event == "file" and file["id"] in event.data:
                assert data(event)["type"] == "uploaded"
                break
    assert made.headers["location"] == f"/api/anime/files/{file['id']}"
    assert (file["type"], file["width"], file["height"], file["name"]) == ("upload", 640, 480, "Sketch.png")
    assert file["key"].startswith("default/")
    assert file["sha256"] == hashlib.sha256(sent).hexdigest()
    assert (noop.artifacts / file["key"]).read_bytes() == sent
    assert waiting(noop) == []
    assert (await noop.http.get(f"/files/{file['id']}/content")).content == sent
    thumbnail = await noop.http.get(f"/files/{file['id']}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/webp"
    found = (await noop.http.get("/files", params={"type": "upload", "q": "sketch"})).json()["items"]
    assert [each["id"] for each in found] == [file["id"]]
    await noop.audit()
    assert (await noop.http.delete(f"/files/{file['id']}")).status_code == 200
    assert (await noop.http.get(f"/files/{file['id']}")).status_code == 404
    await eventually(lambda: not (noop.artifacts / file["key"]).exists())


async def test_the_same_key_is_the_same_file(noop: Product) -> None:
    headers = AS_PNG | {"Idempotency-Key": "one-sketch"}
    first = await noop.http.post("/uploads", content=picture(colour="navy"), headers=headers)
    again = await noop.http.post("/uploads", content=picture(colour="navy"), headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    other = await noop.http.post("/uploads", content=picture(colour="red"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert waiting(noop) == []


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        picture(kind="GIF"),
        picture()[:300],
        picture((9000, 8000)),
    ],
    ids=["empty", "svg", "gif", "truncated", "bomb"],
)
async def test_what_is_no_picture_is_refused_and_gone(noop: Product, sent: bytes) -> None:
    refused = await noop.http.post("/uploads", content=sent, headers=AS_PNG)
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (422, "not_a_picture", "file"), problem
    assert waiting(noop) == []


async def test_a_form_needs_our_own_origin(noop: Product) -> None:
    files = {"file": ("a.jpg", picture(kind="JPEG"), "image/jpeg")}
    refused = await noop.http.post("/uploads", files=files)
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_required")
    made = await noop.http.post("/uploads", files=files, headers={"Origin": noop.stack.url})
    assert made.status_code == 201, made.text
    assert made.json()["key"].endswith("_00.jpg")


async def test_projects_take_uploads_as_they_take_jobs(noop: Product) -> None:
    made = await noop.http.post("/projects", json={"name": "Sketchbook"})
    assert made.status_code == 201, made.text
    taken = await noop.http.post("/uploads", content=picture(), headers=AS_PNG, params={"project": "sketchbook"})
    file = taken.json()
    assert (file["project"], file["project_id"]) == ("sketchbook", made.json()["id"])
    await noop.http.patch("/projects/sketchbook", json={"state": "archived"})
    for project, code in (("sketchbook", "project_archived"), ("nowhere", "unknown_project")):
        answers = [
            await noop.http.post("/uploads", content=picture(), headers=AS_PNG, params={"project": project}),
            await noop.http.post("/jobs", json={"prompt": "1girl", "project": project}),
        ]
        for answer in answers:
            problem = answer.json()
            assert (answer.status_code, problem["code"], problem["field"]) == (422, code, "project")


async def test_while_files_is_away_nothing_is_taken(noop: Product) -> None:
    await noop.stack.halt("files")
    try:
        away = await noop.http.post("/uploads", content=picture(), headers=AS_PNG | {"Idempotency-Key": "patient"})
    finally:
        await noop.stack.resume("files")
    assert away.status_code == 503
    made = await noop.http.post("/uploads", content=picture(), headers=AS_PNG | {"Idempotency-Key": "patient"})
    assert made.status_code == 201, made.text
    assert waiting(noop) == []
    await noop.audit()


async def test_from_the_command_line(noop: Product) -> None:
    one, two, text = noop.home / "one.png", noop.home / "zwei ✨.webp", noop.home / "notes.png"
    one.write_bytes(picture((32, 32)))
    two.write_bytes(picture((48, 32), kind="WEBP"))
    text.write_text("not a picture")
    status, out, err = await noop.anime("upload", str(one), str(two), "--json")
    assert status == ExitStatus.OK, err
    files = [json.loads(line) for line in out.splitlines()]
    assert [(file["name"], file["width"], file["type"]) for file in files] == [
        ("one.png", 32, "upload"),
        ("zwei ✨.webp", 48, "upload"),
    ]
    status, out, err = await noop.anime("upload", str(one), str(text), "--project", "default")
    assert status == ExitStatus.USAGE
    assert out.startswith(f"{one}: file ")
    assert f"{text} is no PNG, JPEG or WebP picture" in err
    status, _, err = await noop.anime("upload", str(one), "--project", "nowhere")
    assert status == ExitStatus.USAGE
    assert f"{one}: project: there is no project 'nowhere'" in err
    status, out, _ = await noop.anime("files", "list", "zwei")
    assert files[1]["id"] in out
