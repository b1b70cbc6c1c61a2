"""The library: find files, curate them, and get their bytes."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from anime_common.contracts.files import (
    DELETE_FILE,
    GET_FILE,
    LIST_FILES,
    RESTORE_FILE,
    UPDATE_FILE,
    FileChanges,
    FilePage,
    FileQuery,
    FileRef,
    FileView,
    UpdateFile,
)
from anime_common.contracts.vocabulary import EXTENSIONS
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.content import Conditions, content_of, send, thumbnail_of
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.public import with_urls

router = APIRouter(prefix="/files", tags=["files"])

FileId = Annotated[UUID, Path(description="The file's id.")]
RangeHeader = Annotated[str | None, Header(alias="Range", description="One range of bytes.", examples=["bytes=0-1023"])]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="Answer 304 when the file still has this `ETag`.")
]
IfRange = Annotated[
    str | None, Header(alias="If-Range", description="Send the range only if the file still has this `ETag`.")
]
Download = Annotated[bool, Query(description="Ask the browser to save it.")]
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file. It never changes under this address: `ETag` is its sha256.",
        "content": dict.fromkeys(EXTENSIONS, _BYTES),
    },
    206: {"description": "The range asked for.", "content": {"image/png": _BYTES}},
    304: {"description": "Unchanged."},
}


@router.get("", summary="List files", response_model=FilePage, responses=errors(422))
async def list_files(gateway: Deps, query: Annotated[FileQuery, Query()]) -> Response:
    """Files of the library, or of the trash, newest first."""
    page = await gateway.ask(LIST_FILES, query)
    return answer(FilePage(items=tuple(with_urls(file) for file in page.items), next=page.next))


@router.get("/{file}", summary="Read a file's data", response_model=FileView, responses=errors(404, 422))
async def read(gateway: Deps, file: FileId) -> Response:
    """What is known of a file: where it lies, and what made it."""
    return answer(with_urls(await find(gateway, file)))


async def find(gateway: Gateway, file: UUID) -> FileView:
    """A file; raises Refused."""
    return await gateway.ask(GET_FILE, FileRef(id=file))


@router.patch(
    "/{file}",
    summary="Rate or tag a file",
    response_model=FileView,
    responses=errors(404, *WRITE_ERRORS),
    openapi_extra=json_body(FileChanges, rate={"rating": 5, "favourite": True}, tag={"tags": ["cover", "night"]}),
)
async def change(gateway: Deps, file: FileId, changes: Annotated[FileChanges, body(FileChanges)]) -> Response:
    """Change rating, favourite or tags; what is absent stays."""
    question = UpdateFile(id=file, changes=changes)
    return answer(with_urls(await gateway.ask(UPDATE_FILE, question, within="changes")))


@router.delete("/{file}", summary="Delete a file", response_model=FileView, responses=errors(404, 413, 415, 422))
async def delete(gateway: Deps, file: FileId) -> Response:
    """Remove a file from the library, or from the trash, for good; answers with what it was."""
    return answer(await gateway.ask(DELETE_FILE, FileRef(id=file)))


@router.post(
    "/{file}/restore", summary="Take a file out of the trash", response_model=FileView, responses=errors(404, 422)
)
async def restore(gateway: Deps, file: FileId) -> Response:
    """Take a file of a deleted project out of the trash, back into the library, where it lay before."""
    return answer(with_urls(await gateway.ask(RESTORE_FILE, FileRef(id=file))))


async def content(
    request: Request,
    gateway: Deps,
    file: FileId,
    wanted: RangeHeader = None,
    if_none_match: IfNoneMatch = None,
    if_range: IfRange = None,
    *,
    download: Download = False,
) -> Response:
    """The bytes of a file."""
    found = content_of(await find(gateway, file))
    conditions = Conditions(wanted, if_none_match, if_range, download=download, head=request.method == "HEAD")
    return await send(gateway.artifacts, found, conditions)


async def thumbnail(
    request: Request,
    gateway: Deps,
    file: FileId,
    wanted: RangeHeader = None,
    if_none_match: IfNoneMatch = None,
    if_range: IfRange = None,
) -> Response:
    """A small picture of a file."""
    found = thumbnail_of(await find(gateway, file))
    conditions = Conditions(wanted, if_none_match, if_range, head=request.method == "HEAD")
    return await send(gateway.artifacts, found, conditions)


for path, endpoint, summary in (
    ("/{file}/content", content, "Get a file"),
    ("/{file}/thumbnail", thumbnail, "Get a thumbnail"),
):
    answers = errors(404, 416, 422) | BYTES
    router.add_api_route(path, endpoint, methods=["GET"], summary=summary, response_class=Response, responses=answers)
    router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False, response_class=Response)
