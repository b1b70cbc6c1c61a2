"""The OpenAPI document: what routes share, and the whole."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from anime_common.contracts.echo import OptimizeQuestion
from anime_common.contracts.files import FileChanges
from anime_common.contracts.jobs import JobChanges, NewProject, ProjectChanges, QueueState
from anime_common.contracts.vocabulary import GenerationRequest, Progress
from anime_gateway.problems import MEDIA_TYPE, Problem
from anime_gateway.public import (
    FileData,
    JobData,
    ProjectData,
    ProjectReplacement,
    ResetData,
    SnapshotData,
)

UNSEEN_MODELS: tuple[type[BaseModel], ...] = (
    *(Problem, GenerationRequest, JobChanges, NewProject, ProjectChanges, ProjectReplacement, FileChanges),
    *(OptimizeQuestion, JobData, FileData, ProjectData, SnapshotData, ResetData, QueueState, Progress),
)
"""Errors, request bodies and data of stream events: FastAPI does not see these, since routes read and send them."""

SCHEMAS = "#/components/schemas/{model}"
PROBLEM = {"$ref": SCHEMAS.format(model="Problem")}

ALWAYS = (403, 421, 500, 503, 504)
"""Errors that every route can answer: foreign origin, wrong host, a bug, a service that is away or too slow."""

TEXTS = {
    400: "The body is no JSON.",
    403: "The request comes from a page of another origin.",
    404: "There is no such thing.",
    409: "It conflicts with how things are now.",
    410: "It was refused after it had been taken in.",
    412: "Somebody changed it since.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    416: "The range lies outside of the content.",
    421: "The `Host` is not a name of this server.",
    422: "The request is not valid: `field` and `errors` say where.",
    500: "A bug; the log of the service says more.",
    503: "A part of the system is away; try again soon.",
    504: "A part of the system did not answer in time. With the code `outcome_unknown`, look or repeat.",
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
    return found
