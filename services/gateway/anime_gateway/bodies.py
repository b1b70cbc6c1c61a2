"""Request bodies: bounded, strict JSON, and every mistake named."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from anime_common import strict_json
from anime_gateway.frames import encode
from anime_gateway.problems import Invalid

M = TypeVar("M", bound=BaseModel)


def body(model: type[M]) -> Any:
    """A FastAPI dependency: the JSON body as `model`."""

    async def read(request: Request) -> M:
        data = await bounded(request, request.app.state.gateway.settings.gateway_max_body)
        try:
            return strict_json.read(model, data)
        except ValidationError as error:
            raise Invalid(error.errors(include_url=False, include_context=False, include_input=False), model) from error

    return Depends(read)


async def bounded(request: Request, limit: int) -> bytes:
    """The body; HTTPException 413 as soon as it is larger than `limit` bytes."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > limit:
            raise HTTPException(413, f"the body is larger than {limit} bytes")
    return bytes(found)


def json_body(model: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that `body` reads; each example by its name."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if examples:
        content["examples"] = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def answer(model: M, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; absent values are null, so that every field is always there."""
    return Response(encode(model), status, headers, "application/json")
