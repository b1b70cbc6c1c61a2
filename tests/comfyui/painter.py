"""A ComfyUI server that draws: it runs workflows of core nodes, in the ways that real servers were recorded to have.

Unlike the replay server it does what it is told, whatever that is; see `painter_nodes.py` for what it draws. It can be
run as a process of its own: `python -m tests.comfyui.painter --port 8188 --folder DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.comfyui.painter_nodes import Bench, NodeFailed, classes, preview, run, sampled

SAMPLERS = frozenset({"KSampler"})
MODELS = {
    "checkpoints": ["anime.safetensors", "xl/pony-xl.safetensors"],
    "loras": ["ink-xl.safetensors", "sd15/soft.safetensors"],
    "upscale_models": ["RealESRGAN_x4plus_anime_6B.pth"],
}
TEXTS = {("checkpoints", "anime.safetensors"): {"modelspec.architecture": "stable-diffusion-v1"}}
GIB = 1 << 30


@dataclass
class Manners:
    """How it behaves. Times in seconds; `hold` stops a sampler at that step while `held` is true."""

    step: float = 0.0
    load: float = 0.0
    previews: bool = True
    cancels_jobs: bool = False
    hold: int | None = None
    held: bool = True
    most_pixels: int | None = None
    short_times: int = 0
    header: tuple[str, str] | None = None
    without: frozenset[str] = frozenset()
    caches: bool = True


@dataclass
class Job:
    """A prompt."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    client_id: str
    outputs: list[str]
    interrupted: bool = False
    step: int = 0
    messages: list[Any] = field(default_factory=list)

    def entry(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, {**self.extra, "client_id": self.client_id}, self.outputs]


class Interrupted(Exception):
    """The prompt was stopped."""


