"""Uploads: somebody's own pictures, for the library and as something to begin with."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, TypeAdapter, ValidationError
from starlette.responses import Response

from anime_common.artifacts import upload_key
from anime_common.contracts.files import REGISTER_UPLOAD, FileName, FileView, RegisterUpload
from anime_common.contracts.projects import GET_PROJECT, Project, ProjectRef, ProjectState
from anime_common.contracts.vocabulary import PICTURE_TYPES, Name
from anime_common.messages import Request as Question
from anime_common.outcomes import Refused
from anime_gateway.bodies import answer
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import errors
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.problems import Invalid, invalid
from anime_gateway.public import BASE, with_urls
from anime_gateway.uploads import FILE, FORM, PROJECT, Received, last_part, receive

router = APIRouter(prefix="/uploads", tags=["files"])

DEFAULT_PROJECT = "default"
_NAMES: TypeAdapter[str] = TypeAdapter(FileName)
_BYTES = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {media_type: {"schema": _BYTES} for media_type in PICTURE_TYPES}
        | {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [FILE],
                    "additionalProperties": False,
                    "properties": {
                        FILE: {**_BYTES, "description": "The picture: PNG, JPEG or WebP, whatever it is declared as."},
                        PROJECT: {"type": "string", "description": "Id or slug of the project to file it under."},
                    },
                },
            }
        },
    }
}
EXAMPLE: dict[str, Any] = {
    "id": "0198c5a0-b5f4-7f2c-8d63-e4b1907a5c38",
    "key": "moonlit-academy/2026-03-01/upload/907a5c38_00.png",
    "thumbnail_key": "thumbnails/38/0198c5a0-b5f4-7f2c-8d63-e4b1907a5c38.webp",
    "name": "sketch.png",
    "project_id": "0198b1e4-3300-7e88-9f10-a7c5d2b46e03",
    "project": "moonlit-academy",
    "date": "2026-03-01",
    "index": 0,
    "type": "upload",
    "media_type": "image/png",
    "size": 418503,
    "width": 512,
    "height": 768,
    "sha256": "9f2c5a1e7d3b8c4f6a0e1d2c3b4a59687786950413223140f1e2d3c4b5a69788",
    "rating": 0,
    "favourite": False,
    "tags": [],
    "created_at": "2026-03-01T12:00:00Z",
    "updated_at": "2026-03-01T12:00:00Z",
    "version": 1,
    "content_url": f"{BASE}/files/0198c5a0-b5f4-7f2c-8d63-e4b1907a5c38/content",
    "thumbnail_url": f"{BASE}/files/0198c5a0-b5f4-7f2c-8d63-e4b1907a5c38/thumbnail",
}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "The file of the library.", "content": {"application/json": {"example": EXAMPLE}}}
}


class UploadQuery(Question):
    """Where an upload goes, and what it is called."""

    project: Name | None = Field(None, description="Id or slug of the project to file it under; default: `default`.")
    name: FileName | None = Field(None, description="What to call it; default: the name of the file in a form.")


@router.post(
    "",
    summary="Upload a picture",
    status_code=201,
    response_model=FileView,
    responses=errors(400, 408, 409, 413, 415, 422) | CREATED,
    openapi_extra=BODY,
)
async def upload(
    request: Request, gateway: Deps, query: Annotated[UploadQuery, Query()], idempotency_key: IdempotencyKey = None
) -> Response:
    """Put a picture of your own into the library: as the body, with its media type, or as the field `file` of a form.

    What it is goes by its bytes: PNG, JPEG or WebP of one frame, else 422 `not_a_picture`. The bytes are kept as they
    are; width and height are those after turning by its EXIF orientation. A form needs an access token, or the
    `Origin` of our own page. The same `Idempotency-Key` with the same picture gives the same file.
    """
    upload_id = id_for("upload", idempotency_key)
    early = None if query.project is None else await project_of(gateway, query.project)
    async with gateway.uploading:
        settings = gateway.settings
        received = await receive(
            request,
            gateway.artifacts,
            upload_id,
            limit=settings.gateway_max_upload,
            patience=settings.gateway_stuck_after,
        )
        try:
            project = await _project(gateway, early, query.project, received.project)
            question = question_of(upload_id, received, project, query.name)
        except (Refused, Invalid):
            await gateway.artifacts.delete(upload_key(upload_id))
            raise
        file = await register(gateway, question)
    return answer(with_urls(file), 201, {"Location": f"{BASE}/files/{file.id}"})


async def _project(gateway: Gateway, early: Project | None, queried: str | None, sent: str | None) -> Project:
    """The project that a request names, in its query or in its form."""
    if early is None:
        return await project_of(gateway, DEFAULT_PROJECT if sent is None else sent)
    if sent is not None and sent != queried:
        raise invalid(PROJECT, "is one in the query and another in the form: name it once", "repeated")
    return early


async def project_of(gateway: Gateway, ref: str) -> Project:
    """A project that takes new files, by id or slug; raises Refused as for a job that names it."""
    text = f"there is no project {ref[:64]!r}: make it first, or leave the field out for 'default'"
    try:
        question = ProjectRef(project=ref)
    except ValidationError as error:
        raise Refused(422, "unknown_project", text, PROJECT) from error
    try:
        project = await gateway.ask(GET_PROJECT, question)
    except Refused as error:
        if error.status != 404:
            raise
        raise Refused(422, "unknown_project", text, PROJECT) from error
    if project.state is ProjectState.ARCHIVED:
        raise Refused(422, "project_archived", f"the project {project.slug!r} is archived", PROJECT)
    return project


def question_of(upload_id: UUID, received: Received, project: Project, name: str | None) -> RegisterUpload:
    """What to ask files; raises Invalid when the name of the file cannot be kept."""
    called = last_part(name or received.filename)
    try:
        known = None if called is None else _NAMES.validate_python(called)
    except ValidationError as error:
        raise invalid("name", str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
    written = received.written
    return RegisterUpload(
        id=upload_id,
        sha256=written.sha256,
        size=written.size,
        project_id=project.id,
        project=project.slug,
        name=known,
    )


async def register(gateway: Gateway, question: RegisterUpload) -> FileView:
    """Have files take what is stored into the library; raises Refused."""
    wait = gateway.settings.gateway_upload_wait
    try:
        return await gateway.ask(REGISTER_UPLOAD, question, timeout=wait)
    except Refused as error:
        if error.code != "timeout":
            raise
        # Nobody knows whether it was taken: the same id makes asking again harmless.
        return await gateway.ask(REGISTER_UPLOAD, question, timeout=wait)
