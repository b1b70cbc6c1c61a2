"""The WebSocket of a painter: who listens, and what goes to whom."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import suppress
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104857600}
EVERYBODY = None
"""To whom goes what has no client."""

Frame = str | bytes


class Wire:
    """Connections by client id; frames go out one after another, so that a reader who stalls stalls everybody's."""

    def __init__(self) -> None:
        self.sockets: dict[str, WebSocket] = {}
        self._told: set[str] = set()
        self._frames: asyncio.Queue[tuple[str | None, Frame]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def deliver(self) -> None:
        """Send for ever what is told."""
        self._loop, self._frames = asyncio.get_running_loop(), asyncio.Queue()
        while True:
            client_id, frame = await self._frames.get()
            for name in [client_id] if client_id is not EVERYBODY else list(self.sockets):
                if (websocket := self.sockets.get(name)) is not None:
                    await _send(websocket, frame)

    def tell(self, client_id: str | None, kind: str, data: dict[str, Any]) -> None:
        """Send a message to a client, or to everybody; from any thread."""
        self._put(client_id, json.dumps({"type": kind, "data": data}))

    def show(self, client_id: str | None, image: bytes) -> None:
        """Send a preview that does not say what it is of."""
        self._put(client_id, struct.pack(">II", 1, 1) + image)

    def show_of(self, client_id: str | None, said: dict[str, Any], image: bytes) -> None:
        """Send a preview with what it is of."""
        text = json.dumps(said).encode()
        self._put(client_id, struct.pack(">II", 4, len(text)) + text + image)

    def wants_metadata(self, client_id: str | None) -> bool:
        """Whether a client said that it understands previews that tell what they are of."""
        return client_id in self._told

    async def listen(self, websocket: WebSocket, queue: dict[str, Any], running: tuple[str | None, str]) -> None:
        """Serve a connection; `running` are the client of the prompt that runs, and its node.

        Who it is goes by the id alone: of two connections with one id the later one is heard, and both are forgotten
        when either closes.
        """
        client_id = websocket.query_params.get("clientId") or uuid4().hex
        await websocket.accept()
        self.sockets[client_id] = websocket
        await _send(websocket, json.dumps({"type": "status", "data": {"status": queue, "sid": client_id}}))
        if running[0] == client_id and running[1]:
            await _send(websocket, json.dumps({"type": "executing", "data": {"node": running[1]}}))
        first = True
        with suppress(WebSocketDisconnect, RuntimeError):
            while (message := await websocket.receive())["type"] == "websocket.receive":
                if first and _flags(message.get("text")).get("supports_preview_metadata"):
                    self._told.add(client_id)
                    await _send(websocket, json.dumps({"type": "feature_flags", "data": FEATURES}))
                first = False
        self.sockets.pop(client_id, None)
        self._told.discard(client_id)

    def _put(self, client_id: str | None, frame: Frame) -> None:
        if self._loop is not None and self._frames is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._frames.put_nowait, (client_id, frame))


async def _send(websocket: WebSocket, frame: Frame) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        await (websocket.send_bytes(frame) if isinstance(frame, bytes) else websocket.send_text(frame))


def _flags(text: str | None) -> dict[str, Any]:
    """The features of a client, when that is what it says."""
    with suppress(ValueError, TypeError, KeyError):
        said = json.loads(text or "")
        if said["type"] == "feature_flags":
            return dict(said["data"])
    return {}
