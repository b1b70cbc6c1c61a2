"""What a bug of ours shows to whoever asked: that there is one, and under which id the log has the rest."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from anime_cli.nats_server import NatsServer
from anime_common import http
from anime_gateway.__main__ import SERVER
from anime_gateway.access import Access
from anime_gateway.app import create_app
from anime_gateway.doors import Doors
from anime_gateway.settings import GatewaySettings
from tests.gateway.conftest import PATIENCE
from tests.gateway.ledger import Ledger
from tests.gateway.test_doors import check
from tests.gateway.test_process import serving

SECRET = "hunter2"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Break = Callable[[Doors], None]
Broken = Callable[..., Awaitable[int]]


def told(response: httpx.Response) -> str:
    """Check that a response tells nothing of a bug but the id of its trace."""
    problem = check(response, 500, "internal")
    assert set(problem) == {"type", "title", "status", "code", "detail", "errors", "trace_id"}
    assert problem["errors"] == []
    assert SECRET not in response.text
    assert re.fullmatch(r"[0-9a-f]{32}", problem["trace_id"])
    assert response.headers["x-content-type-options"] == "nosniff"
    return str(problem["trace_id"])


async def buggy(*_: object, **__: object) -> None:
    raise RuntimeError(f"the password is {SECRET}")


@pytest_asyncio.fixture
async def broken() -> AsyncIterator[Broken]:
    """Serves, on a real socket, a gateway with nothing behind its doors but bugs; the port."""
    stop = asyncio.Event()
    serves: list[asyncio.Task[None]] = []

    async def opened(spoil: Break = lambda _doors: None) -> int:
        settings = GatewaySettings()
        app = create_app()
        access = Access(settings)
        hub = SimpleNamespace(attach=buggy)
        app.state.gateway = SimpleNamespace(settings=settings, access=access, ask=buggy, hub=hub)
        doors = Doors(app, settings, access)
        spoil(doors)
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            async with http.running(doors, host="127.0.0.1", port=0, **SERVER) as found:
                port.set_result(found)
                await stop.wait()

        serves.append(asyncio.create_task(serve()))
        return await port

    yield opened
    stop.set()
    await asyncio.gather(*serves)


@pytest.mark.parametrize("path", ["/queue", "/jobs/abcd2345", "/jobs/abcd2345/events", "/events"])
async def test_a_route_that_fails_tells_only_where_the_log_has_it(broken: Broken, path: str) -> None:
    port = await broken()
    with capture_logs() as logs:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            trace_id = told(await client.get(f"/api/anime{path}"))
            # The connection goes on: what was asked was answered.
            assert (await client.get("/")).status_code == 200
    (entry,) = [entry for entry in logs if entry["event"] == "request_failed"]
    assert entry["trace_id"] == trace_id
    assert (entry["method"], entry["path"]) == ("GET", f"/api/anime{path}")
    assert SECRET in str(entry["exc_info"])
    assert entry["exc_info"].__traceback__ is not None


async def test_the_doors_themselves_tell_no_more(broken: Broken) -> None:
    def spoil(doors: Doors) -> None:
        doors.access = SimpleNamespace(refusal=lambda *_: 1 / 0)  # type: ignore[assignment]

    port = await broken(spoil)
    with capture_logs() as logs:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            trace_id = told(await client.get("/api/anime/queue"))
    (entry,) = logs
    assert (entry["event"], entry["trace_id"]) == ("request_failed", trace_id)
    assert isinstance(entry["exc_info"], ZeroDivisionError)


async def test_what_fails_in_the_middle_is_cut_off(broken: Broken) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"the first half"
        raise RuntimeError(f"the password is {SECRET}")

    async def halved(_: Request) -> StreamingResponse:
        return StreamingResponse(half())

    def spoil(doors: Doors) -> None:
        doors.app.add_route("/half", halved)  # type: ignore[attr-defined]

    port = await broken(spoil)
    with capture_logs() as logs:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
            client.stream("GET", "/half") as response,
        ):
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
    assert [entry["event"] for entry in logs] == ["request_failed"]


async def test_a_websocket_that_fails_is_closed_without_a_word(broken: Broken) -> None:
    port = await broken()
    async with connect(f"ws://127.0.0.1:{port}/api/anime/ws", proxy=None) as socket:
        await socket.send('{"action": "subscribe"}')
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "")


async def test_so_is_a_handshake(broken: Broken) -> None:
    def spoil(doors: Doors) -> None:
        doors.access = SimpleNamespace(refusal=lambda *_: 1 / 0)  # type: ignore[assignment]

    port = await broken(spoil)
    with capture_logs() as logs, pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{port}/api/anime/ws", proxy=None):
            pass
    answer = refused.value.response
    assert answer.status_code == 500
    assert json.loads(answer.body or b"")["trace_id"] == logs[0]["trace_id"]


@pytest.mark.slow
async def test_the_log_of_the_process_has_the_stack_under_the_id(
    nats: NatsServer, ledger: Ledger, tmp_path: Path
) -> None:
    environment: dict[str, Any] = os.environ | {
        "ANIME_NATS_URL": nats.url,
        "ANIME_NATS_PASSWORD_FILE": str(nats.password_file("gateway")),
        "ANIME_ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(),
        "ANIME_GATEWAY_PORT": "0",
        "ANIME_FAILPOINTS": "gateway.submit.before_publish=error*0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "anime_gateway"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(3 * PATIENCE):
            url = await serving(process)
            async with httpx.AsyncClient(base_url=f"{url}api/anime", trust_env=False) as client:
                response = await client.post("/jobs", json={"prompt": "1girl"}, headers={"traceparent": TRACEPARENT})
            assert told(response) == TRACEPARENT.split("-")[1]
            process.terminate()
            said = [json.loads(line) async for line in process.stdout]
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # Once, not once more by the server.
    (entry,) = [entry for entry in said if "FailpointError" in json.dumps(entry)]
    assert (entry["event"], entry["level"]) == ("request_failed", "error")
    assert entry["trace_id"] == TRACEPARENT.split("-")[1]
    assert "Traceback" in entry["exception"]
    assert "commands.py" in entry["exception"]
