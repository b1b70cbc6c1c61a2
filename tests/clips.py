"""Small real clips, animations and sounds, encoded here and now."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
from PIL import Image

RATE = 8
"""Frames a second of clips."""


def frames(count: int = 8, size: tuple[int, int] = (64, 48), colours: Sequence[str] = ("teal",)) -> list[Image.Image]:
    """Pictures one after another; the last colour stays, and a square moves over it."""
    found = []
    for index in range(count):
        image = Image.new("RGB", size, colours[min(index, len(colours) - 1)])
        image.paste((min(255, 16 * index), 128, 64), (index * 2, 4, index * 2 + 8, 12))
        found.append(image)
    return found


def clip(
    pictures: Sequence[Image.Image] | None = None,
    *,
    container: str = "mp4",
    codec: str = "mpeg4",
    sound: str | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A clip of pictures, eight a second; `sound` is the codec of a tone that goes with it."""
    pictures = frames() if pictures is None else pictures
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as file:
        stream: Any = file.add_stream(codec, rate=RATE)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        heard: Any = file.add_stream(sound, rate=48000, layout="mono") if sound else None
        for picture in pictures:
            file.mux(stream.encode(_frame(picture)))
        file.mux(stream.encode(None))
        if heard is not None:
            _tone(file, heard, len(pictures) / RATE)
    return out.getvalue()


def _frame(picture: Image.Image) -> Any:
    make: Any = av.VideoFrame.from_image
    return make(picture)


def sound(seconds: float = 1.0, *, container: str = "wav", codec: str = "pcm_s16le", rate: int = 48000) -> bytes:
    """Silence as a sound file."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        _tone(file, file.add_stream(codec, rate=rate, layout="mono"), seconds)
    return out.getvalue()


def _tone(file: Any, stream: Any, seconds: float) -> None:
    rate = stream.rate
    resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
    for start in range(0, round(seconds * rate), 1024):
        frame = av.AudioFrame("s16", "mono", min(1024, round(seconds * rate) - start))
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for each in resampler.resample(frame):
            file.mux(stream.encode(each))
    file.mux(stream.encode(None))


def animation(kind: str, count: int = 5, *, milliseconds: int = 80, size: tuple[int, int] = (64, 48)) -> bytes:
    """An animated GIF, WEBP or PNG."""
    first, *rest = frames(count, size)
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return out.getvalue()


def still(kind: str = "PNG", size: tuple[int, int] = (64, 48), colour: str = "teal") -> bytes:
    """A picture."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()
