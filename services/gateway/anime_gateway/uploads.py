"""Takes the bytes of an upload in: to `uploads/<id>` of the artifact store as they arrive, counted and hashed.

The gateway writes nowhere else. What the bytes are is for files to say, which is asked to take them into the library.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.requests import ClientDisconnect, Request

from anime_common.artifacts import Artifacts, Written, upload_key
from anime_common.contracts.vocabulary import PICTURE_TYPES
from anime_common.outcomes import Refused
from anime_gateway.forms import Form, boundary_of
from anime_gateway.problems import Invalid, invalid, problem
from anime_gateway.public import BASE

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.responses import Response

PATH = f"{BASE}/uploads"
FORM = "multipart/form-data"
FILE, PROJECT = "file", "project"
FRAME = 16 * 1024
"""Bytes that a form may have besides the picture."""


@dataclass(frozen=True, slots=True)
class Received:
    """An upload whose bytes are stored, with what a form said of it."""

    written: Written
    project: str | None = None
    filename: str | None = None


def refusal(headers: Headers, limit: int) -> Response | None:
    """Why the body of an upload is not even read.

    No page of another origin can send `image/*` without asking first, which is always denied. It can send a form:
    that must bear a token, or the `Origin` of our own page (which was looked at before).
    """
    media_type = media_type_of(headers.get("content-type", ""))
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit + (FRAME if media_type == FORM else 0):
        return problem(413, "too_large", too_large(limit), field=FILE)
    if media_type not in {*PICTURE_TYPES, FORM}:
        text = (
            f"send a picture with Content-Type {', '.join(PICTURE_TYPES)}, or a form ({FORM}) with the field {FILE!r}"
        )
        return problem(415, "not_a_picture_type", text, field="Content-Type")
    if media_type == FORM and "origin" not in headers and "authorization" not in headers:
        text = (
            "a form needs an access token (Authorization: Bearer …) or the Origin of our own page; without either, send"
            " the picture itself as the body, with its Content-Type"
        )
        return problem(403, "origin_required", text, field="Origin")
    return None


def media_type_of(content_type: str) -> str:
    """The type in a `Content-Type` header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def too_large(limit: int) -> str:
    """What to say of more bytes than are taken."""
    return f"the picture is larger than {limit} bytes, the most that this server takes"


def last_part(name: str | None) -> str | None:
    """A file's name without its folders, whichever system wrote them; None when nothing is left."""
    return re.split(r"[/\\]", name)[-1].strip() or None if name is not None else None


async def receive(request: Request, artifacts: Artifacts, upload_id: UUID, *, limit: int, patience: float) -> Received:
    """Store the picture in a request's body, of at most `limit` bytes, under `upload_key(upload_id)`.

    Raises Refused (400, 408, 413), Invalid for the fields of a form, Unavailable. What was refused is not kept.
    """
    content_type = request.headers.get("content-type", "")
    key = upload_key(upload_id)
    if media_type_of(content_type) != FORM:
        body = bounded(arriving(request, patience), limit, limit)
        return Received(await artifacts.write(key, body))
    body = bounded(arriving(request, patience), limit + FRAME, limit)
    form = Form(body, boundary_of(content_type))
    try:
        return await _received(form, artifacts, key, limit)
    except (Refused, Invalid):
        await artifacts.delete(key)
        raise


async def _received(form: Form, artifacts: Artifacts, key: str, limit: int) -> Received:
    written: Written | None = None
    project = filename = None
    while (head := await form.head()) is not None:
        if head.name == FILE and written is None:
            filename = head.filename
            written = await artifacts.write(key, bounded(form.data(), limit, limit))
        elif head.name == PROJECT and project is None:
            project = await form.value()
        elif head.name in {FILE, PROJECT}:
            raise invalid(head.name, "may be sent once", "repeated")
        else:
            raise invalid(head.name, f"there is no such field; allowed are {FILE}, {PROJECT}", "unknown_field")
    if written is None:
        raise invalid(FILE, "is required", "missing")
    # An input that was left empty sends an empty text.
    return Received(written, project or None, filename)


async def arriving(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The body of a request as it comes; raises Refused when nothing comes for `patience` seconds, or ever again."""
    body = request.stream()
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(body, None)
        except TimeoutError as error:
            raise Refused(408, "too_slow", f"nothing of the body came for {patience:g} s") from error
        except ClientDisconnect as error:
            raise Refused(400, "disconnected", "the connection was lost before all of the body had come") from error
        if chunk is None:
            return
        yield chunk


async def bounded(chunks: AsyncIterator[bytes], most: int, limit: int) -> AsyncIterator[bytes]:
    """The chunks; raises Refused (413, which names `limit`) as soon as they have more than `most` bytes."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise Refused(413, "too_large", too_large(limit), FILE)
        yield chunk
