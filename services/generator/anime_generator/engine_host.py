"""The service's side of the engine process: starts it, watches it, replaces it, and carries orders and reports.

Whatever happens to the process, every attempt that was handed to `draw` gets exactly one `wire.Ended`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from pydantic import ValidationError

from anime_generator import wire
from anime_generator.hearing import Heard, Hearing
from anime_generator.residency import Tier
from anime_generator.supply import NOTHING, Supplies
from anime_generator.watchdog import Patience, Watchdog

if TYPE_CHECKING:
    from anime_common.contracts.generator import DeviceInfo, OfferedJob, ResidentModel
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_common.messages import Model
    from anime_generator.registry import ModelSpec

log = structlog.get_logger(__name__)

READ_LIMIT = 4 << 20
STACKS_GRACE = 0.3
LEAVE_GRACE = 2.0
MAX_BACKOFF = 30.0


class EngineUnusable(Exception):
    """The engine process says that its configuration cannot be run: starting it again would not help."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How to start the engine process, and how long to wait for it in seconds."""

    config: wire.Configure
    preload: tuple[str, ...]
    environment: Mapping[str, str]
    patience: Patience = field(default_factory=Patience)
    log_level: str = "info"
    log_format: str = "json"
    restart_delay: float = 0.2


class EngineHost:
    """One engine process at a time.

    `changed` is called whenever something that heartbeats tell has changed, `replaced` for each process that was lost.
    """

    def __init__(
        self, options: HostOptions, changed: Callable[[], None], replaced: Callable[[], None] = lambda: None
    ) -> None:
        self._options = options
        self._changed = changed
        self._replaced = replaced
        self._watchdog = Watchdog(options.patience)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._usable = asyncio.Event()
        self._closed = asyncio.Event()
        self._run: Hearing | None = None
        self._runs = 0
        self._reason = ""
        self._preloading: set[str] = set()
        self._unloadable: set[str] = set()
        self.device: DeviceInfo | None = None
        self.models: tuple[ModelInfo, ...] = ()
        self.residency: tuple[ResidentModel, ...] = ()
        self.batch_limits: dict[str, int] = {}
        self.problems: dict[str, str] = {}
        self.restarts = 0

    @property
    def resident(self) -> tuple[str, ...]:
        """The models that can draw at once, least recently used first."""
        return tuple(model.key for model in self.residency if model.tier == "device")

    def tier(self, model: str) -> Tier | None:
        """Where a model's weights lie; None when they must be read from the disk."""
        return next((Tier(each.tier) for each in self.residency if each.key == model and each.tier), None)

    @property
    def usable(self) -> bool:
        """Whether the engine process is up and takes orders."""
        return self._usable.is_set()

    @property
    def preloading(self) -> frozenset[str]:
        """The models that are still to be loaded before the first job."""
        return frozenset(self._preloading)

    @property
    def pid(self) -> int | None:
        """The engine process, for tests that do it harm."""
        return self._process.pid if self._process else None

    async def wait_usable(self) -> bool:
        """Wait until the engine process takes orders, at most as long as its start may take; whether it does."""
        try:
            async with asyncio.timeout(self._options.patience.start):
                await self._usable.wait()
        except TimeoutError:
            return False
        return True

    async def serve(self) -> None:
        """Keep an engine process alive until `close`; raises EngineUnusable when its configuration is to blame."""
        delay = self._options.restart_delay
        while not self._closed.is_set():
            began = asyncio.get_running_loop().time()
            await self._serve_once()
            if not self._closed.is_set():
                self.restarts += 1
                self._replaced()
            lived = asyncio.get_running_loop().time() - began
            delay = self._options.restart_delay if lived > MAX_BACKOFF else min(delay * 2, MAX_BACKOFF)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._closed.wait()

    async def close(self) -> None:
        """End the engine process; a run in hand ends as failed."""
        self._closed.set()
        if self._process is not None and self._process.returncode is None:
            self._kill("the service stops")
            await self._process.wait()

    async def draw(
        self, jobs: tuple[OfferedJob, ...], supplies: Supplies = NOTHING, offer: wire.Offered | None = None
    ) -> AsyncIterator[Heard]:
        """Run jobs of one batch key, one run at a time; yields until each attempt has its `wire.Ended`.

        `supplies` is what they begin with, `offer` what they came with. Waits for the engine process
        when it is being replaced.
        """
        if self._run is not None:
            raise RuntimeError("a run is in hand already")
        self._runs += 1
        run = Hearing(self._runs, {job.attempt_id for job in jobs})
        self._run = run
        try:
            await self._hand_over(run, jobs, supplies, offer)
            while (heard := await run.queue.get()) is not None:
                yield heard
        finally:
            self._run = None

    async def _hand_over(
        self, run: Hearing, jobs: tuple[OfferedJob, ...], supplies: Supplies, offer: wire.Offered | None
    ) -> None:
        """Give a run to the engine process; it ends at once when there is none for too long."""
        if not await self.wait_usable():
            run.lone = False  # the jobs are not to blame
            run.fail("engine_unavailable", "the engine process does not start: its log says why")
            return
        settings = jobs[0].settings
        pictures = sum(job.settings.count for job in jobs)
        limit = next((spec.batch_limit for spec in self._options.config.models if spec.key == settings.model), 1)
        pixels = settings.largest_pass()
        self._watchdog.running(settings.model, pixels, min(pictures, limit), asyncio.get_running_loop().time())
        order = wire.Draw(run=run.number, model=settings.model, jobs=jobs, inputs=supplies.inputs, offer=offer)
        self._send(order, supplies.blob)
        run.sent = True

    def stop(self, attempts: tuple[UUID, ...]) -> None:
        """Cancel attempts of the run in hand, between two steps."""
        self._send(wire.Stop(attempts=attempts))

    def give_up(self, model: str | None) -> None:
        """Drop a resident model, or all, once the run in hand is over."""
        self._send(wire.GiveUp(model=model))

    def reconfigure(self, models: tuple[ModelSpec, ...], preload: tuple[str, ...]) -> None:
        """From now on, these models: the engine process takes them once the run in hand is over."""
        if models == self._options.config.models:
            return
        config = self._options.config.model_copy(update={"models": models})
        self._options = replace(self._options, config=config, preload=preload)
        keys = {spec.key for spec in models}
        self.models = tuple(model for model in self.models if model.key in keys)
        self._unloadable.clear()  # what could not be loaded may have been mended
        self._send(config)

    async def _serve_once(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._reason = ""
            self._watchdog.starting(asyncio.get_running_loop().time())
            self._process = await self._start(theirs)
        if self._closed.is_set():
            self._kill("the service stops")
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=READ_LIMIT)
        self._send(self._options.config)
        watching = asyncio.create_task(self._watch(), name="engine watchdog")
        try:
            await self._read(reader)
        except asyncio.CancelledError:
            self._kill("the service stops")
            raise
        finally:
            watching.cancel()
            self._gone()
            self._writer.close()
            status = await self._ended(self._process)
        problem = self._reason or _status_text(status)
        if status == wire.UNUSABLE:
            raise EngineUnusable("the engine process cannot run this configuration: its log says why")
        if not self._closed.is_set():
            log.warning("engine_process_gone", status=status, reason=problem)
        if self._run is not None and self._run.sent:
            hung = bool(self._reason)
            self._run.fail("engine_hung" if hung else "engine_crashed", f"the engine process {problem}")

    async def _start(self, line: socket.socket) -> asyncio.subprocess.Process:
        # A session of its own: a Ctrl-C of the terminal reaches the service alone, which ends its runs in order.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "anime_generator.child",
            str(line.fileno()),
            str(os.getpid()),
            self._options.log_level,
            self._options.log_format,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(line.fileno(),),
            start_new_session=True,
            env=dict(self._options.environment),
        )

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                text_size, blob_size = wire.lengths(await reader.readexactly(wire.HEADER.size))
                text = await reader.readexactly(text_size)
                blob = await reader.readexactly(blob_size) if blob_size else b""
                self._on_report(wire.read_report(text), blob)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        except (wire.WireError, ValidationError) as error:
            self._kill(f"does not speak our protocol: {error}")

    def _on_report(self, report: wire.Report, blob: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(report, wire.Ready):
            self._on_ready(report)
        elif isinstance(report, wire.Loading):
            self._watchdog.loading(report.model, report.bytes, now, compiled=report.compiled)
        elif isinstance(report, wire.Residents):
            self._on_residents(report, now)
        elif isinstance(report, wire.Idle):
            self._on_idle(report)
        else:
            if isinstance(report, wire.Waited):
                self._watchdog.waited(now)
                return
            if isinstance(report, wire.Stepped):
                self._watchdog.stepped(now)
            elif isinstance(report, wire.Began):
                self._watchdog.began(report.phase, now)
            elif isinstance(report, wire.Painted):
                self._watchdog.painted(now)
            else:
                self._watchdog.other_sign(now)
            if self._run is not None and self._run.number == report.run:
                self._run.hear(Heard(report, blob))

    def _on_ready(self, report: wire.Ready) -> None:
        self.device, self.models, self.problems = report.device, report.models, dict(report.problems)
        for model, problem in report.problems.items():
            log.error("model_unavailable", model=model, problem=problem)
        if self._run is None:
            self._watchdog.idle()
        hopeless = self._unloadable | report.problems.keys() | set(self.resident)
        self._preloading = {model for model in self._options.preload if model not in hopeless}
        for model in self._options.preload:
            if model in self._preloading:
                self._send(wire.Prepare(model=model))
        self._usable.set()
        self._changed()

    def _on_residents(self, report: wire.Residents, now: float) -> None:
        self.device, self.residency, self.batch_limits = report.device, report.models, report.batch_limits
        if report.failed is not None:
            self.problems[report.failed] = report.problem
            self._preloading.discard(report.failed)
            self._unloadable.add(report.failed)  # a job may try it again, a new process need not
        self._preloading.difference_update(self.resident)
        for model in self.resident:
            self.problems.pop(model, None)
        if self._run is None:
            self._watchdog.idle()
        else:
            self._watchdog.other_sign(now)
        self._changed()

    def _on_idle(self, report: wire.Idle) -> None:
        self.device = report.device
        self._watchdog.idle()
        if report.leaving:
            self._usable.clear()
            self._reason = ""
        if self._run is not None and self._run.number == report.run:
            self._run.finish()

    async def _watch(self) -> None:
        """Kill the process when a sign of life is overdue."""
        loop = asyncio.get_running_loop()
        while True:
            deadline = self._watchdog.deadline
            if deadline is None or deadline > loop.time():
                await asyncio.sleep(0.25 if deadline is None else min(max(deadline - loop.time(), 0.01), 0.25))
                continue
            # If this process itself was frozen, what the child said meanwhile is still to be read.
            await asyncio.sleep(0.1)
            if self._watchdog.deadline == deadline:
                await self._dump_stacks()
                self._kill("gave no sign of life for longer than its work can take")
                return

    async def _dump_stacks(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(STACKS_GRACE)

    def _kill(self, reason: str) -> None:
        self._reason = reason
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _gone(self) -> None:
        self._usable.clear()
        self._watchdog.idle()
        self.residency, self.batch_limits = (), {}
        self._changed()

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """The exit status; a process that closed its line and lingers is killed."""
        try:
            async with asyncio.timeout(LEAVE_GRACE):
                return await process.wait()
        except TimeoutError:
            self._kill(self._reason or "closed its line without ending")
            return await process.wait()

    def _send(self, message: Model, blob: bytes = b"") -> None:
        """Orders are rare: the writer's buffer takes them. A broken line is noticed by the reader."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.frame(message, blob))


def _status_text(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    hint = " (the system ran out of memory?)" if status == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{hint}"
