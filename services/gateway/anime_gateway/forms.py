"""Reads forms with files (multipart/form-data, RFC 7578) as they arrive, keeping nothing of what was read before."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from anime_common.outcomes import Refused

MAX_VALUE = 1024
"""Bytes of a field that is no file."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a part: the name of the field, and the name of the file if it is one."""

    name: str
    filename: str | None


class _Ended:
    """A part has ended."""


_ENDED = _Ended()


def boundary_of(content_type: str) -> bytes:
    """What stands between the parts of a form; raises Refused when the type does not say it."""
    _, options = parse_options_header(content_type.encode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _bad("its Content-Type names no boundary")
    return boundary


class Form:
    """A form that arrives: `head` for the next part, then `value` or `data` of it. Raises Refused when it is broken."""

    def __init__(self, body: AsyncIterator[bytes], boundary: bytes) -> None:
        self._body = body
        self._found: deque[Head | bytes | _Ended] = deque()
        self._complete = False
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": lambda data, start, end: self._found.append(data[start:end]),
                    "on_part_end": lambda: self._found.append(_ENDED),
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _bad(str(error)) from error

    async def head(self) -> Head | None:
        """The beginning of the next part; None at the end of the form."""
        while (found := await self._next()) is not None:
            if isinstance(found, Head):
                return found
        return None

    async def data(self) -> AsyncIterator[bytes]:
        """The bytes of the part whose head was just read."""
        while isinstance(found := await self._next(), bytes):
            yield found

    async def value(self) -> str:
        """The text of the part whose head was just read."""
        text = bytearray()
        async for data in self.data():
            text += data
            if len(text) > MAX_VALUE:
                raise _bad(f"a field that is no file may have {MAX_VALUE} bytes")
        return text.decode(errors="replace")

    async def _next(self) -> Head | bytes | _Ended | None:
        while not self._found:
            if self._complete:
                return None
            chunk = await anext(self._body, None)
            if chunk is None:
                raise _bad("it ends too early")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise _bad(str(error)) from error
        return self._found.popleft()

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _bad("a part has no Content-Disposition that names its field")
        filename = options.get(b"filename")
        self._found.append(Head(_text(options[b"name"]), None if filename is None else _text(filename)))

    def _on_end(self) -> None:
        self._complete = True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _bad(why: str) -> Refused:
    return Refused(400, "malformed_form", f"the form cannot be read: {why}")
