"""Who asks, and whether they may: access tokens, their scopes, and how often somebody may ask.

A token comes in `Authorization: Bearer …` or, from browsers, in a cookie that scripts cannot read; never in a URL.
Where no token is required (on a loopback address, unless set otherwise), whoever presents none may do everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from starlette.requests import cookie_parser

from anime_common.clock import happens
from anime_common.tokens import AccessToken, Scope, TokensUnreadable, owner, read_tokens
from anime_gateway.limits import RateLimit, neighbourhood
from anime_gateway.problems import problem
from anime_gateway.rights import READS, needed

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.responses import Response
    from starlette.types import Scope as Asgi

    from anime_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

COOKIE = "anime_token"
CALLER = "caller"
"""Where in `scope["state"]` the caller stands."""
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="anime"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the token they presented, or nobody in particular at an address (of IPv6, in a network)."""

    token: AccessToken | None
    address: str

    @property
    def scope(self) -> Scope:
        """What they may do, if a token is not required."""
        return self.token.scope if self.token is not None else Scope.ADMIN

    @property
    def key(self) -> str:
        """Whose limits count."""
        return f"token {self.token.id}" if self.token is not None else f"address {self.address}"


class Keyring:
    """The tokens of a file, read again whenever it changes. What cannot be read holds no token."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._tokens: tuple[AccessToken, ...] = ()
        self.problem: str | None = None

    def owner(self, presented: str) -> AccessToken | None:
        """Whose token this is, if it is good now."""
        self.refresh()
        return owner(self._tokens, presented, datetime.now(UTC))

    def good(self, token: AccessToken) -> bool:
        """Whether a token that was good before still is, as the file was when it was read last."""
        return token in self._tokens and not token.expired(datetime.now(UTC))

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None:
            return
        try:
            # A new file under the old name, or a mounted secret that was swapped, is another inode.
            status = self._path.stat()
            seen: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError:
            seen = ()
        if seen and seen == self._seen:
            return
        try:
            self._tokens, self.problem = read_tokens(self._path), None
        except TokensUnreadable as error:
            if str(error) != self.problem:
                log.error("tokens_unreadable", error=str(error))  # noqa: TRY400 - its text says all
            self._tokens, self.problem = (), str(error)
        self._seen = seen


class Access:
    """Decides over each request, and ends the streams of those whose token is no longer good."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.required = settings.tokens_required
        self.keyring = Keyring(settings.gateway_tokens)
        self._requests = RateLimit(settings.gateway_rate, settings.gateway_burst)
        self._writes = RateLimit(settings.gateway_write_rate, settings.gateway_write_burst)
        self._failures = RateLimit(settings.gateway_failure_rate, settings.gateway_failure_burst)
        self._recheck = settings.gateway_token_check
        self._streams: dict[object, tuple[AccessToken, Callable[[], None]]] = {}

    def refusal(self, asgi: Asgi, headers: Headers) -> Response | None:
        """Why a request or a WebSocket may not go on; None when it may, and its caller is known then."""
        address = neighbourhood((asgi.get("client") or ("unknown",))[0])
        method = asgi.get("method", "GET")
        scope = needed(method, asgi["path"])
        token, refusal = self._identify(headers, address, needs_token=scope is not None and self.required)
        if refusal is not None:
            return refusal
        caller = Caller(token, address)
        wait = self.wait(caller, writes=method not in READS)
        if wait:
            return too_many(wait, "too many requests")
        if scope is not None and not caller.scope.includes(scope):
            text = f"this token may {caller.scope}; this needs a token that may {scope}"
            return problem(403, "insufficient_scope", text, field="Authorization")
        asgi.setdefault("state", {})[CALLER] = caller
        return None

    def sign_in(self, presented: str, address: str) -> tuple[AccessToken | None, Response | None]:
        """Whose token this is; else why not. Wrong ones are counted, so that nobody tries them all day."""
        token = self.keyring.owner(presented)
        if token is not None:
            return token, None
        wait = self._failures.take(address, time.monotonic())
        if wait:
            return None, too_many(wait, "too many wrong tokens from this address")
        return None, problem(401, "invalid_token", "this token is not known, revoked or expired", headers=CHALLENGE)

    def _identify(
        self, headers: Headers, address: str, *, needs_token: bool
    ) -> tuple[AccessToken | None, Response | None]:
        given = headers.getlist("authorization")
        if given:
            scheme, _, presented = given[0].partition(" ")
            if len(given) > 1 or scheme.lower() != "bearer":
                text = "send one header of the form `Authorization: Bearer anime_…`"
                return None, problem(401, "invalid_token", text, field="Authorization", headers=CHALLENGE)
            return self.sign_in(presented.strip(), address)
        cookie = _cookie(headers)
        token = self.keyring.owner(cookie) if cookie else None
        if token is not None or not needs_token:
            return token, None
        if cookie:
            return self.sign_in(cookie, address)
        wait = self.wait(Caller(None, address))
        if wait:
            return None, too_many(wait, "too many requests")
        text = "send a token, as `Authorization: Bearer anime_…`; `anime token create NAME` makes one"
        return None, problem(401, "token_required", text, headers=CHALLENGE)

    def wait(self, caller: Caller, *, writes: bool = False) -> float:
        """0.0 when a caller may ask now, which counts; else the seconds until they may."""
        now = time.monotonic()
        wait = self._requests.take(caller.key, now)
        return self._writes.take(caller.key, now) if writes and not wait else wait

    @contextmanager
    def stream(self, asgi: Asgi, end: Callable[[], None] | None) -> Iterator[None]:
        """While a stream is open: `end` is called once the token that opened it is no longer good."""
        caller: Caller | None = asgi.get("state", {}).get(CALLER)
        if caller is None or caller.token is None or end is None:
            yield
            return
        mark = object()
        self._streams[mark] = (caller.token, end)
        try:
            yield
        finally:
            del self._streams[mark]

    async def watch(self, stop: asyncio.Event) -> None:
        """End streams whose token was revoked or has expired, until stopped."""
        while not await happens(stop, within=self._recheck):
            self.keyring.refresh()
            for token, end in list(self._streams.values()):
                if not self.keyring.good(token):
                    log.info("stream_ended", token=token.id, reason="its token is no longer good")
                    end()

    async def check(self) -> str | None:
        """What is wrong with the file of tokens, for readiness."""
        self.keyring.refresh()
        return self.keyring.problem


def caller_of(asgi: Asgi) -> Caller:
    """The caller of a request that was let in."""
    found: Caller = asgi["state"][CALLER]
    return found


def too_many(wait: float, what: str) -> Response:
    """429 with the whole seconds after which it may go on."""
    seconds = whole_seconds(wait)
    text = f"{what}: try again in {seconds} s"
    return problem(429, "rate_limited", text, headers={"Retry-After": str(seconds)})


def whole_seconds(wait: float) -> int:
    """The next whole number of seconds, for `Retry-After`."""
    return int(wait) + 1


def _cookie(headers: Headers) -> str | None:
    for each in headers.getlist("cookie"):
        if found := cookie_parser(each).get(COOKIE):
            return found
    return None
