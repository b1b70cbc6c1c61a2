"""The bytes of files, straight from the artifact store: whole or a range, with what browsers need to cache them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.responses import Response, StreamingResponse

from anime_common.artifacts import Artifacts, Missing
from anime_common.contracts.files import FileView
from anime_common.contracts.vocabulary import EXTENSIONS
from anime_common.outcomes import Refused, not_found
from anime_gateway.problems import problem
from anime_gateway.ranges import ByteRange, Unsatisfiable, matches, parse_range, range_applies

MEDIA_TYPES = {extension: media_type for media_type, extension in EXTENSIONS.items()}
NEVER_CHANGES = "private, max-age=31536000, immutable"
POLICY = "default-src 'none'; sandbox"
PLAYED_POLICY = "default-src 'none'; media-src 'self'; sandbox allow-same-origin"
"""A browser makes a page around a clip, which fetches the clip anew; no script runs in it."""


@dataclass(frozen=True, slots=True)
class Content:
    """What to send: key in the store, entity tag, type and name; `size` is None when only the store knows it."""

    key: str
    etag: str
    media_type: str
    name: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the request asked of the content."""

    range: str | None = None
    if_none_match: str | None = None
    if_range: str | None = None
    download: bool = False
    head: bool = False


def content_of(file: FileView) -> Content:
    """The file itself."""
    return Content(file.key, f'"{file.sha256}"', safe_type(file.media_type), name_of(file.key), file.size)


def thumbnail_of(file: FileView) -> Content:
    """Its thumbnail; raises Refused when there is none."""
    if file.thumbnail_key is None:
        raise not_found("thumbnail of file", file.id, "file")
    name = name_of(file.thumbnail_key)
    media_type = MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    return Content(file.thumbnail_key, f'"{file.sha256}-thumbnail"', media_type, name)


def name_of(key: str) -> str:
    """The last part of a key, without anything that means something in a header."""
    return "".join(char for char in key.rpartition("/")[2] if char.isascii() and (char.isalnum() or char in "._-"))


def safe_type(media_type: str) -> str:
    """The type, if it is one that engines make: nothing that a browser would run."""
    return media_type if media_type in EXTENSIONS else "application/octet-stream"


async def send(artifacts: Artifacts, content: Content, conditions: Conditions) -> Response:
    """The response; raises Refused when the bytes are not in the store."""
    kind = "attachment" if conditions.download else "inline"
    headers = {
        "ETag": content.etag,
        "Cache-Control": NEVER_CHANGES,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'{kind}; filename="{content.name}"',
        "Content-Security-Policy": PLAYED_POLICY if content.media_type.startswith(("video/", "audio/")) else POLICY,
    }
    if matches(conditions.if_none_match, content.etag):
        return Response(status_code=304, headers=headers)
    try:
        size = content.size if content.size is not None else (await artifacts.stat(content.key)).size
        wanted = parse_range(conditions.range, size) if range_applies(conditions.if_range, content.etag) else None
    except Unsatisfiable as error:
        text, outside = f"the range lies outside of the {error.size} bytes", f"bytes */{error.size}"
        return problem(416, "unsatisfiable", text, field="Range", headers={"Content-Range": outside})
    except Missing as error:
        raise _missing() from error
    chosen = wanted or ByteRange(0, size, size)
    headers["Content-Length"] = str(chosen.length)
    if wanted is not None:
        headers["Content-Range"] = wanted.content_range
    status = 200 if wanted is None else 206
    if conditions.head:
        return Response(None, status, headers, content.media_type)
    chunks = artifacts.stream(content.key, chosen.start, chosen.end)
    try:
        first = await anext(chunks, b"")
    except Missing as error:
        raise _missing() from error
    return StreamingResponse(_chunks(first, chunks), status, headers, content.media_type)


def _missing() -> Refused:
    return Refused(404, "content_missing", "the file is in the library, but its bytes are not in the store", "file")


async def _chunks(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
