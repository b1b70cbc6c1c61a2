"""Speaks to a painter as a client does, and hears what it says word by word."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.comfyui.painter import Painter
from tests.comfyui.recordings import Line, lines


@dataclass
class Ran:
    """A prompt that ended: what was heard, and its history."""

    frames: list[Any]
    entry: dict[str, Any]

    def said(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a kind."""
        return [frame["data"] for frame in self.frames if isinstance(frame, dict) and frame["type"] == kind]

    @property
    def names(self) -> list[str]:
        """The names of its files."""
        return [file["filename"] for shown in self.entry["outputs"].values() for file in shown["images"]]


class Client:
    """Speaks to a painter as a client does."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self.http = httpx.Client(base_url=painter.url, trust_env=False, timeout=10)

    @contextmanager
    def listening(self, client_id: str = "us") -> Iterator[ClientConnection]:
        """Listen under an id, which is free again afterwards."""
        url = f"{self._painter.url.replace('http', 'ws')}/ws?clientId={client_id}"
        with connect(url, proxy=None) as socket:
            assert next_of(socket)["data"]["sid"] == client_id
            yield socket
        until = time.monotonic() + 10
        while client_id in self._painter.sockets():
            assert time.monotonic() < until
            time.sleep(0.001)

    def post(self, graph: dict[str, Any], client_id: str | None = "us", **more: Any) -> str:
        """Send a workflow that is taken; its prompt id."""
        body = {"prompt": graph, **({"client_id": client_id} if client_id else {}), **more}
        answer = self.http.post("/prompt", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def run(self, graph: dict[str, Any], first: str = "", **more: Any) -> Ran:
        """Send a workflow and hear it to its end; `first` is said before."""
        with self.listening() as socket:
            if first:
                socket.send(first)
            prompt_id = self.post(graph, **more)
            frames = list(until_end(socket, prompt_id))
        return Ran(frames, self.http.get(f"/history/{prompt_id}").json()[prompt_id])

    def picture(self, ran: Ran) -> Image.Image:
        """The one picture that was made."""
        (file,) = [file for shown in ran.entry["outputs"].values() for file in shown["images"]]
        return Image.open(io.BytesIO(self.http.get("/view", params=file).content))

    def draw(self, graph: dict[str, Any]) -> Image.Image:
        """The picture of a workflow whose node 9 saves it, as a file of its own."""
        return self.picture(self.run(changed(graph, "9", filename_prefix=uuid4().hex)))

    def upload(self, name: str, image: Image.Image) -> None:
        """Put a picture where nodes can load it."""
        data = io.BytesIO()
        image.save(data, "PNG")
        told = self.http.post("/upload/image", files={"image": (name, data.getvalue())}, data={"overwrite": "true"})
        assert told.json() == {"name": name, "subfolder": "", "type": "input"}


def next_of(socket: ClientConnection) -> Any:
    """The next frame."""
    frame = socket.recv(10)
    return json.loads(frame) if isinstance(frame, str) else frame


def until_end(socket: ClientConnection, prompt_id: str) -> Iterator[Any]:
    """Every frame up to the end of a prompt."""
    while True:
        yield (frame := next_of(socket))
        if isinstance(frame, dict) and frame["data"] == {"node": None, "prompt_id": prompt_id}:
            return


def changed(graph: dict[str, Any], node: str, **inputs: Any) -> dict[str, Any]:
    """A workflow with other inputs of a node."""
    return {**graph, node: {**graph[node], "inputs": {**graph[node]["inputs"], **inputs}}}


def plain(said: Any, prompt_id: str) -> Any:
    """Without what differs from run to run."""
    text = re.sub(r'"timestamp": \d+', '"timestamp": 0', json.dumps(said).replace(prompt_id, "ID"))
    return json.loads(re.sub(r"ComfyUI_\d+_", "ComfyUI_N_", text))


def story(frames: list[Any], prompt_id: str) -> list[Any]:
    """From the prompt's start on."""
    found = [plain(frame, prompt_id) for frame in frames]
    return found[[frame["type"] for frame in found].index("execution_start") :]


def exchanges(case: str) -> list[tuple[Line, Line]]:
    """Requests with their answers."""
    sent = {line["id"]: line for line in lines(case) if line["ch"] == "http" and line["dir"] == "out"}
    return [(sent[line["id"]], line) for line in lines(case) if line["ch"] == "http" and line["dir"] == "in"]


def asked(client: Client, line: Line) -> httpx.Response:
    """Ask what was asked when it was recorded."""
    how = {"json": line["json"]} if "json" in line else {"content": line.get("raw", "")}
    return client.http.request(line["method"], line["path"], headers=line.get("headers"), **how)
