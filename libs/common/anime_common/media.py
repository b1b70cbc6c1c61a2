"""What a picture, clip or sound is, by its bytes alone: names and announcements are not looked at.

Pictures are read by Pillow, clips and sounds by FFmpeg's libraries (PyAV); both are imported by whoever asks, as many
processes never do. The reader of one format is all that bytes of it can reach.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anime_common import media_layout
from anime_common.contracts.vocabulary import MediaType
from anime_common.media_layout import Damaged, Unusable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame

__all__ = ["LIMITS", "Damaged", "Limits", "Media", "Unusable", "opening", "probe"]

_PICTURES: dict[MediaType, str] = {
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
}
"""Pillow's names."""
_PLAYED: dict[MediaType, str] = {
    "video/mp4": "mov",
    "video/webm": "matroska",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
}
"""FFmpeg's names of what reads them."""
_SLACK = 0.05
"""Seconds by which a FLAC file may be shorter than its head says."""
_PATIENCE = 500
"""Packets in which there should be something that decodes."""
# What Pillow raises on bad data differs by format and by where the damage is.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that is looked at: pixels of a frame, seconds, packets (what a frame or a piece of sound lies in)."""

    pixels: int = 89_478_485
    seconds: float = 4 * 3600.0
    packets: int = 2_000_000


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Media:
    """What a file is. Width and height are pixels, 0 of a sound; the duration is seconds, None of what stands still;
    frames are those of clips and animated pictures.
    """

    media_type: MediaType
    width: int
    height: int
    duration: float | None = None
    frames: int | None = None


def probe(data: bytes, limits: Limits = LIMITS) -> Media:
    """Look at a file: all of a picture, or the first frame of what moves, is decoded; the rest is counted.

    Raises Damaged when it is empty, cut off or broken, Unusable when it is none of the types or beyond the limits.
    """
    media_type = media_layout.kind(data)
    return _picture(data, media_type, limits) if media_type in _PICTURES else _played(data, media_type, limits)


def _picture(data: bytes, media_type: MediaType, limits: Limits) -> Media:
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - see above

    try:
        with Image.open(io.BytesIO(data), formats=[_PICTURES[media_type]]) as image:
            width, height = image.size
            _check_size(width, height, limits)
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable(f"it has too many pixels: {limits.pixels} are allowed") from error
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise Damaged(f"it is damaged: it begins as {media_type}, but cannot be read") from error
    except _BROKEN as error:
        raise Damaged(f"it is damaged: {error}") from error
    moves = media_layout.motion(data, media_type)
    if moves is None:
        return Media(media_type, width, height)
    if moves.frames > limits.packets or (moves.duration or 0) > limits.seconds:
        raise Unusable(f"it has {moves.frames} frames in {moves.duration} s; that is too long")
    return Media(media_type, width, height, moves.duration, moves.frames)


def _played(data: bytes, media_type: MediaType, limits: Limits) -> Media:
    media_layout.check_whole(data, media_type)
    with opening(data, media_type, limits) as (container, stream):
        heard = _Heard(stream, limits)
        for packet in container.demux(stream):
            heard.take(packet)
        return heard.media(media_type)


@contextmanager
def opening(data: bytes, media_type: MediaType, limits: Limits = LIMITS) -> Iterator[tuple[InputContainer, Stream]]:
    """A clip or sound, and its stream that matters; what goes wrong meanwhile is raised as Damaged or Unusable."""
    import av  # noqa: PLC0415 - see above

    try:
        with av.open(
            io.BytesIO(data),
            mode="r",
            format=_PLAYED[media_type],
            options={"max_pixels": str(limits.pixels)},
            metadata_errors="replace",
        ) as container:
            yield container, _stream(container, media_type, limits)
    except av.error.EOFError as error:
        raise Damaged("it is cut off: its end is missing") from error
    except av.FFmpegError as error:
        raise Damaged(f"it is damaged: {error.strerror}") from error


def _stream(container: InputContainer, media_type: MediaType, limits: Limits) -> Stream:
    """The moving pictures of a clip, the sound of a sound; raises Unusable when it has none. Covers do not count."""
    from av.stream import Disposition  # noqa: PLC0415 - see above

    moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    found: Any
    if media_type.startswith("video/"):
        if not moving:
            raise Unusable(f"it has no moving pictures, which {media_type} should have")
        found = moving[0]
    elif moving or not container.streams.audio:
        raise Unusable(f"it is no sound, which {media_type} should be")
    else:
        found = container.streams.audio[0]
    context = found.codec_context
    if context is None:
        raise Unusable("nothing here decodes it")
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.pixels)}
    if media_type.startswith("video/"):
        _check_size(context.width, context.height, limits)
    stream: Stream = found
    return stream


class _Heard:
    """What is known of a stream after so many of its packets. Times are seconds."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._unit = float(stream.time_base or 0)
        self._first: Any = None
        self._packets = 0
        self._begin, self._end = float("inf"), 0.0

    def take(self, packet: Packet[Any]) -> None:
        """One packet more; the first frame is decoded from as many as that takes."""
        if self._first is None:
            self._first = next(iter(packet.decode()), None)
            if self._first is None and self._packets > _PATIENCE:
                raise Damaged(f"it is damaged: nothing in its first {_PATIENCE} packets decodes")
        if packet.size == 0:  # the end, which makes the decoder give out what it holds
            return
        if packet.is_corrupt:
            raise Damaged("it is cut off, or damaged on its way")
        self._packets += 1
        if self._packets > self._limits.packets:
            raise Unusable(f"it has more than {self._limits.packets} packets")
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None:
            begin = at * self._unit
            self._begin = min(self._begin, begin)
            self._end = max(self._end, begin + self._length(packet))
            if self._end - self._begin > self._limits.seconds:
                raise Unusable(f"it is longer than {self._limits.seconds:g} s")

    def _length(self, packet: Packet[Any]) -> float:
        if packet.duration:
            return packet.duration * self._unit
        rate = getattr(self._stream, "average_rate", None)
        return float(1 / rate) if rate else 0.0

    def media(self, media_type: MediaType) -> Media:
        """What it is in the end; raises Damaged when nothing could be decoded."""
        if self._first is None:
            raise Damaged("it is damaged: there is nothing in it that decodes")
        duration = round(max(self._end - min(self._begin, self._end), 0.0), 3)
        declared = (self._stream.duration or 0) * self._unit
        if media_type == "audio/flac" and declared - duration > _SLACK:
            raise Damaged(f"it is cut off: {duration:g} s of {declared:g} s are there")
        if not media_type.startswith("video/"):
            return Media(media_type, 0, 0, duration)
        frame: VideoFrame = self._first
        _check_size(frame.width, frame.height, self._limits)
        return Media(media_type, frame.width, frame.height, duration, self._packets)


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise Damaged("it is damaged: it does not say how large it is")
    if width * height > limits.pixels:
        raise Unusable(f"it has {width}x{height} pixels; at most {limits.pixels} in all are allowed")
