"""The HTTP protocol of the public door: uvicorn's, with a way to cut a connection that no longer reads."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

ABORT = "abort"
SEND_BUFFER = 256 * 1024


class DoorProtocol(HttpToolsProtocol):
    """Hands the application the connection's `abort` in `scope["state"]`.

    Closing gracefully would wait for a client that has stopped reading to take what is buffered; and without a bound
    the kernel would buffer megabytes for each of these.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Remember how to cut the connection, and bound what the kernel holds for it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """How to cut the connection of a request or a WebSocket; None under a server that does not say."""
    found: Callable[[], None] | None = scope.get("state", {}).get(ABORT)
    return found
