"""The embedded stack: NATS, PostgreSQL and the five services as child processes, watched and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import asyncpg
import httpx
import structlog

from anime_cli.log_follower import LogFollower
from anime_cli.parts import Parts
from anime_cli.process import Child, StackError, command_line, rotate
from anime_cli.settings import StackSettings
from anime_cli.stack_file import HomeLock, StackFile, leftovers, path_of, write_stack_file
from anime_common.migrations import MigrationError

SERVERS = ("nats", "postgres")
READY_POLL = 0.05


@dataclass(slots=True)
class Part:
    """A process of the stack. While `wanted`, it is started again whenever it dies."""

    child: Child
    start: Callable[[], Awaitable[None]]
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Stack:
    """The whole product on one machine: `async with Stack(settings) as stack: …`.

    `env` adds environment variables by service name; `"*"` means all of them. `say` gets what happens, in words;
    `console` gets the log of all services.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        env: Mapping[str, Mapping[str, str]] | None = None,
        say: Callable[[str], None] = lambda _text: None,
        console: TextIO | None = None,
    ) -> None:
        self.settings = settings
        self._env = env or {}
        self._say = say
        self._console = console
        self._follower: asyncio.Task[None] | None = None
        self._parts = Parts(settings)
        self._running: dict[str, Part] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._lock = HomeLock(settings.home)
        self._started_at = datetime.now(UTC)

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return self._parts.url

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by name: the services, `nats`, `postgres`."""
        return {name: pid for name, part in self._running.items() if (pid := part.child.pid) is not None}

    @property
    def parts(self) -> Parts:
        """Where the servers are and how they are reached."""
        return self._parts

    @property
    def logs(self) -> dict[str, Path]:
        """The log file of each service."""
        return {service.name: self._log(service.name) for service in self._parts.services}

    @property
    def _stop_order(self) -> tuple[str, ...]:
        """First the door, last the database."""
        return (*(service.name for service in reversed(self._parts.services)), *SERVERS)

    async def start(self) -> None:
        """Start everything and return when every service is ready.

        Raises StackError with the tail of the log of what failed; nothing is left running then.
        """
        self._parts.check_door()
        self._lock.acquire()
        try:
            self._end_leftovers()
            for name in self._stop_order:
                rotate(self._log(name))
            if self._console is not None:
                self._follower = asyncio.create_task(LogFollower(self.logs, self._console).run(), name="log")
            await self._start_servers()
            self._start_services()
            await self._all_ready()
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        for name in self._running:
            self._watchers.append(asyncio.create_task(self._watch(name), name=f"watch {name}"))
        self._write_file()

    async def stop(self) -> None:
        """Stop in order: first the door, last the database."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()
        for name in self._stop_order:
            if name in self._running:
                await self._running[name].child.stop()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        path_of(self.settings.home).unlink(missing_ok=True)
        self._lock.release()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process; if it dies of it, it is started again."""
        self._running[name].child.signal(number)

    async def halt(self, name: str, number: int | None = None) -> None:
        """End one process, by a signal if one is given, and keep it down until `resume`."""
        part = self._running[name]
        async with part.changing:
            part.wanted.clear()
            if number is not None:
                part.child.signal(number)
                await part.child.wait()
            else:
                await part.child.stop()

    async def resume(self, name: str) -> None:
        """Start a halted process again; a service is awaited until ready."""
        part = self._running[name]
        async with part.changing:
            if not part.child.alive:
                await part.start()
            part.wanted.set()
        self._write_file()
        if name in self._parts.ports:
            await self.ready(name)

    async def restart(self, name: str) -> None:
        """Stop one process in order and start it again."""
        await self.halt(name)
        await self.resume(name)

    async def ready(self, name: str, timeout: float | None = None) -> None:
        """Wait until a service answers that it is ready; raises StackError with its log when it does not."""
        deadline = time.monotonic() + (timeout or self.settings.ready_timeout)
        url, last = f"{self._parts.health_url(name)}/readyz", "no answer"
        child = self._running[name].child
        watched = any(not watcher.done() for watcher in self._watchers)
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline and (child.alive or watched):
                try:
                    answer = await client.get(url)
                except httpx.HTTPError as error:
                    last = repr(error)
                else:
                    if answer.status_code == 200:
                        return
                    last = f"{answer.status_code} {answer.text.strip()}"
                await asyncio.sleep(READY_POLL)
        state = "is not ready" if child.alive else child.ended
        raise StackError(f"{name} {state} ({url}: {last}); its log, {child.log}, ends with:\n{child.output(30)}")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _end_leftovers(self) -> None:
        """Kill services that a stack which died here left behind: frozen ones did not hear that it did."""
        modules = {f"-m {service.module}" for service in self._parts.services}
        for name, pid in leftovers(self.settings.home).items():
            if name not in SERVERS and any(module in command_line(pid) for module in modules):
                self._say(f"ending {name} (process {pid}) of an earlier run")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    async def _start_servers(self) -> None:
        servers = [server for server in (self._parts.nats, self._parts.postgres) if server is not None]
        for server in servers:
            self._add(server.child, server.start)
        await asyncio.gather(*(server.start() for server in servers))
        for server in servers:
            self._say(f"{server.child.name} runs on port {server.port} (process {server.child.pid})")
        try:
            await self._parts.prepare_database()
        except (MigrationError, OSError, asyncpg.PostgresError) as error:
            raise StackError(f"the database {self._parts.postgres_dsn} could not be prepared: {error}") from error
        self._say("the database is migrated")

    def _start_services(self) -> None:
        self._parts.choose_ports()
        for service in self._parts.services:
            extra = {**self._env.get("*", {}), **self._env.get(service.name, {})}
            child = Child(
                service.name,
                (sys.executable, "-P", "-m", service.module),
                self._log(service.name),
                env=self._parts.environment(service, extra),
                grace=self.settings.stop_grace + 5.0,
                reap_group=True,
            )
            self._add(child, _starter(child))
            child.start()

    async def _all_ready(self) -> None:
        waits = [asyncio.create_task(self.ready(service.name)) for service in self._parts.services]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    def _add(self, child: Child, start: Callable[[], Awaitable[None]]) -> None:
        part = Part(child, start)
        part.wanted.set()
        self._running[child.name] = part

    async def _watch(self, name: str) -> None:
        """Start a part again whenever it dies, later each time if it does so at once."""
        part, settings = self._running[name], self.settings
        delay, tried_at = settings.restart_delay, part.child.started_at
        while True:
            await part.wanted.wait()
            await part.child.wait()
            if not part.wanted.is_set():
                continue
            # A start that failed counts as a life that ended at once, however long the one before it was.
            if time.monotonic() - max(tried_at, part.child.started_at) > settings.restart_delay_max:
                delay = settings.restart_delay
            self._say(f"{name} {part.child.ended}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(2 * delay, settings.restart_delay_max)
            async with part.changing:
                if part.wanted.is_set() and not part.child.alive:
                    await self._start_again(name, part)
                    tried_at = time.monotonic()

    async def _start_again(self, name: str, part: Part) -> None:
        try:
            await part.start()
        except Exception as error:  # noqa: BLE001 - whatever it was, the watch goes on: else nobody would start it again
            self._say(f"{name} did not start: {str(error) or repr(error)}")
        else:
            self._say(f"{name} was started again (process {part.child.pid})")
            try:
                self._write_file()
            except OSError as error:  # a full disk is no reason to watch no longer
                self._say(f"{path_of(self.settings.home)} is out of date: {error}")

    def _write_file(self) -> None:
        parts = self._parts
        write_stack_file(
            self.settings.home,
            StackFile(
                pid=os.getpid(),
                started_at=self._started_at,
                url=self.url,
                nats_url=parts.nats_url,
                nats_monitor_url=parts.nats.monitor_url if parts.nats else None,
                postgres_dsn=parts.postgres_dsn,
                artifacts_url=parts.artifacts_url,
                health={service.name: parts.health_url(service.name) for service in parts.services},
                pids=self.pids,
            ),
        )

    def _log(self, name: str) -> Path:
        return self.settings.home / "logs" / f"{name}.log"


def _starter(child: Child) -> Callable[[], Awaitable[None]]:
    async def start() -> None:
        child.start()

    return start


async def up(settings: StackSettings) -> int:
    """Run the stack in the foreground until SIGINT or SIGTERM; returns the exit status.

    Stdout gets `ready: URL` and `docs: URL`, stderr the log of all services. A second signal kills at once.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        stack = Stack(settings, say=_say, console=sys.stderr)
    except StackError as error:
        print(f"anime up: {error}", file=sys.stderr)
        return 1
    stopping = _until_signalled(stack)
    starting = asyncio.create_task(stack.start(), name="start")
    signalled = asyncio.create_task(stopping.wait(), name="signals")
    await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return 0
    try:
        starting.result()
    except StackError as error:
        print(f"anime up: {error}", file=sys.stderr)
        signalled.cancel()
        return 1
    print(f"ready: {stack.url}\ndocs: {stack.url}/docs", flush=True)
    await signalled
    await stack.stop()
    return 0


def _say(text: str) -> None:
    print(f"{'stack':<9} | {text}", file=sys.stderr, flush=True)


def _until_signalled(stack: Stack) -> asyncio.Event:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second one kills everything."""
    stopping = asyncio.Event()

    def signalled() -> None:
        if stopping.is_set():
            for name in stack.pids:
                stack.kill(name)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return stopping
