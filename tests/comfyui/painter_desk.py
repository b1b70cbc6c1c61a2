"""What a painter answers over HTTP, and the state behind that."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.comfyui.painter_checks import judge
from tests.comfyui.painter_classes import FOLDERS, INPUT, classes
from tests.comfyui.painter_files import annotated, stored, viewed
from tests.comfyui.painter_manners import Manners
from tests.comfyui.painter_queue import Queue
from tests.comfyui.painter_wire import FEATURES, Wire

MODELS = {
    "checkpoints": ["anime.safetensors", "xl/pony-xl.safetensors"],
    "loras": ["ink-xl.safetensors", "sd15/soft.safetensors"],
    "upscale_models": ["RealESRGAN_x4plus_anime_6B.pth"],
}
TEXTS = {("checkpoints", "anime.safetensors"): {"modelspec.architecture": "stable-diffusion-v1"}}
GIB = 1 << 30
VERSION = "0.3.64"
FIGURES = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")


class Desk:
    """Answers requests; `log` is every one of them as (method, path, body).

    `models` are the files of each folder, `texts` what they carry by folder and name, `memory` and `device` what it
    says of its card; all may be changed while it serves.
    """

    def __init__(self, folder: Path, manners: Manners) -> None:
        self.folder = folder.resolve()
        self.models: dict[str, list[str]] = {name: list(MODELS.get(name, ())) for name in FOLDERS}
        self.texts = dict(TEXTS)
        self.memory = dict(zip(FIGURES, (12 * GIB, 10 * GIB, 2 * GIB, 0), strict=True))
        self.device = "cuda"
        self.log: list[tuple[str, str, Any]] = []
        self._wire = Wire()
        self._queue = Queue(self.folder, manners, self._wire)

    @property
    def manners(self) -> Manners:
        """How it behaves."""
        return self._queue.manners

    @manners.setter
    def manners(self, manners: Manners) -> None:
        self._queue.manners = manners

    async def prompt(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "GET":
            return JSONResponse(self._queue.status())
        if body is None:
            return _trouble()
        number = self._queue.number(body if isinstance(body, dict) else {})
        if not isinstance(body, dict) or "prompt" not in body:
            text = "No prompt provided"
            error = {"type": "no_prompt", "message": text, "details": text, "extra_info": {}}
            return JSONResponse({"error": error, "node_errors": {}}, 400)
        body = json.loads(json.dumps(body))  # the log keeps what was sent
        try:
            verdict = judge(body["prompt"], self._classes(), lambda name: annotated(self.folder, name) is not None)
        except (TypeError, AttributeError, KeyError):
            return _trouble()
        if verdict.error is not None:
            return JSONResponse({"error": verdict.error, "node_errors": verdict.node_errors}, 400)
        job = self._queue.put(body, verdict.outputs, number)
        return JSONResponse({"prompt_id": job.prompt_id, "number": job.number, "node_errors": verdict.node_errors})

    async def queue(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "POST":
            if (body or {}).get("clear"):
                self._queue.clear()
            self._queue.delete((body or {}).get("delete", ()))
            return Response()
        running = [self._queue.running.entry()] if self._queue.running else []
        return JSONResponse({"queue_running": running, "queue_pending": [job.entry() for job in self._queue.pending]})

    async def past(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "POST":
            if (body or {}).get("clear"):
                self._queue.history.clear()
            for prompt_id in (body or {}).get("delete", ()):
                self._queue.history.pop(prompt_id, None)
            return Response()
        most = int(request.query_params.get("max_items", 10_000))
        return JSONResponse(dict(list(self._queue.history.items())[-most:]))

    async def one_past(self, request: Request) -> Response:
        await self._hear(request)
        prompt_id = request.path_params["prompt_id"]
        return JSONResponse({prompt_id: self._queue.history[prompt_id]} if prompt_id in self._queue.history else {})

    async def interrupt(self, request: Request) -> Response:
        body = await self._hear(request)
        if body is not None and not isinstance(body, dict):
            return _trouble()
        self._queue.interrupt((body or {}).get("prompt_id"))
        return Response()

    async def cancel(self, request: Request) -> Response:
        await self._hear(request)
        if not self.manners.cancels_jobs:
            return Response(status_code=404)
        prompt_id = request.path_params["prompt_id"]
        self._queue.delete([prompt_id])
        self._queue.interrupt(prompt_id)
        return JSONResponse({"cancelled": True})

    # Files and figures.

    async def view(self, request: Request) -> Response:
        await self._hear(request)
        found = viewed(self.folder, request.query_params)
        if isinstance(found, int):
            return Response(status_code=found)
        return FileResponse(found, headers={"Content-Disposition": f'filename="{found.name}"'})

    async def upload(self, request: Request) -> Response:
        async with request.form() as form:
            image = form.get("image")
            if image is None or isinstance(image, str):
                return Response(status_code=400)
            texts = {name: value for name, value in form.items() if isinstance(value, str)}
            told = stored(self.folder, texts, str(image.filename or ""), await image.read())
        self.log.append((request.method, request.url.path, texts | (told or {})))
        return Response(status_code=400) if told is None else JSONResponse(told)

    async def stats(self, request: Request) -> Response:
        await self._hear(request)
        card = self.device == "cuda"
        name = "cuda:0 NVIDIA GeForce RTX 3060 : cudaMallocAsync" if card else self.device
        device = {"name": name, "type": self.device, "index": 0 if card else None, **self.memory}
        system = {"os": "posix", "ram_total": 64 * GIB, "ram_free": 32 * GIB, "comfyui_version": VERSION}
        system |= {"required_frontend_version": "1.27.10", "installed_templates_version": None}
        system |= {"required_templates_version": "0.1.95", "python_version": sys.version, "pytorch_version": "2.13.0"}
        system |= {"embedded_python": False, "argv": ["main.py"]}
        return JSONResponse({"system": system, "devices": [device]})

    async def free(self, request: Request) -> Response:
        self._queue.free(await self._hear(request) or {})
        return Response()

    async def told(self, request: Request) -> Response:
        """What a server says of itself that stands in a list or a table."""
        await self._hear(request)
        path = request.url.path.removeprefix("/api")
        folder = str(request.path_params.get("folder", ""))
        if path.startswith("/view_metadata/"):
            found: Any = self.texts.get((folder, request.query_params.get("filename", "")))
        elif path.startswith("/models/"):
            found = self.models.get(folder)
        elif path.startswith("/object_info/"):
            name = request.path_params["name"]
            found = {each: told for each, told in self._classes().items() if each == name}
        else:
            found = {
                "/models": list(self.models),
                "/embeddings": self.models.get("embeddings", []),
                "/features": FEATURES,
                "/object_info": self._classes(),
            }[path]
        return Response(status_code=404) if found is None else JSONResponse(found)

    def _classes(self) -> dict[str, Any]:
        there = {INPUT: sorted(path.name for path in (self.folder / "input").glob("*") if path.is_file())}
        found = classes(self.models | there) | self.manners.extra_classes
        return {name: each for name, each in found.items() if name not in self.manners.without}

    async def listen(self, websocket: WebSocket) -> None:
        if not self._let_in(websocket.headers):
            await websocket.close()
            return
        running = (self._queue.running.client_id, self._queue.running.node) if self._queue.running else (None, "")
        await self._wire.listen(websocket, self._queue.status(), running)

    async def _hear(self, request: Request) -> Any:
        content = await request.body()
        body = None
        with suppress(ValueError):
            body = json.loads(content) if content else None
        self.log.append((request.method, request.url.path, body))
        return body

    def _let_in(self, headers: Mapping[str, str]) -> bool:
        return self.manners.header is None or headers.get(self.manners.header[0]) == self.manners.header[1]

    def app(self) -> Any:
        both = ["GET", "POST"]
        routes = [
            Route("/prompt", self.prompt, methods=both),
            Route("/queue", self.queue, methods=both),
            Route("/history", self.past, methods=both),
            Route("/history/{prompt_id:path}", self.one_past),
            Route("/interrupt", self.interrupt, methods=["POST"]),
            Route("/view", self.view),
            Route("/upload/image", self.upload, methods=["POST"]),
            Route("/system_stats", self.stats),
            Route("/free", self.free, methods=["POST"]),
            *(Route(path, self.told) for path in ("/models", "/models/{folder}", "/view_metadata/{folder}")),
            *(Route(path, self.told) for path in ("/object_info", "/object_info/{name}", "/features", "/embeddings")),
            WebSocketRoute("/ws", self.listen),
        ]
        cancel = Route("/api/jobs/{prompt_id}/cancel", self.cancel, methods=["POST"])
        handlers: dict[Any, Any] = {HTTPException: _unknown}
        inner = Starlette(routes=[*routes, cancel, Mount("/api", routes=routes)], exception_handlers=handlers)

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            headers = Request(scope).headers if scope["type"] == "http" else {}
            if scope["type"] == "http" and not self._let_in(headers):
                await Response(status_code=401)(scope, receive, send)
            elif (origin := headers.get("origin")) and urlsplit(origin).netloc != headers.get("host"):
                await Response(status_code=403)(scope, receive, send)
            else:
                await inner(scope, receive, send)

        return guarded


def _trouble() -> Response:
    return PlainTextResponse("500 Internal Server Error\n\nServer got itself in trouble", 500)


async def _unknown(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405 and request.method not in {"GET", "HEAD"}:
        return PlainTextResponse("405: Method Not Allowed", 405)
    return Response(status_code=404 if error.status_code == 405 else error.status_code)
