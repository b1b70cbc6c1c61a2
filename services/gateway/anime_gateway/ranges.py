"""Range requests and conditional requests for file content (RFC 9110 §13 and §14), single ranges only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range lies outside of the content of `size` bytes: 416."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, end) of a content of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.end - self.start

    @property
    def content_range(self) -> str:
        """The value of `Content-Range`."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range asked for; None when there is none, or it is malformed or several: then all is sent.

    Raises Unsatisfiable when it lies outside of the content.
    """
    found = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if found is None or not any(found.groups()) or len(found.string) > 64:
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable(size)
        return ByteRange(size - length, size, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable(size)
    end = min(int(last) + 1, size) if last else size
    return ByteRange(start, end, size)


def matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this entity tag, by weak comparison."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a range may be answered under `If-Range`: only if the strong entity tag is still the same."""
    return if_range is None or if_range.strip() == etag
