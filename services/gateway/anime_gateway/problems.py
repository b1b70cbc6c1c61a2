"""Errors as problem details (RFC 9457): a stable `code`, the `field` as the user wrote it, and all mistakes at once."""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from anime_common.messages import Model
from anime_common.outcomes import Refused, Unavailable
from anime_common.tracing import current_trace_id
from anime_gateway.commands import CommandRefusal, OutcomeUnknown
from anime_gateway.public import job_url

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
MAX_NAME = 200
DETAILS = {404: "there is nothing at this address", 405: "this address does not know that method"}
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "not_json"}


class Mistake(Model):
    """One thing wrong with a request."""

    field: str | None = Field(None, description="Dotted name, as in the request; absent when it is the whole body.")
    code: str
    detail: str


class Problem(Model):
    """Problem details (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The HTTP status in words.")
    status: int
    code: str = Field(description="What went wrong, for programs: stable.")
    detail: str = Field(description="What went wrong, and what to do.")
    field: str | None = Field(None, description="The field at fault; of several, the first.")
    errors: tuple[Mistake, ...] = Field((), description="Every mistake, when the request is not valid.")
    job_id: str | None = Field(None, description="The job in question.")
    trace_id: str | None = Field(None, description="Of a bug: what the log of the gateway says more under.")


class Invalid(Exception):
    """A request that does not fit its model; `model` gives the names that are allowed."""

    def __init__(self, errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None = None) -> None:
        super().__init__("the request is not valid")
        self.mistakes = tuple(_mistake(error, model) for error in list(errors)[:MAX_ERRORS])


def invalid(field: str, detail: str, code: str = "value_error") -> Invalid:
    """One field is wrong."""
    return Invalid([{"type": code, "loc": (field,), "msg": detail}])


def _mistake(error: Mapping[str, Any], model: type[BaseModel] | None) -> Mistake:
    field = ".".join(str(part) for part in error["loc"])[:MAX_NAME]
    code, detail = str(error["type"]), str(error["msg"]).removeprefix("Value error, ")
    if code == "extra_forbidden":
        return Mistake(field=field, code="unknown_field", detail=_unknown(error["loc"], model))
    if code == "missing":
        return Mistake(field=field, code=code, detail="is required")
    return Mistake(field=field or None, code=code, detail=detail)


def _unknown(loc: tuple[Any, ...], model: type[BaseModel] | None) -> str:
    if model is None or len(loc) != 1:
        return "there is no such field"
    allowed = list(model.model_fields)
    close = difflib.get_close_matches(str(loc[0]), allowed, n=1)
    return f"there is no such field{f': did you mean {close[0]}?' if close else ''}; allowed are {', '.join(allowed)}"


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    errors: tuple[Mistake, ...] = (),
    job_id: str | None = None,
    trace_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response that says what went wrong."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        field=field,
        errors=errors,
        job_id=job_id,
        trace_id=trace_id,
    )
    found = dict(headers or {})
    if status == 503:
        found.setdefault("Retry-After", "1")
    if status in {408, 413}:
        # The rest of the body is not read.
        found.setdefault("Connection", "close")
    return Response(body.model_dump_json(exclude_none=True), status, found, MEDIA_TYPE)


def invalid_response(error: Invalid) -> Response:
    """422 with every mistake; 400 for a body that is no JSON at all."""
    first = error.mistakes[0]
    if first.code == "json_invalid":
        return problem(400, "malformed_json", first.detail)
    text = f"{first.field}: {first.detail}" if first.field else first.detail
    return problem(422, "invalid", text, field=first.field, errors=error.mistakes)


async def respond(request: Request, error: Exception) -> Response:  # noqa: PLR0911 - one return a kind of error
    """The response to an error that a request ended with."""
    match error:
        case Invalid():
            return invalid_response(error)
        case RequestValidationError():
            # The first part of `loc` says where the parameter is (path, query, header): people wrote only its name.
            return invalid_response(Invalid({**each, "loc": each["loc"][1:]} for each in error.errors()))
        case CommandRefusal():
            job_id = str(error.job_id) if error.job_id is not None else None
            return problem(error.status, error.code, error.message, field=error.field, job_id=job_id)
        case OutcomeUnknown():
            headers = {"Location": job_url(error.job)}
            return problem(error.status, error.code, error.message, job_id=error.job, headers=headers)
        case Refused():
            return problem(error.status, error.code, error.message, field=error.field)
        case Unavailable():
            log.warning("unavailable", path=request.url.path, error=str(error))
            return problem(503, "unavailable", "a part of the system is away; try again soon")
        case HTTPException(status_code=405):
            return problem(405, CODES[405], DETAILS[405], headers={"Allow": ", ".join(sorted(_allowed(request)))})
        case HTTPException():
            text = DETAILS.get(error.status_code, error.detail)
            code = CODES.get(error.status_code, "refused")
            return problem(error.status_code, code, text, headers=error.headers)
        case _:
            return internal(error, request.scope)


def internal(error: Exception, asgi: Scope) -> Response:
    """A bug: the log gets all of it, whoever asked only the id under which it stands there."""
    trace_id = current_trace_id() or secrets.token_hex(16)
    method, path = asgi.get("method"), asgi["path"][:MAX_NAME]
    log.error("request_failed", method=method, path=path, trace_id=trace_id, exc_info=error)
    text = f"the gateway failed to answer; its log says why, under {trace_id}"
    return problem(500, "internal", text, trace_id=trace_id)


def _allowed(request: Request) -> set[str]:
    known: dict[re.Pattern[str], set[str]] = request.app.state.methods
    return set().union(*(methods for path, methods in known.items() if path.match(request.url.path)))


def install(app: FastAPI) -> None:
    """Answer every error of an app as problem details."""
    for kind in (Invalid, RequestValidationError, Refused, Unavailable, HTTPException, Exception):
        app.add_exception_handler(kind, respond)
