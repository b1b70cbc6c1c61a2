"""Looking at clips and sounds: what is refused, and which frame is the poster."""

from __future__ import annotations

import functools
import io
from typing import Any

import pytest
from PIL import Image

from anime_files.clips import LOOKED_AT, look
from anime_files.pictures import NotAPicture, Seen
from tests.clips import clip, frames, sound, still

SIZE = (64, 48)


def looked(data: bytes, media_type: Any = "video/mp4", size: tuple[int, int] = SIZE, limit: int = 10**6) -> Seen:
    return look(data, media_type=media_type, size=size, max_pixels=limit, longest=384)


def poster(data: bytes, **known: Any) -> Image.Image:
    small = looked(data, **known).small
    assert small is not None
    image = Image.open(io.BytesIO(small))
    assert image.format == "WEBP"
    return image.convert("RGB")


def brightness(image: Image.Image) -> int:
    corner: Any = image.getpixel((image.width - 4, image.height - 4))
    return int(max(corner))


def test_a_clip_says_how_long_it_is_and_has_a_poster() -> None:
    found = looked(clip())
    assert (found.own, found.duration, found.frames) == (False, 1.0, 8)
    image = poster(clip())
    assert image.size == SIZE
    red, green, blue = image.getpixel((50, 40))  # type: ignore[misc]
    assert abs(red) < 24
    assert abs(green - 128) < 24
    assert abs(blue - 128) < 24


def test_a_poster_is_as_large_as_a_thumbnail() -> None:
    wide = clip(frames(2, (960, 480)), container="webm", codec="libvpx")
    assert poster(wide, media_type="video/webm", size=(960, 480)).size == (384, 192)


def test_a_clip_that_begins_in_the_dark_shows_what_comes_after() -> None:
    dark = Image.new("RGB", SIZE, "black")
    assert brightness(poster(clip([dark] * 4 + frames(4, colours=("white",))))) > 200


def test_a_clip_that_stays_dark_shows_its_first_frame() -> None:
    dark = Image.new("RGB", SIZE, "black")
    assert brightness(poster(clip([dark] * (LOOKED_AT + 8)))) < 24


def test_a_sound_has_no_picture() -> None:
    assert looked(sound(0.5), "audio/wav", (0, 0)) == Seen(duration=0.5)


@pytest.mark.parametrize(
    ("data", "known", "text"),
    [
        (clip, {"media_type": "video/webm"}, "it is video/mp4, not video/webm as announced"),
        (clip, {"media_type": "audio/wav", "size": (0, 0)}, "it is video/mp4, not audio/wav as announced"),
        (sound, {}, "it is audio/wav, not video/mp4 as announced"),
        (still, {}, "it is image/png, not video/mp4 as announced"),
        (clip, {"size": (48, 64)}, "it is 64x48, not 48x64 as announced"),
        (clip, {"limit": 1000}, "pixels|how large"),
        (lambda: clip()[:-30], {}, "cut off"),
        (lambda: b"\x00\x00\x00\x18ftypmp42" + bytes(100), {}, "the table of its frames is missing"),
        (lambda: b"x" * 40, {}, "no picture, clip or sound"),
    ],
)
def test_what_is_no_such_clip_is_refused(data: functools.partial[bytes], known: dict[str, Any], text: str) -> None:
    with pytest.raises(NotAPicture, match=text):
        looked(data(), **known)
