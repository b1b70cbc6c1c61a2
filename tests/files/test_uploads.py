"""Uploads on a real database and folder: what is taken, what is refused, and that each is taken once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from anime_common import failpoints
from anime_common.artifacts import upload_key
from anime_common.contracts.files import FileDeleted, FileQuery, FileRef, FileUploaded, FileView, RegisterUpload
from anime_common.failpoints import FailpointError
from anime_common.messages import uuid7
from anime_common.outcomes import Refused, Unavailable
from anime_files.expiry import UploadSweeper
from anime_files.model import DEFAULT_TEMPLATE, expired_uploads
from anime_files.pictures import NotAPicture, inspect
from anime_files.uploads import Uploads
from tests.files.conftest import PROJECT, Desk, picture
from tests.files.test_pictures import chunk

POINTS = ("files.upload.after_reserve", "files.upload.after_copy", "files.upload.after_commit")
GRACE = 60.0
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><script>alert(1)</script></svg>'


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    header = (60_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"
    return picture((1, 1))[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"x"))


def animated(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def turned(orientation: int, size: tuple[int, int] = (800, 400)) -> bytes:
    """A JPEG whose left half is red, with an EXIF orientation."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def question(data: bytes, **changes: Any) -> RegisterUpload:
    known: dict[str, Any] = {
        "id": uuid7(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "project_id": PROJECT,
        "project": "sky",
        "name": "My Sketch.png",
    }
    return RegisterUpload(**known | changes)


class Intake:
    """The part of files that takes uploads, on a desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.uploads = Uploads(
            desk.pool,
            desk.artifacts,
            DEFAULT_TEMPLATE,
            ZoneInfo("Asia/Tokyo"),
            max_pixels=2_000_000,
            thumbnail_pixels=384,
            committed=self.committed,
            looking=asyncio.Semaphore(1),
        )
        self.told = 0
        self.sweeper = UploadSweeper(desk.pool, desk.artifacts, asyncio.Event(), 30.0, GRACE, self.committed)

    def committed(self) -> None:
        self.told += 1

    async def leave(self, data: bytes, ident: UUID, age: float = 0.0) -> None:
        """Put bytes where the gateway leaves them, so many seconds ago."""
        await self.desk.artifacts.put(upload_key(ident), data)
        path = self.desk.artifacts.path(upload_key(ident))
        assert path is not None
        then = datetime.now(UTC).timestamp() - age
        os.utime(path, (then, then))

    async def take(self, data: bytes, **changes: Any) -> FileView:
        asked = question(data, **changes)
        await self.leave(data, asked.id)
        return await self.uploads.register(asked)

    async def refusal(self, asked: RegisterUpload) -> Refused:
        with pytest.raises(Refused) as refusal:
            await self.uploads.register(asked)
        return refusal.value


@pytest.fixture
def intake(desk: Desk) -> Intake:
    return Intake(desk)


async def test_a_picture_becomes_a_file_of_the_library(intake: Intake) -> None:
    data = picture((640, 480))
    asked = question(data)
    await intake.leave(data, asked.id)
    file = await intake.uploads.register(asked)
    day = datetime.now(ZoneInfo("Asia/Tokyo")).date()
    assert file.key == f"sky/{day}/upload/{asked.id.hex[-8:]}_00.png"
    assert (file.id, file.type, file.media_type, file.width, file.height) == (asked.id, "upload", "image/png", 640, 480)
    assert (file.name, file.project, file.project_id, file.date) == ("My Sketch.png", "sky", PROJECT, day)
    assert (file.job_id, file.attempt_id, file.code, file.settings, file.index) == (None, None, None, None, 0)
    assert await intake.desk.artifacts.get(file.key) == data
    assert file.thumbnail_key is not None
    assert intake.desk.lying() == sorted([file.key, file.thumbnail_key])
    (told,) = await intake.desk.said()
    assert told == FileUploaded(file_id=file.id, epoch=0, file=file)
    assert await intake.desk.said_ids() == [f"0:files:uploaded:{file.id}:1"]
    assert await intake.desk.library.get(FileRef(id=file.id)) == file


@pytest.mark.parametrize(("kind", "media_type", "end"), [("PNG", "image/png", "png"), ("WEBP", "image/webp", "webp")])
async def test_a_small_picture_is_its_own_thumbnail(intake: Intake, kind: str, media_type: str, end: str) -> None:
    file = await intake.take(picture(kind=kind), name="wrong.jpg")
    assert (file.media_type, file.key[-4:].lstrip("."), file.thumbnail_key) == (media_type, end[-4:], file.key)


async def test_it_is_found_by_its_name_curated_and_deleted(intake: Intake) -> None:
    file = await intake.take(picture(), name="Rooftop at dusk.png")
    library = intake.desk.library
    for query in ({"q": "rooftop"}, {"type": "upload"}, {"project": "sky"}):
        assert [each.id for each in (await library.list(FileQuery.model_validate(query))).items] == [file.id]
    await library.delete(FileRef(id=file.id))
    assert isinstance((await intake.desk.said())[-1], FileDeleted)
    assert await intake.desk.sweeper.sweep() == 1
    assert intake.desk.lying() == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"hello", "no PNG, JPEG or WebP picture"),
        (SVG, "no PNG, JPEG or WebP picture"),
        (picture(kind="GIF"), "no PNG, JPEG or WebP picture"),
        (picture(kind="TIFF"), "no PNG, JPEG or WebP picture"),
        (picture((500, 500))[:200], "damaged"),
        (picture()[:-30], "damaged"),
        (picture((500, 500), kind="JPEG")[:-200], "damaged"),
        (picture((500, 500), kind="WEBP")[:-20], "picture|damaged"),
        (bomb(), "pixels"),
        (picture((2001, 1000)), "2001x1000 pixels; at most 2000000"),
        (animated("PNG"), "animated"),
        (animated("WEBP"), "animated"),
    ],
    ids=[
        *("empty", "text", "svg", "gif", "tiff", "cut png", "png without end", "cut jpeg", "cut webp"),
        *("bomb", "large", "apng", "animated webp"),
    ],
)
async def test_what_is_no_picture_is_refused_and_not_kept(intake: Intake, data: bytes, said: str) -> None:
    asked = question(data)
    await intake.leave(data, asked.id)
    refusal = await intake.refusal(asked)
    assert (refusal.status, refusal.code, refusal.field) == (422, "not_a_picture", "file")
    with pytest.raises(NotAPicture, match=said):
        inspect(data, max_pixels=2_000_000, longest=384)
    assert intake.desk.lying() == []
    assert await intake.desk.rows() == []
    assert await intake.desk.said() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_seen_as_they_are_shown(orientation: int) -> None:
    found = inspect(turned(orientation), max_pixels=10**6, longest=384)
    lying = orientation >= 5
    assert (found.width, found.height) == ((400, 800) if lying else (800, 400))
    assert found.thumbnail is not None
    with Image.open(io.BytesIO(found.thumbnail)) as small:
        assert small.size == ((192, 384) if lying else (384, 192))
        left, top = small.convert("RGB").getpixel((5, 100)), small.convert("RGB").getpixel((100, 5))
    red = {1: left, 4: left, 5: top, 6: top}.get(orientation)
    if red is not None:
        assert isinstance(red, tuple)
        assert red[0] > red[2]


def test_exif_data_that_nobody_can_read_turns_nothing() -> None:
    data = turned(6)
    at = data.index(b"Exif\0\0") + 6
    found = inspect(data[:at] + b"\xff" * 8 + data[at + 8 :], max_pixels=10**6, longest=384)
    assert (found.width, found.height) == (800, 400)


def test_a_jpeg_with_more_pictures_behind_it_is_one_picture() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (32, 24))])
    found = inspect(out.getvalue(), max_pixels=10**6, longest=384)
    assert (found.media_type, found.width, found.height) == ("image/jpeg", 64, 48)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_a_png_has_a_thumbnail(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (500, 500)).save(out, "PNG")
    assert inspect(out.getvalue(), max_pixels=10**6, longest=384).thumbnail is not None


async def test_the_same_question_has_the_same_answer(intake: Intake) -> None:
    data = picture((640, 480))
    asked = question(data)
    await intake.leave(data, asked.id)
    first = await intake.uploads.register(asked)
    assert await intake.uploads.register(asked) == first
    await intake.leave(data, asked.id)
    assert await intake.uploads.register(asked) == first
    assert intake.desk.lying() == sorted([first.key, str(first.thumbnail_key)])
    assert len(await intake.desk.said()) == 1


async def test_many_at_once_are_one(intake: Intake) -> None:
    data = picture((640, 480))
    asked = question(data)
    await intake.leave(data, asked.id)
    files = await asyncio.gather(*(intake.uploads.register(asked) for _ in range(8)))
    assert len({file.id for file in files}) == 1
    assert len(await intake.desk.rows("filed")) == len(await intake.desk.said()) == 1
    assert len(intake.desk.lying()) == 2


async def test_two_instances_at_once_are_one(intake: Intake) -> None:
    data, other = picture((640, 480)), Intake(intake.desk)
    for _ in range(10):
        asked = question(data)
        await intake.leave(data, asked.id)
        both = (intake.uploads.register(asked), other.uploads.register(asked))
        found = await asyncio.gather(*both, return_exceptions=True)
        # One may have been in the other's way: whoever is told so asks again.
        assert all(isinstance(each, FileView | Unavailable) for each in found), found
        file = await intake.uploads.register(asked)
        assert await intake.desk.artifacts.get(file.key) == data
    assert len(await intake.desk.rows("filed")) == len(await intake.desk.said()) == 10
    assert len(intake.desk.lying()) == 20


@pytest.mark.parametrize("point", POINTS)
async def test_dying_at_any_point_takes_it_once(intake: Intake, point: str) -> None:
    data = picture((640, 480))
    asked = question(data)
    await intake.leave(data, asked.id)
    failpoints.configure(f"{point}=error")
    with pytest.raises(FailpointError):
        await intake.uploads.register(asked)
    file = await intake.uploads.register(asked)
    assert await intake.desk.artifacts.get(file.key) == data
    assert intake.desk.lying() == sorted([file.key, str(file.thumbnail_key)])
    assert len(await intake.desk.said()) == 1


async def test_an_id_stands_for_one_upload(intake: Intake) -> None:
    file = await intake.take(picture())
    other = picture(colour="red")
    for asked in (question(other, id=file.id), question(picture(), id=file.id, project_id=uuid7())):
        await intake.leave(other, asked.id)
        refusal = await intake.refusal(asked)
        assert (refusal.status, refusal.code) == (409, "idempotency_conflict")
    assert intake.desk.lying() == [file.key]
    filed = await intake.desk.filed()
    (row,) = [row for row in await intake.desk.rows("filed") if row["job_id"] == filed.job.id]
    assert (await intake.refusal(question(other, id=row["id"]))).code == "idempotency_conflict"


async def test_bytes_that_are_not_those_announced_are_not_taken(intake: Intake) -> None:
    data = picture()
    for wrong in (question(data, sha256="0" * 64), question(data, size=len(data) + 1)):
        await intake.leave(data, wrong.id)
        assert (await intake.refusal(wrong)).status == 409
    assert intake.desk.lying() == []
    assert await intake.desk.rows() == []


async def test_bytes_that_are_not_there(intake: Intake) -> None:
    refusal = await intake.refusal(question(picture()))
    assert (refusal.status, refusal.code) == (503, "upload_missing")


async def test_a_deleted_upload_does_not_come_back(intake: Intake) -> None:
    data = picture()
    file = await intake.take(data)
    await intake.desk.library.delete(FileRef(id=file.id))
    await intake.leave(data, file.id)
    refusal = await intake.refusal(question(data, id=file.id))
    assert (refusal.status, refusal.code) == (409, "upload_deleted")


async def test_a_key_that_is_taken_gets_a_suffix(intake: Intake) -> None:
    first = await intake.take(picture(), id=UUID("01890000-0000-7000-8000-0000deadbeef"))
    second = await intake.take(picture(), id=UUID("01890000-0000-7000-8000-1111deadbeef"))
    assert second.key == first.key.replace("deadbeef_00", "deadbeef_00-2")
    stray = first.key.replace("deadbeef", "0badcafe")
    await intake.desk.artifacts.put(stray, b"nobody knows")
    third = await intake.take(picture(), id=UUID("01890000-0000-7000-8000-00000badcafe"))
    assert third.key == stray.replace("_00", "_00-2")
    assert await intake.desk.artifacts.get(stray) == b"nobody knows"


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "C:\\boot.ini", "a/b\\c.png", "%2e%2e%2f", "Ünï ✨.png"])
async def test_no_path_is_made_of_a_name(intake: Intake, name: str) -> None:
    file = await intake.take(picture(), name=name)
    assert file.name == name
    assert file.key.split("/")[2:] == ["upload", f"{file.id.hex[-8:]}_00.png"]
    assert intake.desk.lying() == [file.key]


@pytest.mark.parametrize(
    "changes",
    [
        *({"name": name} for name in ("", "  ", "a\nb", "a\0b", "a\u2028b", "x" * 256)),
        *({"project": slug} for slug in ("../sky", "Sky", "", "a/b", ".")),
        {"sha256": "xyz"},
        {"size": -1},
        {"colour": "red"},
    ],
)
def test_a_bad_question_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        question(picture(), **changes)


class TestExpiry:
    async def test_what_nobody_registered_goes_after_a_while(self, intake: Intake) -> None:
        old, new = uuid7(), uuid7()
        await intake.leave(b"old", old, age=2 * GRACE)
        await intake.leave(b"new", new, age=GRACE / 2)
        assert await intake.sweeper.sweep() == 1
        assert intake.desk.lying() == [upload_key(new)]

    async def test_what_a_killed_gateway_was_writing_goes(self, intake: Intake) -> None:
        folder = intake.desk.root / "uploads"
        folder.mkdir(parents=True)
        for name, age in (("a#1", 2 * GRACE), ("b#1", 0.0)):
            (folder / name).touch()
            then = datetime.now(UTC).timestamp() - age
            os.utime(folder / name, (then, then))
        assert await intake.sweeper.sweep() == 1
        assert intake.desk.lying() == ["uploads/b#1"]

    async def test_a_registration_that_was_given_up_is_withdrawn_and_may_be_taken_up_again(
        self, intake: Intake
    ) -> None:
        data = picture((640, 480))
        asked = question(data)
        await intake.leave(data, asked.id)
        failpoints.configure("files.upload.after_copy=error")
        with pytest.raises(FailpointError):
            await intake.uploads.register(asked)
        async with intake.desk.pool.acquire() as connection:
            await connection.execute("UPDATE files SET updated_at = now() - interval '2 minutes'")
        assert await intake.sweeper.sweep() == 0
        assert intake.told == 1
        assert await intake.desk.sweeper.sweep() == 1
        assert intake.desk.lying() == [upload_key(asked.id)]
        file = await intake.uploads.register(asked)
        assert await intake.desk.artifacts.get(file.key) == data
        assert await intake.desk.sweeper.sweep() == 0
        assert intake.desk.lying() == sorted([file.key, str(file.thumbnail_key)])

    async def test_whoever_comes_too_late_leaves_nothing(self, intake: Intake) -> None:
        data = picture((640, 480))
        asked = question(data)
        await intake.leave(data, asked.id)
        failpoints.configure("files.upload.after_copy=error")
        with pytest.raises(FailpointError):
            await intake.uploads.register(asked)
        async with intake.desk.pool.acquire() as connection:
            await connection.execute("UPDATE files SET state = 'deleted', removed_at = now()")
        with pytest.raises(Refused):
            await intake.uploads._finish(asked, "thumbnails/x.webp")
        assert await intake.desk.sweeper.sweep() == 1
        assert intake.desk.lying() == [upload_key(asked.id)]
        assert (await intake.refusal(asked)).code == "upload_deleted"
        assert intake.desk.lying() == []

    def test_what_is_not_ours_stays(self) -> None:
        now = datetime.now(UTC)
        ours = upload_key(uuid7())
        strange = ["uploads/readme.txt", f"uploads/x/{uuid7()}", f"uploads/{uuid7().hex}", "uploads/a.png"]
        found = dict.fromkeys([ours, *strange], now - timedelta(hours=2))
        assert expired_uploads(found, now) == [ours]
        assert expired_uploads(found, now - timedelta(hours=3)) == []
