"""The HTTP server that every service runs."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from anime_common import http


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_what_is_written_is_sent_at_once(host: str) -> None:
    """Small writes must not wait until those before are acknowledged, 40 ms late (RFC 896, RFC 1122 4.2.3.2)."""
    options: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        transports = asyncio.get_running_loop()._transports.values()  # type: ignore[attr-defined]
        found = [each.get_extra_info("socket") for each in transports]
        port = scope["server"][1]
        taken = [each for each in found if each is not None and each.getsockname()[1:2] == (port,)]
        options.extend(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in taken)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well"})

    async with http.running(app, host=host, port=0) as port, httpx.AsyncClient() as client:
        address = f"[{host}]" if ":" in host else host
        assert (await client.get(f"http://{address}:{port}/")).text == "well"
    assert options
    assert all(options)
