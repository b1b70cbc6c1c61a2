"""Signing in: browsers hold the token in a cookie that scripts cannot read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from anime_common.tokens import AccessToken
from anime_gateway.access import COOKIE, caller_of
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.public import Session, SignIn

router = APIRouter(prefix="/session", tags=["session"])

LONGEST = 30 * 24 * 3600
"""Seconds that a browser keeps the cookie; a token that expires before takes it along."""
EXAMPLE = {"token": "anime_k3v9x2mq_…"}


@router.get("", summary="Who I am", response_model=Session, responses=errors())
async def who(request: Request, gateway: Deps) -> Response:
    """Whether a token is needed, and what the one presented may do."""
    return answer(_view(gateway, caller_of(request.scope).token))


@router.post(
    "",
    summary="Sign in",
    response_model=Session,
    responses=errors(*WRITE_ERRORS),
    openapi_extra=json_body(SignIn, a_token=EXAMPLE),
)
async def sign_in(request: Request, gateway: Deps, wanted: Annotated[SignIn, body(SignIn)]) -> Response:
    """Put the token into a cookie that only this server gets and no script can read."""
    token, refusal = gateway.access.sign_in(wanted.token.strip(), caller_of(request.scope).address)
    if token is None:
        assert refusal is not None
        return refusal
    response = answer(_view(gateway, token))
    left = (token.expires_at - datetime.now(UTC)).total_seconds() if token.expires_at is not None else LONGEST
    # Browsers name the scheme of the page that asks: over TLS, the cookie never travels without.
    secure = request.headers.get("origin", "").lower().startswith("https://")
    response.set_cookie(
        COOKIE, wanted.token.strip(), max_age=int(min(left, LONGEST)), httponly=True, samesite="strict", secure=secure
    )
    response.headers["Cache-Control"] = "no-store"
    return response


@router.delete("", summary="Sign out", status_code=204, response_class=Response, responses=errors(413, 415))
async def sign_out() -> Response:
    """Forget the cookie. The token stays good: `anime token revoke` ends it."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _view(gateway: Gateway, token: AccessToken | None) -> Session:
    required = gateway.access.required
    if token is None:
        return Session(required=required, signed_in=False)
    return Session(required=required, signed_in=True, name=token.name, scope=token.scope, expires_at=token.expires_at)
