"""Runs a service: settings, logs, traces, failpoints, bus, health, background tasks, and an ordered shutdown."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog
import uvloop
from prometheus_client import Info

from anime_common import failpoints, http
from anime_common.bus import Bus
from anime_common.log import configure_logging
from anime_common.settings import ServiceSettings, load
from anime_common.topology import User
from anime_common.tracing import configure_tracing

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=ServiceSettings)


@dataclass(slots=True)
class Runtime(Generic[S]):
    """What a service's `build` gets: its settings, its bus, and where to hang its tasks and clean-ups.

    `closing` is unwound in reverse order at the end, after the background tasks have ended.
    """

    name: str
    settings: S
    bus: Bus
    stop: asyncio.Event
    checks: dict[str, http.Check]
    closing: AsyncExitStack
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    failure: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a background task that must live as long as the service: its crash ends the service with status 1."""
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)
            self.failure = self.failure or error
            self.stop.set()


Build = Callable[[Runtime[S]], Awaitable[None]]


def run(name: str, user: User, settings: type[S], build: Build[S]) -> None:
    """The `main` of a service: returns when stopped by SIGTERM or SIGINT, exits with 1 when a task failed."""
    loaded = load(settings)
    configure_logging(name, level=loaded.log_level, style=loaded.log_format)
    configure_tracing(name, loaded.otlp_endpoint)
    failpoints.configure(loaded.failpoints, loaded.failpoints_record)
    sys.exit(uvloop.run(_run(name, user, loaded, build)))


async def _run(name: str, user: User, settings: S, build: Build[S]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    checks: dict[str, http.Check] = {}
    started = False

    async def startup() -> str | None:
        return None if started else "still starting"

    checks["startup"] = startup
    app = http.health_app(name, checks)
    async with http.running(app, host=settings.http_host, port=settings.http_port) as port:
        log.info("starting", http=f"http://{settings.http_host}:{port}")
        Info("anime_service", "Which service this is.").info({"service": name})
        bus = await _unless(stop, Bus.connect(settings, user))
        if bus is None:
            return 0

        async def bus_check() -> str | None:
            return None if bus.connected else "the bus is away"

        checks["bus"] = bus_check
        runtime = Runtime(name, settings, bus, stop, checks, AsyncExitStack())
        built = await _unless(stop, _built(build, runtime))
        if built is not None:
            started = True
            log.info("started")
            await stop.wait()
        await _shutdown(runtime)
        return 1 if runtime.failure else 0


async def _built(build: Build[S], runtime: Runtime[S]) -> bool:
    await build(runtime)
    return True


T = TypeVar("T")


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when stopped before."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None


async def _shutdown(runtime: Runtime[Any]) -> None:
    """Let the tasks end by themselves (they watch `stop`), then unwind, then close the bus."""
    log.info("stopping")
    if runtime.tasks:
        _, late = await asyncio.wait(set(runtime.tasks), timeout=runtime.settings.stop_grace)
        for task in late:
            log.warning("task_cancelled", task=task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=2.0)
    try:
        await runtime.closing.aclose()
    finally:
        await runtime.bus.close()
    log.info("stopped")