class Painter:
    """Runs prompts one after another; `log` is every request as (method, path, body)."""

    def __init__(self, folder: Path, manners: Manners | None = None, port: int = 0) -> None:
        self.folder = folder.resolve()
        self.manners = manners or Manners()
        self.models: dict[str, list[str]] = {name: list(files) for name, files in MODELS.items()}
        self.texts = dict(TEXTS)
        self.memory = {"vram_total": 12 * GIB, "vram_free": 10 * GIB, "torch_vram_total": 2 * GIB, "torch_vram_free": 0}
        self.device = "cuda"
        self.log: list[tuple[str, str, Any]] = []
        self.frees = 0
        self.history: dict[str, Any] = {}
        self.pending: list[Job] = []
        self.running: Job | None = None
        self.url = ""
        self._port = port
        self._numbers = 0
        self._sockets: dict[str, WebSocket] = {}
        self._cache: dict[str, tuple[Any, ...]] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None

    # What tests look at.

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of every prompt that was sent."""
        return [body for method, path, body in self.log if (method, path) == ("POST", "/prompt")]

    def sockets(self) -> tuple[str, ...]:
        """The ids under which somebody listens."""
        return tuple(self._sockets)

    def asked(self, path: str) -> list[Any]:
        """The bodies of every POST to a path."""
        return [body for method, where, body in self.log if method == "POST" and where == path]

    def foreign(self, steps: int = 4) -> str:
        """Put somebody else's prompt into the queue; returns its id."""
        graph = {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "anime.safetensors"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "theirs", "clip": ["1", 1]}},
            "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "4": {
                "class_type": "KSampler",
                "inputs": {
                    "model": ["1", 0],
                    "positive": ["2", 0],
                    "negative": ["2", 0],
                    "latent_image": ["3", 0],
                    "seed": self._numbers,
                    "steps": steps,
                    "cfg": 7.0,
                    "denoise": 1.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                },
            },
            "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
            "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "theirs"}},
        }
        prompt_id = str(uuid4())
        self.take({"prompt": graph, "prompt_id": prompt_id, "client_id": "somebody"}, ["6"])
        return prompt_id

    # Prompts.

    async def prompt(self, request: Request) -> Response:
        if request.method == "GET":
            await self._hear(request)
            return JSONResponse({"exec_info": {"queue_remaining": self._remaining()}})
        body = await self._hear(request)
        if not isinstance(body, dict) or not isinstance(body.get("prompt"), dict):
            return PlainTextResponse("500 Internal Server Error", 500)
        known = self._classes()
        for name, node in body["prompt"].items():
            if node.get("class_type") not in known:
                title = (node.get("_meta") or {}).get("title") or name
                text = f"Cannot execute because node {node.get('class_type')} does not exist."
                details = f"Node ID '#{name}'"
                error = {"type": "invalid_prompt", "message": text, "details": details, "extra_info": {"title": title}}
                return JSONResponse({"error": error, "node_errors": {}}, 400)
        outputs = [name for name, node in body["prompt"].items() if known[node["class_type"]]["output_node"]]
        if not outputs:
            error = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}
            return JSONResponse({"error": error, "node_errors": {}}, 400)
        if wrong := _errors(body["prompt"], known):
            text = "Prompt outputs failed validation"
            error = {"type": "prompt_outputs_failed_validation", "message": text, "details": "", "extra_info": {}}
            return JSONResponse({"error": error, "node_errors": wrong}, 400)
        job = self.take(body, outputs)
        return JSONResponse({"prompt_id": job.prompt_id, "number": job.number, "node_errors": {}})

    def take(self, body: Mapping[str, Any], outputs: list[str]) -> Job:
        """Put a prompt into the queue."""
        self._numbers += 1
        prompt_id = str(body.get("prompt_id") or uuid4())
        job = Job(
            self._numbers,
            prompt_id,
            dict(body["prompt"]),
            dict(body.get("extra_data") or {}),
            str(body.get("client_id") or ""),
            outputs,
        )
        self.pending.append(job)
        return job

    async def queue(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "POST":
            gone = (body or {}).get("delete", ())
            everything = bool((body or {}).get("clear"))
            self.pending = [job for job in self.pending if not everything and job.prompt_id not in gone]
            return Response()
        running = [self.running.entry()] if self.running else []
        return JSONResponse({"queue_running": running, "queue_pending": [job.entry() for job in self.pending]})

    async def past(self, request: Request) -> Response:
        body = await self._hear(request)
        if request.method == "POST":
            for prompt_id in (body or {}).get("delete", ()):
                self.history.pop(prompt_id, None)
            return Response()
        most = int(request.query_params.get("max_items", 10_000))
        return JSONResponse(dict(list(self.history.items())[-most:]))

    async def one_past(self, request: Request) -> Response:
        await self._hear(request)
        prompt_id = request.path_params["prompt_id"]
        return JSONResponse({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def interrupt(self, request: Request) -> Response:
        body = await self._hear(request)
        wanted = (body or {}).get("prompt_id")
        if self.running is not None and wanted in {None, self.running.prompt_id}:
            self.running.interrupted = True
        return Response()

    async def cancel(self, request: Request) -> Response:
        await self._hear(request)
        if not self.manners.cancels_jobs:
            return Response(status_code=404)
        prompt_id = request.path_params["prompt_id"]
        self.pending = [job for job in self.pending if job.prompt_id != prompt_id]
        if self.running is not None and self.running.prompt_id == prompt_id:
            self.running.interrupted = True
        return JSONResponse({"cancelled": True})

    # Files and figures.

    async def view(self, request: Request) -> Response:
        await self._hear(request)
        query = request.query_params
        root = self.folder / query.get("type", "output")
        path = (root / query.get("subfolder", "") / query.get("filename", "")).resolve()
        return FileResponse(path) if path.is_file() and root in path.parents else Response(status_code=404)

    async def upload(self, request: Request) -> Response:
        async with request.form() as form:
            image = form["image"]
            assert not isinstance(image, str)
            subfolder, name, data = str(form.get("subfolder", "")), Path(str(image.filename)).name, await image.read()
        folder = (self.folder / "input" / subfolder).resolve()
        if not folder.is_relative_to(self.folder / "input"):
            return Response(status_code=400)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        self.log.append(("POST", "/upload/image", {"subfolder": subfolder, "name": name}))
        return JSONResponse({"name": name, "subfolder": subfolder, "type": "input"})

    async def stats(self, request: Request) -> Response:
        await self._hear(request)
        name = "cuda:0 NVIDIA GeForce RTX 3060 : cudaMallocAsync" if self.device == "cuda" else self.device
        device = {"name": name, "type": self.device, "index": 0, **self.memory}
        system = {"os": "posix", "ram_total": 64 * GIB, "ram_free": 32 * GIB, "comfyui_version": "0.3.64"}
        return JSONResponse({"system": system, "devices": [device]})

    async def free(self, request: Request) -> Response:
        await self._hear(request)
        self.frees += 1
        self._cache.clear()
        return Response()

    async def folder_of(self, request: Request) -> Response:
        await self._hear(request)
        found = self.models.get(request.path_params["folder"])
        return Response(status_code=404) if found is None else JSONResponse(found)

    async def texts_of(self, request: Request) -> Response:
        await self._hear(request)
        found = self.texts.get((request.path_params["folder"], request.query_params.get("filename", "")))
        return Response(status_code=404) if found is None else JSONResponse(found)

    async def object_info(self, request: Request) -> Response:
        await self._hear(request)
        return JSONResponse(self._classes())

    def _classes(self) -> dict[str, Any]:
        return {name: each for name, each in classes(self.models).items() if name not in self.manners.without}

    # Running.

    async def listen(self, websocket: WebSocket) -> None:
        client_id = websocket.query_params.get("clientId") or uuid4().hex
        if not self._let_in(websocket.headers):
            await websocket.close()
            return
        await websocket.accept()
        self._sockets[client_id] = websocket
        await self._tell(client_id, "status", {"status": self._status(), "sid": client_id})
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await websocket.receive_text()
        self._sockets.pop(client_id, None)

    async def work(self) -> None:
        """Run prompts for ever."""
        while True:
            if not self.pending:
                await asyncio.sleep(0.005)
                continue
            job = self.running = self.pending.pop(0)
            await self._run(job)
            self.running = None

    async def _run(self, job: Job) -> None:
        begun = {"prompt_id": job.prompt_id}
        await self._note(job, "execution_start", begun)
        keys = {name: _key(job.graph, name) for name in job.graph}
        cached = [name for name in _order(job) if self.manners.caches and keys[name] in self._cache]
        await self._note(job, "execution_cached", begun | {"nodes": cached})
        bench = Bench(self.folder, job.graph, job.extra)
        results = {name: self._cache[keys[name]] for name in cached}
        outputs: dict[str, Any] = {name: self._shown[keys[name]] for name in cached if keys[name] in self._shown}
        for name, output in outputs.items():
            await self._note(job, "executed", begun | {"node": name, "display_node": name, "output": output})
        states: dict[str, Any] = {}
        node = ""
        try:
            for node in (each for each in _order(job) if each not in results):
                await self._begin(job, states, node)
                results[node] = await self._node(job, bench, states, node, results)
                states[node] |= {"value": states[node]["max"], "state": "finished"}
                await self._states(job, states)
                self._cache[keys[node]] = results[node]
                if node in bench.written:
                    outputs[node] = self._shown[keys[node]] = bench.written[node]
                    told = begun | {"node": node, "display_node": node, "output": outputs[node]}
                    await self._note(job, "executed", told)
            ending, more = "execution_success", {}
        except Interrupted:
            kind = job.graph[node]["class_type"]
            ending, more = "execution_interrupted", {"node_id": node, "node_type": kind, "executed": list(results)}
        except NodeFailed as error:
            ending, more = "execution_error", _failure(job, node, error)
        await self._note(job, ending, begun | more)
        success = ending == "execution_success"
        status = {"status_str": "success" if success else "error", "completed": success, "messages": job.messages}
        self.history[job.prompt_id] = {"prompt": job.entry(), "outputs": outputs, "status": status}
        self.running = None
        await self._tell(job.client_id, "status", {"status": self._status()})
        await self._tell(job.client_id, "executing", {"node": None, "prompt_id": job.prompt_id})

    async def _node(
        self, job: Job, bench: Bench, states: dict[str, Any], node: str, results: dict[str, tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        class_type = job.graph[node]["class_type"]
        inputs = {
            name: results[str(value[0])][value[1]] if _is_link(value, job.graph) else value
            for name, value in job.graph[node]["inputs"].items()
        }
        self._stop_if_asked(job)
        if class_type.endswith("Loader") or class_type.startswith("CheckpointLoader"):
            await asyncio.sleep(self.manners.load)
        if class_type not in SAMPLERS:
            return run(bench, node, class_type, inputs)
        pixels = inputs["latent_image"].size[0] * inputs["latent_image"].size[1]
        if self.manners.most_pixels is not None and pixels > self.manners.most_pixels:
            raise NodeFailed("torch.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory")
        if self.manners.short_times > 0:
            self.manners.short_times -= 1
            raise NodeFailed("torch.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory")
        steps = int(inputs["steps"])
        states[node]["max"] = float(steps)
        for step in range(1, steps + 1):
            while self.manners.hold == step and self.manners.held:
                await asyncio.sleep(0.005)
                self._stop_if_asked(job)
            await asyncio.sleep(self.manners.step)
            self._stop_if_asked(job)
            states[node]["value"], job.step = float(step), step
            await self._states(job, states)
            told = {"value": step, "max": steps, "prompt_id": job.prompt_id, "node": node}
            await self._tell(job.client_id, "progress", told)
            if self.manners.previews:
                await self._send(job.client_id, struct.pack(">II", 1, 1) + preview(inputs, step / steps))
        return (sampled(inputs),)

    def _stop_if_asked(self, job: Job) -> None:
        if job.interrupted:
            raise Interrupted

    async def _begin(self, job: Job, states: dict[str, Any], node: str) -> None:
        states[node] = {"value": 0.0, "max": 1.0, "state": "running", "node_id": node, "prompt_id": job.prompt_id}
        states[node] |= {"display_node_id": node, "parent_node_id": None, "real_node_id": node}
        await self._states(job, states)
        told = {"node": node, "display_node": node, "prompt_id": job.prompt_id}
        await self._tell(job.client_id, "executing", told)
        await asyncio.sleep(0)

    async def _states(self, job: Job, states: dict[str, Any]) -> None:
        await self._tell(job.client_id, "progress_state", {"prompt_id": job.prompt_id, "nodes": states})

    async def _note(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Tell, and keep it for the history."""
        if kind != "executed":
            data = data | {"timestamp": int(time.time() * 1000)}
            job.messages.append([kind, data])
        await self._tell(job.client_id, kind, data)

    async def _tell(self, client_id: str, kind: str, data: dict[str, Any]) -> None:
        await self._send(client_id, json.dumps({"type": kind, "data": data}))

    async def _send(self, client_id: str, frame: str | bytes) -> None:
        websocket = self._sockets.get(client_id)
        if websocket is None:
            return
        with suppress(WebSocketDisconnect, RuntimeError):
            await (websocket.send_bytes(frame) if isinstance(frame, bytes) else websocket.send_text(frame))

    def _status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self._remaining()}}

    def _remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    async def _hear(self, request: Request) -> Any:
        content = await request.body()
        body = None
        with suppress(ValueError):
            body = json.loads(content) if content else None
        self.log.append((request.method, request.url.path, body))
        return body

    def _let_in(self, headers: Mapping[str, str]) -> bool:
        return self.manners.header is None or headers.get(self.manners.header[0]) == self.manners.header[1]

    # Serving.

    def app(self) -> Any:
        routes = [
            Route("/prompt", self.prompt, methods=["GET", "POST"]),
            Route("/queue", self.queue, methods=["GET", "POST"]),
            Route("/history", self.past, methods=["GET", "POST"]),
            Route("/history/{prompt_id}", self.one_past),
            Route("/interrupt", self.interrupt, methods=["POST"]),
            Route("/api/jobs/{prompt_id}/cancel", self.cancel, methods=["POST"]),
            Route("/view", self.view),
            Route("/upload/image", self.upload, methods=["POST"]),
            Route("/system_stats", self.stats),
            Route("/free", self.free, methods=["POST"]),
            Route("/models/{folder}", self.folder_of),
            Route("/view_metadata/{folder}", self.texts_of),
            Route("/object_info", self.object_info),
            WebSocketRoute("/ws", self.listen),
        ]
        inner = Starlette(routes=routes)

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and not self._let_in(Request(scope).headers):
                await Response(status_code=401)(scope, receive, send)
            else:
                await inner(scope, receive, send)

        return guarded

    async def serve(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        config = uvicorn.Config(self.app(), log_level="error", lifespan="off", ws_ping_interval=None)
        self._server = uvicorn.Server(config)
        working = asyncio.create_task(self.work())
        try:
            await self._server.serve([listener])
        finally:
            working.cancel()

    def stop(self) -> None:
        """End serving, as a server does that is killed: connections break, and nothing is remembered."""
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
        if self._thread is not None:
            self._thread.join(10)
            assert not self._thread.is_alive()

    @contextmanager
    def serving(self) -> Iterator[Painter]:
        """Serve in a thread of its own until the block ends."""
        with listening(self._port) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(listener)), daemon=True)
            self._thread.start()
            until = time.monotonic() + 10
            while (self._server is None or not self._server.started) and time.monotonic() < until:
                time.sleep(0.002)
            try:
                yield self
            finally:
                self.stop()


def listening(port: int = 0) -> socket.socket:
    """A socket on loopback whose connections answer without delay: asyncio asks which protocol it was made for."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def _errors(graph: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in graph.items():
        errors = []
        for field_name, said in known[node["class_type"]]["input"]["required"].items():
            errors += _field_errors(graph, node["inputs"], field_name, said)
        if errors:
            found[name] = {"errors": errors, "dependent_outputs": [], "class_type": node["class_type"]}
    return found


def _field_errors(graph: dict[str, Any], inputs: dict[str, Any], name: str, said: list[Any]) -> list[dict[str, Any]]:
    options = said[1] if len(said) > 1 else {}
    extra = {"input_name": name, "input_config": said}
    if name not in inputs:
        return [_error("required_input_missing", "Required input is missing", name, {"input_name": name})]
    value = inputs[name]
    if _is_link(value, graph):
        return []
    extra["received_value"] = value
    if isinstance(said[0], list):
        details = f"{name}: '{value}' not in {said[0]}"
        return [] if value in said[0] else [_error("value_not_in_list", "Value not in list", details, extra)]
    if said[0] in {"INT", "FLOAT"} and value < options.get("min", value):
        return [_error("value_smaller_than_min", f"Value {value} smaller than min", name, extra)]
    if said[0] in {"INT", "FLOAT"} and value > options.get("max", value):
        return [_error("value_bigger_than_max", f"Value {value} bigger than max", name, extra)]
    return []


def _error(kind: str, message: str, details: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _failure(job: Job, node: str, error: NodeFailed) -> dict[str, Any]:
    return {
        "node_id": node,
        "node_type": job.graph[node]["class_type"],
        "executed": [],
        "exception_message": f"{error}\n",
        "exception_type": error.kind,
        "traceback": ['  File "/opt/ComfyUI/execution.py", line 496, in execute\n'],
        "current_inputs": {"image": ["tensor([[[0.1, 0.2]]])"]},
    }


def _is_link(value: object, graph: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph


def _upstream(graph: Mapping[str, Any], name: str) -> list[str]:
    return [str(value[0]) for value in graph[name]["inputs"].values() if _is_link(value, graph)]


def _order(job: Job) -> list[str]:
    """The nodes that the outputs need, those that others wait for first."""
    found: list[str] = []

    def visit(name: str) -> None:
        for each in _upstream(job.graph, name):
            visit(each)
        if name not in found:
            found.append(name)

    for output in job.outputs:
        visit(output)
    return found


def _key(graph: Mapping[str, Any], name: str) -> str:
    """The same for nodes of one class with the same inputs, all the way up."""
    inputs = {
        key: _key(graph, str(value[0])) + str(value[1]) if _is_link(value, graph) else value
        for key, value in graph[name]["inputs"].items()
    }
    return json.dumps([graph[name]["class_type"], inputs], sort_keys=True)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", type=float, default=0.05)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    painter = Painter(folder, Manners(step=options.step))
    with listening(options.port) as listener:
        asyncio.run(painter.serve(listener))


if __name__ == "__main__":
    main()
