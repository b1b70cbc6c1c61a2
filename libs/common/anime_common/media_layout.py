"""How media files are laid out: what their first bytes say they are, whether all is there, and how pictures move.

Pure: bytes in, nothing decoded.

Sources: PNG (W3C, third edition), GIF89a, WebP container (RFC 9649), ISO/IEC 14496-12 §4.2, EBML (RFC 8794), Ogg
(RFC 3533), RIFF (Microsoft, 1991), MPEG audio (ISO/IEC 11172-3 §2.4.1), ID3v2 §3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anime_common.contracts.vocabulary import MediaType

PNG = b"\x89PNG\r\n\x1a\n"
MOST_PARTS = 1_000_000
"""Chunks, boxes, pages or blocks of one file: a real one has far fewer."""

_EBML, _SEGMENT, _DOCTYPE = 0x1A45DFA3, 0x18538067, 0x4282
_ENDLESS = frozenset({0, 0xFFFFFFFF})
"""Lengths in the head of a RIFF file whose writer could not go back to fill them in."""
_NO_CLIPS = frozenset({b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"M4A ", b"M4B ", b"qt  "})
"""Major brands of ISO media files that no browser plays as MP4: pictures, sounds, QuickTime."""


class Unusable(ValueError):
    """The bytes are no media file that can be taken; the text says why."""


class Damaged(Unusable):
    """The bytes are empty, cut off or broken: made once more, they may be whole."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How a picture moves: its frames, and the seconds that they take (None: it does not say)."""

    frames: int
    duration: float | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a PNG or RIFF file: its name, where it begins and ends, and where in between its data lie."""

    name: bytes
    start: int
    end: int
    body: slice


def kind(data: bytes) -> MediaType:
    """What a file is by its first bytes; raises Unusable for what is none of the known types."""
    if not data:
        raise Damaged("it is empty")
    head = data[:12]
    for magic, media_type in _MAGIC.items():
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp" and head[8:12] not in _NO_CLIPS:
        return "video/mp4"
    if _element(data, 0)[0] == _EBML and _doctype(data) == b"webm":
        return "video/webm"
    start = _after_id3(data)
    if start and data[start : start + 4] == b"fLaC":
        return "audio/flac"
    if start or _is_mp3(data[:4]):
        return "audio/mpeg"
    raise Unusable("it is no picture, clip or sound of a known type")


_MAGIC: dict[bytes, MediaType] = {
    PNG: "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}
_RIFF: dict[bytes, MediaType] = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}


def motion(data: bytes, media_type: MediaType) -> Motion | None:
    """How a picture moves, None when it is a still one; raises Damaged when some of its bytes are missing."""
    if media_type == "image/png":
        found = _png_motion(data)
    elif media_type == "image/gif":
        found = _gif_motion(data)
    elif media_type == "image/webp":
        found = _webp_motion(data)
    else:
        return None
    return found if found.frames > 1 else None


def check_whole(data: bytes, media_type: MediaType) -> None:
    """Raise Damaged when a clip or sound is shorter than its own layout says. (FLAC and MP3 do not say.)"""
    if media_type == "video/mp4":
        _check_boxes(data)
    elif media_type == "video/webm":
        _check_segment(data)
    elif media_type == "audio/ogg":
        _check_pages(data)
    elif media_type == "audio/wav":
        _check_riff(data)


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG up to its end; raises Damaged when there is none, or they are not all there."""
    start = len(PNG)
    for _ in range(MOST_PARTS):
        name, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4])
        if len(name) < 4 or end > len(data):
            raise _cut_off()
        yield Chunk(name, start, end, slice(start + 8, end - 4))
        if name == b"IEND":
            return
        start = end
    raise _endless()


def _png_motion(data: bytes) -> Motion:
    frames, seconds = 0, 0.0
    for chunk in png_chunks(data):
        if chunk.name == b"fcTL":
            body = data[chunk.body]
            frames += 1
            seconds += int.from_bytes(body[20:22]) / (int.from_bytes(body[22:24]) or 100)
    return Motion(frames, round(seconds, 3) or None)


def _gif_motion(data: bytes) -> Motion:
    frames, hundredths = 0, 0
    at = 13 + _gif_colours(data, 10)
    for _ in range(MOST_PARTS):
        block = data[at : at + 1]
        if block == b"\x3b":
            return Motion(frames, hundredths / 100 or None)
        if block == b"\x21":
            if data[at + 1 : at + 2] == b"\xf9":
                hundredths += int.from_bytes(data[at + 4 : at + 6], "little")
            at = _after_blocks(data, at + 2)
        elif block == b"\x2c":
            frames += 1
            at = _after_blocks(data, at + 11 + _gif_colours(data, at + 9))
        elif block:
            raise Damaged("it is damaged: what stands between its frames is no GIF")
        else:
            raise _cut_off()
    raise _endless()


