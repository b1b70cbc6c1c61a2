"""The application: every route, every error as problem details, and the document that describes both."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import compile_path

import anime_gateway
from anime_gateway import problems
from anime_gateway.deps import Gateway
from anime_gateway.documents import document
from anime_gateway.doors import Doors
from anime_gateway.public import BASE
from anime_gateway.routes import (
    batches,
    characters,
    events,
    files,
    jobs,
    page,
    projects,
    prompts,
    session,
    system,
    uploads,
)

API = (jobs, batches, events, projects, characters, files, uploads, prompts, session, system)
TAGS = [
    {"name": "jobs", "description": "From a prompt to pictures."},
    {"name": "batches", "description": "Many jobs at once."},
    {"name": "events", "description": "What happens, as it happens."},
    {"name": "projects", "description": "The folders of jobs and files."},
    {"name": "characters", "description": "Who recurs in pictures."},
    {"name": "files", "description": "The library: finished pictures, and uploads."},
    {"name": "prompts", "description": "Better prompts."},
    {"name": "session", "description": "Signing in with a token, for browsers."},
    {"name": "system", "description": "The state of the whole."},
]
DESCRIPTION = (
    "Errors are problem details (RFC 9457) with a stable `code` and the `field` at fault. Lists answer "
    '`{"items": […], "next": cursor or null}`. A job has one id, one state and one progress everywhere: here, in '
    "events and on the WebSocket at `/api/anime/ws`."
)


def create_app() -> FastAPI:
    """The routes and their errors; they find their parts in `app.state.gateway`."""
    app = FastAPI(
        title="Tower Anime Production",
        version=anime_gateway.__version__,
        summary="Pictures from prompts, filed by project, with honest live progress.",
        description=DESCRIPTION,
        openapi_url=f"{BASE}/openapi.json",
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for module in API:
        app.include_router(module.router, prefix=BASE)
    app.include_router(page.router)
    app.state.methods = methods_by_path()
    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # how FastAPI wants it replaced
    return app


def methods_by_path() -> dict[re.Pattern[str], set[str]]:
    """The methods that each path knows, for `Allow`: each has a route of its own, and a router looks at only one."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for prefix, module in [*((BASE, each) for each in API), ("", page)]:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                found[prefix + route.path] |= route.methods or set()
    return {compile_path(path)[0]: methods for path, methods in found.items()}


def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    return document(create_app())


def serve(gateway: Gateway) -> Doors:
    """The whole application of a running gateway, behind its doors."""
    app = create_app()
    app.state.gateway = gateway
    return Doors(app, gateway.settings, gateway.access)
