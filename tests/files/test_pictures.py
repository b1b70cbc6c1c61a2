"""Looking at pictures: what decodes, what is refused, what a thumbnail is."""

from __future__ import annotations

import io
import os
import zlib

import pytest
from PIL import Image

from anime_common.contracts.vocabulary import MediaType
from anime_files.pictures import NotAPicture, Seen, look
from tests.clips import animation
from tests.files.conftest import picture


def looked(
    data: bytes, size: tuple[int, int] = (64, 48), media_type: MediaType = "image/png", limit: int = 10**6
) -> Seen:
    return look(data, media_type=media_type, size=size, max_pixels=limit, longest=384)


def seen(data: bytes, size: tuple[int, int] = (64, 48)) -> bytes | None:
    return looked(data, size).small


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("PNG", "image/png"), ("WEBP", "image/webp"), ("JPEG", "image/jpeg"), ("GIF", "image/gif")],
)
def test_a_small_picture_is_its_own_thumbnail(kind: str, media_type: MediaType) -> None:
    assert looked(picture(kind=kind), media_type=media_type) == Seen(own=True)


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("WEBP", "image/webp"), ("GIF", "image/gif")])
def test_what_moves_has_its_first_frame_as_a_thumbnail_that_does_not(kind: str, media_type: MediaType) -> None:
    found = looked(animation(kind, 5), media_type=media_type)
    assert (found.own, found.frames, found.duration) == (False, 5, 0.4)
    assert found.small is not None
    with Image.open(io.BytesIO(found.small)) as image:
        assert (image.format, image.size, getattr(image, "n_frames", 1)) == ("WEBP", (64, 48), 1)


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("GIF", "image/gif")])
def test_an_animation_without_its_end_is_refused(kind: str, media_type: MediaType) -> None:
    with pytest.raises(NotAPicture, match="cut off"):
        looked(animation(kind)[:-20], media_type=media_type)


def test_a_large_picture_gets_a_small_one() -> None:
    small = seen(picture((800, 400)), (800, 400))
    assert small is not None
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("WEBP", (384, 192))


def test_a_small_picture_of_many_bytes_is_recoded() -> None:
    out = io.BytesIO()
    Image.frombytes("RGB", (128, 128), os.urandom(128 * 128 * 3)).save(out, "PNG")
    small = seen(out.getvalue(), (128, 128))
    assert small is not None
    assert len(small) < len(out.getvalue())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_a_png_has_a_thumbnail(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (500, 500)).save(out, "PNG")
    assert seen(out.getvalue(), (500, 500)) is not None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "does not decode"),
        (b"not a picture at all", "does not decode"),
        (picture()[:60], "does not decode"),
        (picture()[:-30], "does not decode"),
        (picture(kind="JPEG"), "does not decode"),
        (picture((48, 64)), "48x64, not 64x48"),
        (picture((2000, 2000)), "more than 1000000 pixels"),
    ],
)
def test_what_is_no_such_picture_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(NotAPicture, match=text):
        seen(data)


def test_a_decompression_bomb_is_refused_before_it_unpacks() -> None:
    size = (60_000).to_bytes(4) * 2
    bomb = picture((1, 1))[:8] + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00") + chunk(b"IDAT", zlib.compress(b"x"))
    with pytest.raises(NotAPicture, match=r"too large|more than"):
        seen(bomb, (60000, 60000))


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
