"""What every request passes before anything reads it: any web page in a browser can reach localhost.

`Host` must be one of our names (else a page could rebind its own name to this address), `Origin` must be our own, and
what writes must be JSON (a form cannot send it; for pictures, see `uploads`). Then come tokens and limits, see
`access`. Sizes are bounded. Every response gets the usual protective headers.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers, MutableHeaders
from starlette.websockets import WebSocket

from anime_common.tracing import span
from anime_gateway import metrics, uploads
from anime_gateway.problems import MAX_NAME, internal, problem
from anime_gateway.protocol import abort_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from anime_gateway.access import Access
    from anime_gateway.settings import GatewaySettings

CLOSE = "websocket.close"
INTERNAL_ERROR = 1011
"""Close code: the server met what it did not expect (https://www.iana.org/assignments/websocket)."""

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Doors:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, access: Access) -> None:
        self.app = app
        self.access = access
        self.hosts = settings.hosts
        self.max_body = settings.gateway_max_body
        self.max_upload = settings.gateway_max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with protective headers, a trace and a measured time."""
        if scope["type"] == "websocket":
            await self._talk(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
            await send(message)

        try:
            refused = await self._answer(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001 - whatever it is: it is logged, and its text must not leave
            # What a route failed with was logged and answered before it came here; what began to answer is cut off.
            refused = False
            if status is None:
                await internal(error, scope)(scope, receive, guarded)
        if refused or not streams(scope):
            route = "refused" if refused else route_of(scope)
            labels = {"method": known_method(scope), "route": route, "status": str(status)}
            metrics.REQUEST_SECONDS.labels(**labels).observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request; says whether it was refused."""
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return True
        if streams(scope):
            with self.access.stream(scope, abort_of(scope)):
                await self.app(scope, receive, send)
            return False
        with span(scope["method"], traceparent=headers.get("traceparent"), kind=SpanKind.SERVER):
            await self.app(scope, receive, send)
            trace.get_current_span().update_name(f"{scope['method']} {route_of(scope)}")
        return False

    async def _talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket in, or answer its handshake with the refusal, as HTTP."""
        last = ""

        async def heard(message: Message) -> None:
            nonlocal last
            last = message["type"]
            await send(message)

        try:
            refusal = self._refusal(scope, Headers(scope=scope))
            if refusal is None:
                with self.access.stream(scope, abort_of(scope)):
                    await self.app(scope, receive, heard)
        except Exception as error:  # noqa: BLE001 - as for requests
            refusal = internal(error, scope)
        if refusal is not None and not last:
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        elif refusal is not None and last != CLOSE:
            with contextlib.suppress(OSError):
                await send({"type": CLOSE, "code": INTERNAL_ERROR})

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if hostname(host) not in self.hosts:
            # Which names are ours is no business of a page that came here under another.
            text = f"this server does not go by {host[:MAX_NAME]!r}: ANIME_GATEWAY_HOSTS says which names it has"
            return problem(421, "wrong_host", text, field="Host")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
            return problem(403, "foreign_origin", "pages of other origins may not use this server", field="Origin")
        refusal = self.access.refusal(scope, headers)
        if refusal is not None or scope["type"] != "http":
            return refusal
        return self._body_refusal(scope, headers)

    def _body_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why a body is not even read."""
        if scope["path"] == uploads.PATH:
            # There is one method; the others are answered so, and no body is read.
            return uploads.refusal(headers, self.max_upload) if scope["method"] == "POST" else None
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_body:
            return too_large(self.max_body)
        kind = headers.get("content-type")
        if scope["method"] in WRITES and (kind is not None or length != "0") and not is_json(kind):
            return problem(415, "not_json", "send JSON, with Content-Type: application/json", field="Content-Type")
        return None


def streams(scope: Scope) -> bool:
    """Whether the answer goes on for as long as somebody listens."""
    path: str = scope["path"]
    return path.endswith("/events")


def route_of(scope: Scope) -> str:
    """The template of the route that answered: of bounded number, unlike paths."""
    return getattr(scope.get("route"), "path", "unknown")


def known_method(scope: Scope) -> str:
    """The method, as a label of bounded number."""
    method: str = scope["method"]
    return method if method in WRITES | {"GET", "HEAD", "OPTIONS"} else "other"


def too_large(limit: int) -> Response:
    """A body over the limit; the rest of it is not read."""
    return problem(413, "too_large", f"the body is larger than {limit} bytes")


def hostname(host: str) -> str:
    """The name in a `Host` header, without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def is_json(content_type: str | None) -> bool:
    """Whether a body is declared to be JSON in UTF-8."""
    media_type, *parameters = (content_type or "").lower().replace(" ", "").split(";")
    return media_type == "application/json" and all(
        parameter in {"", "charset=utf-8", 'charset="utf-8"'} for parameter in parameters
    )