def _gif_colours(data: bytes, flags_at: int) -> int:
    """Bytes of the colour table that the flags tell of."""
    if flags_at >= len(data):
        raise _cut_off()
    flags = data[flags_at]
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise _cut_off()


def _webp_motion(data: bytes) -> Motion:
    frames, milliseconds = 0, 0
    for chunk in _riff_chunks(data):
        if chunk.name == b"ANMF":
            frames += 1
            milliseconds += int.from_bytes(data[chunk.body][12:15], "little")
    return Motion(frames, milliseconds / 1000 or None)


def _riff_chunks(data: bytes) -> Iterator[Chunk]:
    whole = _check_riff(data)
    start = 12
    for _ in range(MOST_PARTS):
        if start + 8 > whole:
            return
        end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if end > whole:
            raise _cut_off()
        yield Chunk(data[start : start + 4], start, end, slice(start + 8, end))
        start = end + end % 2
    raise _endless()


def _check_riff(data: bytes) -> int:
    """Where a RIFF file ends by its own account."""
    length = int.from_bytes(data[4:8], "little")
    if length in _ENDLESS:
        return len(data)
    if 8 + length > len(data) + length % 2:
        raise _cut_off()
    return 8 + length


def _check_boxes(data: bytes) -> None:
    start, names = 0, set[bytes]()
    for _ in range(MOST_PARTS):
        if start == len(data):
            break
        head, length = 8, int.from_bytes(data[start : start + 4])
        if length == 1:
            head, length = 16, int.from_bytes(data[start + 8 : start + 16])
        length = length or len(data) - start
        if start + head > len(data) or start + length > len(data):
            raise _cut_off()
        if length < head:
            raise Damaged("it is damaged: one of its boxes is smaller than its own head")
        names.add(data[start + 4 : start + 8])
        start += length
    else:
        raise _endless()
    if b"moov" not in names:
        raise Damaged("it is cut off: the table of its frames is missing")


def _check_segment(data: bytes) -> None:
    _, length, body = _element(data, 0)
    segment, content, start = _element(data, body + (length or 0))
    if segment != _SEGMENT:
        raise Damaged("it is cut off: there is nothing in it")
    if content is not None and start + content > len(data):
        raise _cut_off()


def _doctype(data: bytes) -> bytes:
    _, length, at = _element(data, 0)
    end = min(at + (length or 0), len(data), 4096)
    while at < end:
        name, size, body = _element(data, at)
        if size is None:
            break
        if name == _DOCTYPE:
            return data[body : body + size].rstrip(b"\0")
        at = body + size
    return b""


def _element(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Id, length (None: not known) and start of the content of an EBML element; 0 as the id where there is none."""
    name, body = _number(data, at, marker=True)
    length, content = _number(data, body, marker=False)
    if name is None or length is None:
        return 0, 0, content
    return name, None if length == (1 << 7 * (content - body)) - 1 else length, content


def _number(data: bytes, at: int, *, marker: bool) -> tuple[int | None, int]:
    """A number of variable length, with or without the bit that marks its length, and what comes after it."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    raw = data[at : at + width]
    if not first or len(raw) < width:
        return None, at + 1
    found = int.from_bytes(raw)
    return (found if marker else found & ~(1 << 7 * width)), at + width


def _check_pages(data: bytes) -> None:
    start = 0
    for _ in range(MOST_PARTS):
        if start == len(data):
            return
        if len(data) < start + 27:
            raise _cut_off()
        if data[start : start + 4] != b"OggS":
            raise Damaged("it is damaged: what stands between its pages is no Ogg")
        body = start + 27 + data[start + 26]
        start = body + sum(data[start + 27 : body])
        if start > len(data):
            raise _cut_off()
    raise _endless()


def _after_id3(data: bytes) -> int:
    """Where the sound begins behind a tag of names and covers; 0 when there is none."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(data[6:10])))


def _is_mp3(head: bytes) -> bool:
    """Whether a frame of layer III begins here, of any version and with a bit rate and sampling rate that exist."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return False
    return head[1] & 0x18 != 0x08 and head[2] & 0xF0 not in {0x00, 0xF0} and head[2] & 0x0C != 0x0C


def _cut_off() -> Damaged:
    return Damaged("it is cut off: its end is missing")


def _endless() -> Unusable:
    return Unusable(f"it has more than {MOST_PARTS} parts")
