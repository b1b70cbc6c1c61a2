"""One ComfyUI server: its HTTP interface and its WebSocket. Blocking, for the engine's process.

Nothing here tries anything twice; who talks to a server knows what may be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from websockets.exceptions import InvalidHandshake, InvalidMessage, WebSocketException
from websockets.sync.client import ClientConnection, connect

from anime_generator.comfyui.messages import Message, read_binary, read_text
from anime_generator.comfyui.records import File, Prompt, find

LARGEST_FRAME = 64 << 20
"""Bytes of a WebSocket frame: pictures that nodes send rather than save come in one."""
LARGEST_ANSWER = 64 << 20
"""Bytes of an answer other than a file; that of `/object_info` is several megabytes."""
PING_EVERY = 10.0
"""Seconds. The server sends no pings of its own: without ours a dead connection looks like a quiet one."""


class Unreachable(Exception):
    """No answer, or none that can be understood: down, restarting, frozen, or no ComfyUI server at all."""


class Refused(Exception):
    """The server answered with an error. `answer` is its JSON, none when it sent none."""

    def __init__(self, status: int, answer: Mapping[str, Any] | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.answer = status, answer


class TooLarge(Exception):
    """What the server sends is larger than it may be."""


class Closed(Exception):
    """The WebSocket is gone."""


class Server:
    """Talks to one server; `timeout` in seconds is how long an answer may take."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._headers = dict(headers)
        self._timeout = timeout
        # Not through a proxy of the environment: the address is meant as it stands.
        self._http = httpx.Client(headers=self._headers, timeout=timeout, trust_env=False)
        self._cancels_jobs = True

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def find(self, prompt_id: str) -> Prompt:
        """Where a prompt is; the queue is asked before the history."""
        queue = self.queue()
        return find(prompt_id, queue, self._object("GET", f"/history/{quote(prompt_id, safe='')}"))

    def queue(self) -> Mapping[str, Any]:
        """What waits and runs."""
        return self._object("GET", "/queue")

    def history(self, most: int = 200) -> Mapping[str, Any]:
        """The latest prompts that ended."""
        return self._object("GET", f"/history?max_items={most}")

    def submit(
        self, prompt_id: str, graph: Mapping[str, Any], client_id: str, extra: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Put a workflow into the queue under an id of our own; raises Refused."""
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra}
        return self._object("POST", "/prompt", json=body)

    def delete(self, prompt_id: str) -> None:
        """Take a prompt that waits out of the queue; one that runs is not affected."""
        self._ask("POST", "/queue", json={"delete": [prompt_id]})

    def interrupt(self, prompt_id: str) -> None:
        """Ask the server to stop a prompt that runs, at its next step. That may get lost: look, and repeat."""
        if self._cancels_jobs:
            try:
                self._ask("POST", f"/api/jobs/{quote(prompt_id, safe='')}/cancel")
            except Refused as refused:
                if refused.status not in {404, 405}:
                    raise
                self._cancels_jobs = False  # an older server
            else:
                return
        self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})

    def view(self, file: File, largest: int) -> bytes:
        """The bytes of a file; raises Refused when it is not there, TooLarge for more bytes than `largest`."""
        query = urlencode({"filename": file.name, "subfolder": file.subfolder, "type": file.place})
        return self._ask("GET", f"/view?{query}", largest=largest)

    def upload(self, name: str, data: bytes, media_type: str, subfolder: str) -> str:
        """Put a picture where nodes can load it from; returns what nodes call it."""
        body = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        told = self._object("POST", "/upload/image", data=body, files={"image": (name, data, media_type)})
        folder, stored = str(told.get("subfolder") or ""), str(told["name"])
        return f"{folder}/{stored}" if folder else stored

    def free(self) -> None:
        """Have the server drop the models in its memory, once nothing runs."""
        self._ask("POST", "/free", json={"unload_models": True, "free_memory": True})

    def stats(self) -> Mapping[str, Any]:
        """Version, and memory of its devices in bytes."""
        return self._object("GET", "/system_stats")

    def models(self, folder: str) -> tuple[str, ...]:
        """The files in one of its model folders, such as `checkpoints`; none when there is no such folder."""
        try:
            found = self._json("GET", f"/models/{quote(folder, safe='')}")
        except Refused as refused:
            if refused.status == 404:
                return ()
            raise
        return tuple(str(each) for each in found) if isinstance(found, list) else ()

    def texts(self, folder: str, name: str) -> Mapping[str, str]:
        """The texts that a model file carries (`__metadata__` of safetensors); none when it has none."""
        query = urlencode({"filename": name})
        try:
            found = self._object("GET", f"/view_metadata/{quote(folder, safe='')}?{query}")
        except Refused as refused:
            if refused.status in {404, 405, 500}:  # older servers fail on files that are no safetensors
                return {}
            raise
        return {str(key): str(value) for key, value in found.items()}

    def object_info(self) -> Mapping[str, Any]:
        """Every node class that it has, with its inputs."""
        return self._object("GET", "/object_info")

    def listen(self, client_id: str) -> Socket:
        """Open a WebSocket; one connection an id, ever: the server forgets both when one of two closes."""
        scheme, _, rest = self._url.partition("://")
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws?clientId={quote(client_id, safe='')}"
        with _closing_as(Unreachable), ExitStack() as opened:
            connection = opened.enter_context(
                connect(
                    url,
                    additional_headers=self._headers,
                    open_timeout=self._timeout,
                    close_timeout=1.0,
                    ping_interval=PING_EVERY,
                    ping_timeout=2 * PING_EVERY,
                    max_size=LARGEST_FRAME,
                    proxy=None,
                )
            )
            return Socket(connection, opened.pop_all())

    def _object(self, method: str, path: str, **more: Any) -> Mapping[str, Any]:
        found = self._json(method, path, **more)
        if not isinstance(found, dict):
            raise Unreachable(
                f"{method} {path.partition('?')[0]}: the answer is no JSON object: is it a ComfyUI server?"
            )
        return found

    def _json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._ask(method, path, **more)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            text = f"{method} {path.partition('?')[0]}: the answer is no JSON: is it a ComfyUI server?"
            raise Unreachable(text) from error

    def _ask(self, method: str, path: str, largest: int = LARGEST_ANSWER, **more: Any) -> bytes:
        try:
            with self._http.stream(method, f"{self._url}{path}", **more) as answer:
                content = _read(answer, largest)
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if answer.is_success:
            return content
        if answer.status_code in {502, 503, 504}:
            raise Unreachable(f"HTTP {answer.status_code}")
        told = None
        with suppress(ValueError, RecursionError):
            told = json.loads(content)
        raise Refused(answer.status_code, told if isinstance(told, dict) else None)


class Socket:
    """An open WebSocket. Reading never stops for long: a client that does not read stalls everybody else's."""

    def __init__(self, connection: ClientConnection, opened: ExitStack) -> None:
        self._connection = connection
        self._opened = opened

    def receive(self, timeout: float) -> Message | None:
        """The next message that says something; none when there was none for `timeout` seconds. Raises Closed."""
        with _closing_as(Closed):
            try:
                frame = self._connection.recv(timeout)
            except TimeoutError:
                return None
            return read_binary(frame) if isinstance(frame, bytes) else read_text(frame)

    def close(self) -> None:
        """Close it, and wait for that: only then may its id be used again."""
        with suppress(WebSocketException, OSError):
            self._opened.close()


def _read(answer: httpx.Response, largest: int) -> bytes:
    content = bytearray()
    for part in answer.iter_bytes():
        content += part
        if len(content) > largest:
            raise TooLarge(f"more than {largest} bytes")
    return bytes(content)


@contextmanager
def _closing_as(kind: Callable[[str], Exception]) -> Iterator[None]:
    try:
        yield
    except (InvalidHandshake, InvalidMessage, WebSocketException, OSError, EOFError) as error:
        raise kind(f"{type(error).__name__}: {error}".rstrip(": ")) from error
