"""Optimistic concurrency over HTTP: the version of a thing is its entity tag, and `If-Match` binds an edit to it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from anime_gateway.bodies import answer
from anime_gateway.problems import invalid

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The `ETag` of what you have read: do it only if nobody changed it since."),
]
_ETAG = re.compile(r'"([0-9]{1,9})"')


def expected(if_match: str | None) -> int | None:
    """The version that `If-Match` names; `*` is any. Raises Invalid."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise invalid("If-Match", 'must be the ETag that came with it, such as "3", or *')
    return int(found[1])


def tagged(model: BaseModel, version: int, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response with a version as its entity tag."""
    return answer(model, status, {"ETag": f'"{version}"', **(headers or {})})
