"""What files are by their bytes: real ones, made here, then cut, broken and mislabelled."""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import pytest

from anime_common.contracts.vocabulary import EXTENSIONS, MediaType
from anime_common.media import Damaged, Limits, Media, Unusable, probe
from anime_common.media_layout import kind, motion, png_chunks
from tests.clips import animation, clip, frames, sound, still

VP8 = functools.partial(clip, container="webm", codec="libvpx")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

Make = Callable[[], bytes]

FILES: dict[str, tuple[Make, Media]] = {
    "png": (still, Media("image/png", 64, 48)),
    "jpeg": (lambda: still("JPEG"), Media("image/jpeg", 64, 48)),
    "webp": (lambda: still("WEBP"), Media("image/webp", 64, 48)),
    "gif": (lambda: still("GIF"), Media("image/gif", 64, 48)),
    "moving gif": (lambda: animation("GIF"), Media("image/gif", 64, 48, 0.4, 5)),
    "moving webp": (lambda: animation("WEBP"), Media("image/webp", 64, 48, 0.4, 5)),
    "moving png": (lambda: animation("PNG"), Media("image/png", 64, 48, 0.4, 5)),
    "mpeg4": (clip, Media("video/mp4", 64, 48, 1.0, 8)),
    "h264 with sound": (lambda: clip(codec="libx264", sound="aac"), Media("video/mp4", 64, 48, 1.0, 8)),
    "fragments": (lambda: clip(codec="libx264", options=FRAGMENTS), Media("video/mp4", 64, 48, 1.0, 8)),
    "vp8": (VP8, Media("video/webm", 64, 48, 1.0, 8)),
    "vp9 with sound": (
        lambda: clip(container="webm", codec="libvpx-vp9", sound="libopus"),
        Media("video/webm", 64, 48, 1.0, 8),
    ),
    "wav": (sound, Media("audio/wav", 0, 0, 1.0)),
    "flac": (lambda: sound(container="flac", codec="flac"), Media("audio/flac", 0, 0, 1.0)),
    "mp3": (lambda: sound(container="mp3", codec="libmp3lame"), Media("audio/mpeg", 0, 0, 1.032)),
    "opus": (lambda: sound(container="ogg", codec="libopus"), Media("audio/ogg", 0, 0, 1.006)),
}
WITHOUT_A_LENGTH = {"mp3"}
"""What does not say how long it is, so that what is left of it is as good as whole."""


@functools.cache
def made(name: str) -> bytes:
    return FILES[name][0]()


def test_every_type_has_an_extension_of_its_own() -> None:
    assert get_args(MediaType) == tuple(EXTENSIONS)
    assert len(set(EXTENSIONS.values())) == len(EXTENSIONS)


def test_every_type_is_tried_here() -> None:
    assert {media.media_type for _, media in FILES.values()} == set(EXTENSIONS)


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is(name: str) -> None:
    assert probe(made(name)) == FILES[name][1]


@pytest.mark.parametrize("name", sorted(FILES.keys() - WITHOUT_A_LENGTH))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_what_is_cut_off_is_damaged(name: str, share: float) -> None:
    data = made(name)
    with pytest.raises(Damaged):
        probe(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", sorted(FILES.keys() - WITHOUT_A_LENGTH - {"flac"}))
def test_the_last_bytes_are_missed(name: str) -> None:
    with pytest.raises(Damaged):
        probe(made(name)[:-3])


@pytest.mark.parametrize("name", ["mpeg4", "h264 with sound", "vp8", "flac", "opus"])
def test_what_does_not_decode_is_damaged(name: str) -> None:
    data = bytearray(made(name))
    at = data.find(b"mdat") if name in {"mpeg4", "h264 with sound"} else len(data) // 4
    data[at + 8 :] = bytes(len(data) - at - 8)
    with pytest.raises(Damaged):
        probe(bytes(data))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: b"", "empty"),
        (lambda: b"<html>no picture</html>", "no picture, clip or sound"),
        (lambda: b"\x1aE\xdf\xa3", "no picture, clip or sound"),
        (lambda: clip(container="matroska", codec="libvpx"), "no picture, clip or sound"),
        (lambda: clip(container="mov"), "no picture, clip or sound"),
        (lambda: sound(container="ipod", codec="aac"), "no picture, clip or sound"),
        (lambda: sound(container="adts", codec="aac"), "no picture, clip or sound"),
        (lambda: still("BMP"), "no picture, clip or sound"),
        (lambda: sound(container="webm", codec="libopus"), "no moving pictures"),
        (lambda: sound(container="mp4", codec="aac"), "no moving pictures"),
        (lambda: clip(container="ogg", codec="libvpx"), "no sound"),
    ],
)
def test_what_is_none_of_the_types_is_refused(make: Make, text: str) -> None:
    with pytest.raises(Unusable, match=text):
        probe(make())


@pytest.mark.parametrize("name", ["png", "moving gif", "moving webp", "h264 with sound", "vp8"])
def test_frames_of_too_many_pixels_are_refused(name: str) -> None:
    with pytest.raises(Unusable, match="pixels") as refused:
        probe(made(name), Limits(pixels=64 * 48 - 1))
    assert not isinstance(refused.value, Damaged)


@pytest.mark.parametrize("name", ["moving gif", "moving png", "mpeg4", "vp8", "wav"])
def test_what_is_too_long_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match="long"):
        probe(made(name), Limits(seconds=0.3))


@pytest.mark.parametrize("name", ["moving webp", "mpeg4", "vp8", "wav"])
def test_what_has_too_many_parts_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match=r"long|packets"):
        probe(made(name), Limits(packets=3))


def test_a_frame_larger_than_its_file_says_is_not_decoded() -> None:
    data, width = VP8(frames(4, (640, 480))), bytes.fromhex("b0820280")
    assert data.count(width) == 1
    liar = data.replace(width, bytes.fromhex("b0820040"))
    with pytest.raises(Unusable):
        probe(liar, Limits(pixels=100_000))
    assert probe(liar).width == 640


def test_a_bomb_is_refused_before_it_unpacks() -> None:
    size = (30_000).to_bytes(4) * 2
    head = b"IHDR" + size + b"\x08\x02\x00\x00\x00"
    bomb = still()[:8] + (13).to_bytes(4) + head + zlib.crc32(head).to_bytes(4) + still()[33:]
    with pytest.raises(Unusable, match="pixels"):
        probe(bomb)


def test_a_name_in_front_of_a_sound_is_passed_over() -> None:
    name = b"ID3\x04\x00\x00" + bytes((0, 0, 0, 20)) + bytes(20)
    assert kind(name + made("mp3")) == "audio/mpeg"
    assert kind(name + made("flac")) == "audio/flac"


def test_frames_of_a_png_are_those_that_are_there() -> None:
    data = made("moving png")
    (control,) = [chunk for chunk in png_chunks(data) if chunk.name == b"acTL"]
    many = data[: control.body.start] + b"\xff" * 4 + data[control.body.start + 4 :]
    found = motion(many, "image/png")
    assert found is not None
    assert found.frames == 5


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_nothing_but_our_own_errors_comes_of_broken_bytes(name: str) -> None:
    chance = random.Random(7)
    for _ in range(60):
        data = bytearray(made(name))
        for _ in range(chance.choice((1, 4, 16))):
            data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
        with suppress(Unusable):
            probe(bytes(data), Limits(pixels=10**6))
