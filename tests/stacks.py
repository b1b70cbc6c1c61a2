"""The whole product as real processes, seen from outside: HTTP, SSE, commands, the bus, the database, the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest
import pytest_asyncio
from httpx_sse import ServerSentEvent, aconnect_sse

from anime_cli.nats_server import NatsServer
from anime_cli.settings import StackSettings
from anime_cli.stack import Stack
from anime_common.bus import Bus
from anime_common.db import split_password
from anime_common.topology import User
from tests.buses import connected
from tests.faults.oracle import Report, audit

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
"""Where `python` and `anime` lie."""

NOOP_MODELS = """
default = "noop"

[models.noop]
title = "No picture worth looking at"
engine = "noop"
family = "noop"
preload = true
batch_limit = 4

[models.noop.defaults]
width = 64
height = 64
steps = 8
guidance = 4.0
sampler = "dpm++ 2m"

[models.noop.sizes]
minimum = 64
maximum = 512
multiple = 8

[models.noop.options]
step_ms = 10

[models.sprite]
enabled = false
"""
QUICK = {
    "ANIME_WORKER_LOST_AFTER": "3",
    "ANIME_HEARTBEAT": "0.5",
    "ANIME_OFFER_REPEAT": "0.5",
    "ANIME_RETRY_BASE": "0.2",
    "ANIME_FILING_NUDGE": "2",
    "ANIME_PREPARE_NUDGE": "0.5",
    "ANIME_TICK": "0.2",
    "ANIME_LEADER_IDLE_TIMEOUT": "3",
    "ANIME_ACK_WAIT": "2",
    "ANIME_FILES_SWEEP_INTERVAL": "1",
    "ANIME_FILES_STAGING_GRACE": "3",
}
FREE_PORTS = ("gateway_port", "health_port", "nats_port", "nats_monitor_port", "postgres_port")
"""The ports of a stack, which are 0, any free one, for a stack that runs beside others."""

ENDED = {"completed", "failed", "cancelled"}


class Ran(NamedTuple):
    """How a program ended, and what it said."""

    status: int
    out: str
    err: str


async def ended(process: asyncio.subprocess.Process, within: float = 60.0) -> Ran:
    """Wait for a program and read what it says; one that is late is killed, and fails the test."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), within)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def start(*command: str, cwd: Path, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    """Start a program that sees none of our settings but those given; what it says goes into pipes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANIME_")}
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**clean, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def anime_on(server: NatsServer, *arguments: str) -> tuple[int, Any, str]:
    """Run `anime` as the owner of a bus; the exit status, its JSON, and what it said on stderr."""
    secret = server.password_file("admin")
    env = {
        "ANIME_NATS_URL": server.url,
        "ANIME_NATS_PASSWORD_FILE": str(secret),
        "ANIME_HOME": str(server.home / "none"),
    }
    ran = await ended(
        await start(sys.executable, "-m", "anime_cli.main", *arguments, "--json", cwd=server.home, env=env)
    )
    return ran.status, json.loads(ran.out) if ran.out else None, ran.err


