"""The gateway as its own process: it starts, serves, and ends its streams itself when it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from anime_cli.nats_server import NatsServer
from tests.gateway.conftest import PATIENCE, Stream
from tests.gateway.ledger import Ledger


async def serving(process: asyncio.subprocess.Process) -> str:
    """The address that the log names."""
    assert process.stdout is not None
    async for line in process.stdout:
        said = json.loads(line)
        if said["event"] == "serving":
            return str(said["url"])
    raise AssertionError("the gateway ended")


@pytest.mark.slow
async def test_sigterm_ends_open_streams_and_the_process(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> None:
    environment = os.environ | {
        "ANIME_NATS_URL": nats.url,
        "ANIME_NATS_PASSWORD_FILE": str(nats.password_file("gateway")),
        "ANIME_ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(),
        "ANIME_GATEWAY_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "anime_gateway", env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(3 * PATIENCE):
            url = await serving(process)
            async with httpx.AsyncClient(base_url=f"{url}api/anime", trust_env=False) as client:
                assert (await client.post("/jobs", json={"prompt": "1girl"})).status_code == 201
                async with client.stream("GET", "/events") as response:
                    stream = Stream(response)
                    await stream.until(lambda event: event.event == "snapshot")
                    process.send_signal(signal.SIGTERM)
                    assert await stream.rest() == []
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
