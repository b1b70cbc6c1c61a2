"""Health and metrics over HTTP, and a uvicorn server that lives inside the service's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

log = structlog.get_logger(__name__)

Check = Callable[[], Awaitable["str | None"]]
"""Returns None when all is well, else what is wrong."""


def health_app(service: str, checks: Mapping[str, Check]) -> Starlette:
    """`/healthz` (the process lives), `/readyz` (all checks pass, else 503 with what is wrong), `/metrics`."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"service": service, "status": "ok"})

    async def readyz(_: Request) -> Response:
        wrong = {}
        for name, check in checks.items():
            try:
                problem = await asyncio.wait_for(check(), 2.0)
            except TimeoutError:
                problem = "no answer within 2 s"
            except Exception as error:  # noqa: BLE001 - whatever a check raises is what is wrong
                problem = f"{type(error).__name__}: {error}"
            if problem:
                wrong[name] = problem
        body = {"service": service, "status": "unavailable" if wrong else "ok", "checks": list(checks), "wrong": wrong}
        return JSONResponse(body, status_code=503 if wrong else 200)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=routes)


@asynccontextmanager
async def running(app: Any, *, host: str, port: int, grace: float = 3.0, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI app while the block runs; yields the port. Open responses get `grace` seconds at the end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches delays between small writes off; without, each costs up to 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.set_inheritable(False)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=int(max(grace, 1)), lifespan="off", **options
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {host}:{port}")
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if serving.done():
            serving.result()
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        listener.close()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
