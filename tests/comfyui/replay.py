"""A server that plays what a real ComfyUI server was recorded to do, and can be made to fail as real ones do.

It answers a prompt with the next script: sends the recorded frames to the connection that registered under the
prompt's client id, with the recorded gaps times `pace`, and the prompt's id in place of the recorded one. A prompt is
in the queue from its POST on and in the history from its recorded end on.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.comfyui.painter import listening
from tests.comfyui.recordings import Frame, Script

ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Faults:
    """What goes wrong. Frames are counted over one prompt; seconds are real ones."""

    pace: float = 0.0
    history_late: float = 0.0
    interrupts_lost: int = 0
    silent_after: int | None = None
    cut_at: int | None = None
    frozen_at: int | None = None
    forgets_at: int | None = None
    stuck_at: int | None = None
    no_socket: bool = False
    no_files: bool = False
    answers_lost: int = 0
    cancels_jobs: bool = False


@dataclass
class Job:
    """A prompt that was taken."""

    number: int
    prompt_id: str
    body: dict[str, Any]
    script: Script
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0


class Replay:
    """Plays scripts, one after another; `log` is every request as (method, path, body)."""

    def __init__(self, scripts: tuple[Script, ...], faults: Faults | None = None, files: bytes = b"") -> None:
        self.faults = faults or Faults()
        self.log: list[tuple[str, str, Any]] = []
        self.pending: list[Job] = []
        self.running: Job | None = None
        self.history: dict[str, Any] = {}
        self.url = ""
        self._scripts = list(scripts)
        self._files = files
        self._sockets: dict[str, WebSocket] = {}
        self._frozen = False
        self._dropped: set[str] = set()
        self._numbers = 0
        self._server: uvicorn.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of every prompt that was sent."""
        return [body for method, path, body in self.log if (method, path) == ("POST", "/prompt")]

    def asked(self, path: str) -> list[Any]:
        """The bodies of every POST to a path."""
        return [body for method, where, body in self.log if method == "POST" and where == path]

    async def prompt(self, request: Request) -> Response:
        body = await self._hear(request)
        script = self._scripts.pop(0) if self._scripts else None
        if script is None or not isinstance(body, dict):
            return PlainTextResponse("500 Internal Server Error", 500)
        if script.status != 200:
            if script.answer is None:
                return PlainTextResponse("500 Internal Server Error", script.status)
            return JSONResponse(script.answer, script.status)
        self._numbers += 1
        job = Job(self._numbers, str(body.get("prompt_id")), body, script)
        self.pending.append(job)
        task = asyncio.ensure_future(self._play(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.faults.answers_lost > 0:
            self.faults.answers_lost -= 1
            await asyncio.sleep(0.05)
            self._abort("h11_impl", "httptools_impl")
        answer = {**(script.answer or {}), "prompt_id": job.prompt_id, "number": job.number}
        return JSONResponse(answer)

    async def queue(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "POST":
            self.pending = [job for job in self.pending if job.prompt_id not in (body or {}).get("delete", ())]
            return Response()
        running = [self._entry(self.running)] if self.running else []
        return JSONResponse({"queue_running": running, "queue_pending": [self._entry(job) for job in self.pending]})

    async def one_history(self, request: Request) -> Response:
        await self._hear(request)
        prompt_id = request.path_params["prompt_id"]
        return JSONResponse({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def all_history(self, request: Request) -> Response:
        await self._hear(request)
        return JSONResponse(self.history)

    async def interrupt(self, request: Request) -> Response:
        body = await self._hear(request)
        if self.faults.interrupts_lost > 0:
            self.faults.interrupts_lost -= 1
        elif self.running is not None and (not body or body.get("prompt_id") == self.running.prompt_id):
            self.running.interrupted.set()
        return Response()

    async def cancel(self, request: Request) -> Response:
        await self._hear(request)
        if not self.faults.cancels_jobs:
            return Response(status_code=404)
        if self.running is not None and self.running.prompt_id == request.path_params["prompt_id"]:
            self.running.interrupted.set()
        return Response()

    async def view(self, request: Request) -> Response:
        await self._hear(request)
        return Response(status_code=404) if self.faults.no_files else Response(self._files, media_type="image/png")

    async def listen(self, websocket: WebSocket) -> None:
        client_id = websocket.query_params["clientId"]
        if self.faults.no_socket:
            await websocket.close()
            return
        await websocket.accept()
        self._sockets[client_id] = websocket
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await websocket.receive_text()
        self._sockets.pop(client_id, None)

    async def _play(self, job: Job) -> None:
        while self.running is not None or self.pending[:1] != [job]:
            if job not in self.pending:
                return
            await asyncio.sleep(0.005)
        self.pending.remove(job)
        self.running = job
        at, ended = 0.0, False
        for number, (since, frame) in enumerate(job.script.frames):
            if await self._befalls(number, job):
                return
            if job.interrupted.is_set() and not ended:
                await self._send(job, _interrupted(job))
                self._file(job, "execution_interrupted")
                return
            await asyncio.sleep((since - at) * self.faults.pace)
            at = since
            await self._send(job, frame)
            ended = ended or _type(frame) in ENDS
        if self.faults.history_late:
            await asyncio.sleep(self.faults.history_late)
        if not await self._befalls(len(job.script.frames), job):
            self._file(job, None)

    async def _befalls(self, number: int, job: Job) -> bool:
        """Let happen what happens before a frame; true when the prompt is gone with it."""
        faults = self.faults
        if number == faults.cut_at:
            self._abort("websockets_impl", "websockets_sansio_impl")
            self._sockets.clear()
        if number == faults.silent_after:
            self._dropped.add(str(job.body.get("client_id")))
        if number == faults.frozen_at:
            self._frozen = True
        if number == faults.stuck_at:
            await asyncio.Event().wait()
        while self._frozen:
            await asyncio.sleep(0.01)
        if number == faults.forgets_at:
            self._abort("websockets_impl", "websockets_sansio_impl")
            self._sockets.clear()
            self.running, self.pending, self.history = None, [], {}
            return True
        return False

    async def _send(self, job: Job, frame: Frame) -> None:
        client_id = str(job.body.get("client_id"))
        websocket = self._sockets.get(client_id)
        if websocket is None or client_id in self._dropped:
            return
        job.sent += 1
        with suppress(WebSocketDisconnect, RuntimeError):
            if isinstance(frame, bytes):
                await websocket.send_bytes(frame.replace(job.script.prompt_id.encode(), job.prompt_id.encode()))
            else:
                await websocket.send_text(frame.replace(job.script.prompt_id, job.prompt_id))

    def _file(self, job: Job, ending: str | None) -> None:
        """Write the history of a prompt that is over."""
        told = [json.loads(frame) for _, frame in job.script.frames if isinstance(frame, str)]
        ended = [each for each in told if each["type"] in ENDS]
        if ending is not None:
            entry: dict[str, Any] = {"outputs": {}, "status": _status(ending, [[ending, {"node_id": "3"}]])}
        elif job.script.history is not None:
            entry = json.loads(json.dumps(job.script.history).replace(job.script.prompt_id, job.prompt_id))
        else:
            outputs = {each["data"]["node"]: each["data"]["output"] for each in told if each["type"] == "executed"}
            name = ended[0]["type"] if ended else ENDS[0]
            entry = {"outputs": outputs, "status": _status(name, [[each["type"], each["data"]] for each in ended])}
        entry["prompt"] = self._entry(job)
        self.history[job.prompt_id] = entry
        self.running = None

    def _entry(self, job: Job) -> list[Any]:
        extra = {**job.body.get("extra_data", {}), "client_id": job.body.get("client_id")}
        return [job.number, job.prompt_id, job.body.get("prompt"), extra, []]

    async def _hear(self, request: Request) -> Any:
        while self._frozen:
            await asyncio.sleep(0.01)
        content = await request.body()
        body = json.loads(content) if content else None
        self.log.append((request.method, request.url.path, body))
        return body

    def _abort(self, *kinds: str) -> None:
        assert self._server is not None
        for connection in tuple(self._server.server_state.connections):
            if type(connection).__module__.endswith(kinds) and connection.transport is not None:
                connection.transport.abort()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/prompt", self.prompt, methods=["POST"]),
                Route("/queue", self.queue, methods=["GET", "POST"]),
                Route("/history", self.all_history),
                Route("/history/{prompt_id}", self.one_history),
                Route("/interrupt", self.interrupt, methods=["POST"]),
                Route("/api/jobs/{prompt_id}/cancel", self.cancel, methods=["POST"]),
                Route("/view", self.view),
                WebSocketRoute("/ws", self.listen),
            ]
        )

    @contextmanager
    def serving(self) -> Iterator[Replay]:
        """Serve in a thread of its own until the block ends."""
        with listening() as listener:
            config = uvicorn.Config(self.app(), log_level="error", lifespan="off", ws_ping_interval=None)
            self._server = uvicorn.Server(config)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._frozen = False
                self._server.should_exit = self._server.force_exit = True
                thread.join(10)
                assert not thread.is_alive()


def _type(frame: Frame) -> str:
    return str(json.loads(frame).get("type")) if isinstance(frame, str) else ""


def _interrupted(job: Job) -> str:
    data = {"prompt_id": job.prompt_id, "node_id": "3", "node_type": "KSampler", "executed": []}
    return json.dumps({"type": "execution_interrupted", "data": data})


def _status(ending: str, messages: list[Any]) -> dict[str, Any]:
    success = ending == "execution_success"
    return {"status_str": "success" if success else "error", "completed": success, "messages": messages}
