"""The engine process's end of the socket, and what it hears between two orders."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from anime_generator import wire

if TYPE_CHECKING:
    from anime_common.messages import Model


class Cancellations:
    """The attempts that were cancelled; filled by the thread that hears orders."""

    def __init__(self) -> None:
        self._asked: set[UUID] = set()

    def add(self, attempts: tuple[UUID, ...]) -> None:
        """Cancel these."""
        self._asked.update(attempts)

    def asked(self, attempt_id: UUID) -> bool:
        """Whether this one was cancelled."""
        return attempt_id in self._asked

    def clear(self) -> None:
        """Forget all: their run is over."""
        self._asked.clear()


class Ordered(NamedTuple):
    """An order, with its blob."""

    order: wire.Order
    blob: bytes = b""


class Line:
    """The socket to the service."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: Model, blob: bytes = b"") -> None:
        """Tell the service; waits while it is slow to listen."""
        self._connection.sendall(wire.frame(message, blob))

    def receive(self) -> Ordered | None:
        """The next order; None when the service has gone."""
        header = self._exactly(wire.HEADER.size)
        if header is None:
            return None
        text_size, blob_size = wire.lengths(header)
        text, blob = self._exactly(text_size), self._exactly(blob_size)
        return None if text is None or blob is None else Ordered(wire.read_order(text), blob)

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)