@dataclass(slots=True)
class Product:
    """A running stack and its front door."""

    stack: Stack
    http: httpx.AsyncClient

    @property
    def home(self) -> Path:
        return self.stack.settings.home

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def nats(self) -> NatsServer:
        assert self.stack.parts.nats is not None
        return self.stack.parts.nats

    def bus(self, user: User) -> AbstractAsyncContextManager[Bus]:
        """A connection to the stack's bus, for one block."""
        return connected(self.nats, user)

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        """Start a program as somebody at this product's home does."""
        return await start(*command, cwd=self.home, env={"ANIME_HOME": str(self.home)})

    async def run(self, *command: str) -> Ran:
        """Run a program as somebody at this product's home does, to its end."""
        return await ended(await self.start(*command))

    async def anime(self, *arguments: str) -> Ran:
        """Run the `anime` command."""
        return await self.run(str(PROGRAMS / "anime"), *arguments)

    async def submit(self, prompt: str = "1girl, blue hair", **fields: Any) -> dict[str, Any]:
        """Submit a job; it must be taken."""
        answer = await self.http.post("/jobs", json={"prompt": prompt, **fields})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def job(self, ref: str) -> dict[str, Any]:
        answer = await self.http.get(f"/jobs/{ref}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, ref: str, *states: str, within: float = 60.0) -> dict[str, Any]:
        """Poll until the job is in one of the states; another end, or the deadline, fails."""
        wanted = set(states) or ENDED
        async with asyncio.timeout(within):
            while True:
                try:
                    answer = await self.http.get(f"/jobs/{ref}")
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    if found["state"] in wanted:
                        return found
                    assert found["state"] not in ENDED, found
                await asyncio.sleep(0.05)

    async def events(self, path: str, last_id: str | None = None) -> list[ServerSentEvent]:
        """All events of a stream that ends by itself."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with aconnect_sse(self.http, "GET", path, headers=headers, timeout=60) as source:
            return [event async for event in source.aiter_sse()]

    async def submit_and_watch(self, prompt: str, **fields: Any) -> tuple[dict[str, Any], list[ServerSentEvent]]:
        """Submit with the stream of everything open, so that nothing is missed; the job and its events to the end."""
        seen: list[ServerSentEvent] = []
        job: dict[str, Any] | None = None
        async with aconnect_sse(self.http, "GET", "/events", timeout=60) as source:
            async for event in source.aiter_sse():
                if job is None:
                    job = await self.submit(prompt, **fields)
                seen.append(event)
                about = data(event) if event.event in {"job", "progress"} else {}
                if about.get("job", {}).get("id") == job["id"] and about["job"]["state"] in ENDED:
                    break
        assert job is not None
        mine = [each for each in seen if each.event in {"job", "progress"} and job["id"] in each.data]
        return job, mine

    async def row(self, statement: str, *arguments: Any) -> Any:
        """The first row of an answer of the database, None if there is none."""
        return next(iter(await self.rows(statement, *arguments)), None)

    async def rows(self, statement: str, *arguments: Any) -> list[Any]:
        """What the database answers its administrator."""
        postgres = self.stack.parts.postgres
        assert postgres is not None
        dsn, _ = split_password(postgres.dsn)
        connection = await asyncpg.connect(dsn, password=postgres.password)
        try:
            found: list[Any] = await connection.fetch(statement, *arguments)
            return found
        finally:
            await connection.close()

    def picture(self, job: Mapping[str, Any], index: int = 0) -> Path:
        """The filed picture of a completed job: its bytes are those that the job names."""
        output = job["outputs"][index]
        path = self.artifacts / str(output["key"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == output["sha256"]
        return path

    async def audit(self, *, accepted: Collection[str] = (), dead: int | None = None, within: float = 30.0) -> Report:
        """What must hold whenever nothing runs: rows, events, files and leftovers add up."""
        return await audit(self.stack, accepted=accepted, dead=dead, within=within)


def settings_of(home: Path) -> StackSettings:
    """A stack beside others: free ports, quick restarts."""
    ports: dict[str, Any] = dict.fromkeys(FREE_PORTS, 0)
    return StackSettings(home=home, restart_delay=0.1, restart_delay_max=0.5, **ports)


@pytest.fixture
def stack_settings(tmp_path: Path) -> StackSettings:
    """Settings for a whole stack of this test's own."""
    return settings_of(tmp_path / "home")


@asynccontextmanager
async def product(home: Path, env: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Product]:
    """Start the stack, open its door."""
    async with Stack(settings_of(home), env=env) as stack:
        base = f"{stack.url}/api/anime"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
            yield Product(stack, http)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def noop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Product]:
    """The product with an engine that draws nothing, quickly; its clocks run fast."""
    home = tmp_path_factory.mktemp("noop")
    models = home / "models.toml"
    models.write_text(NOOP_MODELS)
    async with product(home, {"*": QUICK, "generator": {"ANIME_MODELS": str(models)}}) as found:
        yield found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sprite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Product]:
    """The product as people get it, with the built-in model."""
    async with product(tmp_path_factory.mktemp("sprite"), {}) as found:
        yield found


def data(event: ServerSentEvent) -> dict[str, Any]:
    """The JSON of an event."""
    found: dict[str, Any] = json.loads(event.data)
    return found
