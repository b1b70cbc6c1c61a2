"""The OpenAPI document: what routes share, and the whole."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from anime_common.contracts.batches import BatchChanges, NewBatch
from anime_common.contracts.characters import CharacterChanges, NewCharacter
from anime_common.contracts.echo import OptimizeQuestion
from anime_common.contracts.files import FileChanges
from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import JobChanges, QueueState, RetryFilter
from anime_common.contracts.projects import NewProject, ProjectChanges
from anime_common.contracts.vocabulary import Progress
from anime_gateway.access import COOKIE
from anime_gateway.problems import MEDIA_TYPE, Problem
from anime_gateway.public import (
    BatchData,
    BatchRetry,
    CharacterData,
    CharacterReplacement,
    FileData,
    JobData,
    PauseReason,
    ProjectData,
    ProjectReplacement,
    ResetData,
    SignIn,
    SnapshotData,
)
from anime_gateway.rights import needed

UNSEEN_MODELS: tuple[type[BaseModel], ...] = (
    *(Problem, GenerationRequest, JobChanges, NewProject, ProjectChanges, ProjectReplacement, FileChanges),
    PauseReason,
    RetryFilter,
    *(NewBatch, BatchChanges, BatchRetry, BatchData),
    *(NewCharacter, CharacterChanges, CharacterReplacement, CharacterData),
    *(OptimizeQuestion, SignIn, JobData, FileData, ProjectData, SnapshotData, ResetData, QueueState, Progress),
)
"""Errors, request bodies and data of stream events: FastAPI does not see these, since routes read and send them."""

SCHEMAS = "#/components/schemas/{model}"
PROBLEM = {"$ref": SCHEMAS.format(model="Problem")}

ALWAYS = (401, 403, 421, 429, 500, 503, 504)
"""Errors that every route can answer: who asks may not, or too often; a wrong host; a bug; a service that is away."""

TEXTS = {
    400: "The body is no JSON, or no form, or did not come to its end.",
    401: "A token is needed, or the one presented is not good.",
    403: "The token's scope does not include this, or the request comes from a page of another origin.",
    404: "There is no such thing.",
    408: "The body stopped coming.",
    409: "It conflicts with how things are now.",
    410: "It was refused after it had been taken in.",
    412: "Somebody changed it since.",
    413: "The body is too large.",
    415: "The body is not of a type that is taken here: JSON, unless others are named.",
    416: "The range lies outside of the content.",
    421: "The `Host` is not a name of this server.",
    422: "The request is not valid: `field` and `errors` say where.",
    429: "Too often: `Retry-After` says when to come back.",
    500: "A bug; the log of the service says more.",
    503: "A part of the system is away; with the code `not_stored`, the message bus is full. Try again soon.",
    504: "A part of the system did not answer in time. With the code `outcome_unknown`, look or repeat.",
}
SECURITY: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access token of `anime token create`, with the scope read, submit or admin: each includes "
        "those before it. Not needed where the gateway listens on a loopback address, unless it is set otherwise.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The same, for browsers: `POST /session` sets it.",
    },
}
EXAMPLES: dict[int, dict[str, Any]] = {
    404: {"code": "not_found", "detail": "there is no job 'k3v9x2mq'", "field": "job"},
    422: {
        "code": "invalid",
        "detail": "steps: Input should be less than or equal to 150",
        "field": "steps",
        "errors": [
            {"field": "steps", "code": "less_than_equal", "detail": "Input should be less than or equal to 150"}
        ],
    },
    503: {"code": "unavailable", "detail": "the service 'jobs' is not running; try again soon"},
    504: {
        "code": "outcome_unknown",
        "detail": "the message bus did not confirm the command in time; look whether it took effect, or send it again",
        "job_id": "0198c5a3-7c11-7bb4-a4f0-1f7d2a9e6b52",
    },
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route's errors."""
    found: dict[int | str, dict[str, Any]] = {status: _error(status) for status in sorted({*statuses, *ALWAYS})}
    return found | {"default": {"description": "Any other error.", "content": {MEDIA_TYPE: {"schema": PROBLEM}}}}


def _error(status: int) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": PROBLEM}
    if status in EXAMPLES:
        content["example"] = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            **EXAMPLES[status],
        }
    return {"description": TEXTS[status], "content": {MEDIA_TYPE: content}}


WRITE_ERRORS = (400, 413, 415, 422)
"""Errors of every route that reads a body."""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app, complete with the models that its routes read and answer by themselves."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        separate_input_output_schemas=False,
    )
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, extra = models_json_schema([(model, "validation") for model in UNSEEN_MODELS], ref_template=SCHEMAS)
    for name, schema in extra["$defs"].items():
        schemas.setdefault(name, schema)
    found["components"]["schemas"] = dict(sorted(schemas.items()))
    _secure(found)
    return found


def _secure(found: dict[str, Any]) -> None:
    """Say of each operation which scope a token needs for it, where tokens are required."""
    found["components"]["securitySchemes"] = SECURITY
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            scope = needed(method.upper(), path)
            operation["security"] = [{name: [scope]} for name in SECURITY] if scope is not None else []
