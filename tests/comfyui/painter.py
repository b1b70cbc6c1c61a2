"""A ComfyUI server that draws: it runs workflows of core nodes, in the ways that real servers were recorded to have.

Unlike the replay server it does what it is told, whatever that is; see `painter_nodes.py` for what it draws. One that
has stopped is not served again: another one on the same port is a server that was started anew. It can be run as a
process of its own: `python -m tests.comfyui.painter --port 8188 --folder DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn

from tests.comfyui.painter_desk import Desk
from tests.comfyui.painter_manners import Failure, Manners, no_memory
from tests.comfyui.painter_runs import Job

__all__ = ["Failure", "Job", "Manners", "Painter", "listening", "no_memory"]


class Painter(Desk):
    """Runs prompts one after another; see `Desk` for what may be set."""

    def __init__(self, folder: Path, manners: Manners | None = None, port: int = 0) -> None:
        super().__init__(folder, manners or Manners())
        self.url = ""
        self._port = port
        self._foreign = 0
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pending(self) -> list[Job]:
        """The prompts that wait."""
        return self._queue.pending

    @property
    def running(self) -> Job | None:
        """The prompt that runs; `step` is what its sampler is at, `node` the node that works."""
        return self._queue.running

    @property
    def history(self) -> dict[str, Any]:
        """The prompts that ended."""
        return self._queue.history

    @property
    def freed(self) -> list[dict[str, Any]]:
        """The bodies of every `/free`."""
        return self._queue.freed

    @property
    def frees(self) -> int:
        """How often it was asked to free its memory."""
        return len(self.freed)

    @property
    def emptied(self) -> int:
        """How often it has dropped what nodes had left."""
        return self._queue.emptied

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of every prompt that was sent."""
        return self.asked("/prompt")

    def asked(self, path: str) -> list[Any]:
        """The bodies of every POST to a path."""
        return [body for method, where, body in self.log if method == "POST" and where == path]

    def files(self, place: str = "output") -> list[str]:
        """The files that lie in a place, by their paths in it."""
        root = self.folder / place
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def sockets(self) -> tuple[str, ...]:
        """The ids under which somebody listens."""
        return tuple(self._wire.sockets)

    def foreign(self, steps: int = 4, graph: dict[str, Any] | None = None, *, front: bool = False) -> str:
        """Put somebody else's prompt into the queue; returns its id."""
        self._foreign += 1
        graph = graph or _theirs(steps, self._foreign)
        body = {"prompt": graph, "prompt_id": str(uuid4()), "client_id": "somebody", "front": front}
        known = self._classes()
        return self.take(body, [each for each in graph if known[graph[each]["class_type"]]["output_node"]]).prompt_id

    def take(self, body: Mapping[str, Any], outputs: list[str]) -> Job:
        """Put a prompt into the queue, unseen."""
        return self._queue.put(body, outputs)

    async def serve(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        shutil.rmtree(self.folder / "temp", ignore_errors=True)
        config = uvicorn.Config(self.app(), log_level="error", lifespan="off", ws_ping_interval=None)
        self._loop, self._server = asyncio.get_running_loop(), uvicorn.Server(config)
        tasks = [asyncio.create_task(self._wire.deliver()), asyncio.create_task(self._queue.work(self._classes))]
        try:
            await self._server.serve([listener])
        finally:
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        """End serving, as a server does that is killed: connections break, and nothing is remembered."""
        if self._server is not None and self._loop is not None:
            self._server.should_exit = self._server.force_exit = True
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(_break, self._server)
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


def _break(server: uvicorn.Server) -> None:
    for connection in tuple(server.server_state.connections):
        if (transport := getattr(connection, "transport", None)) is not None:
            transport.abort()


def _theirs(steps: int, seed: int) -> dict[str, Any]:
    sampler = {"seed": seed, "steps": steps, "cfg": 7.0, "denoise": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    sampler |= {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "anime.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "theirs", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": sampler},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "theirs"}},
    }


def main() -> None:
    """Serve until killed; says where when it answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", type=float, default=0.05)
    parser.add_argument("--load", type=float, default=0.0)
    parser.add_argument("--hold", type=int, default=None, help="the step before which samplers wait")
    parser.add_argument("--held", type=Path, default=None, help="while this file is there; else for ever")
    parser.add_argument("--most-pixels", type=int, default=None)
    parser.add_argument("--cancels-jobs", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", action="append", default=[], metavar="FOLDER=FILE", help="one more model")
    options = parser.parse_args()
    manners = Manners(step=options.step, load=options.load, hold=options.hold, held=options.held or True)
    manners.most_pixels, manners.cancels_jobs = options.most_pixels, options.cancels_jobs
    painter = Painter(options.folder or Path(tempfile.mkdtemp()), manners, options.port)
    painter.device = options.device
    for folder, _, name in (each.partition("=") for each in options.model):
        painter.models[folder].append(name)
    with listening(options.port) as listener:
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        asyncio.run(painter.serve(listener))


if __name__ == "__main__":
    main()
