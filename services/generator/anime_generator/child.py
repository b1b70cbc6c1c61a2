"""The engine process: holds models and draws, on orders from the service that started it.

It never outlives the service (a kernel death signal, and the end of the socket), and leaves signals of the terminal
or of a service manager to the service: that decides what becomes of the work in hand.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from anime_common.contracts.vocabulary import Phase
from anime_common.log import configure_logging
from anime_generator import wire
from anime_generator.device import DeviceError, device_info, open_device
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import (
    EngineError,
    EngineOptions,
)
from anime_generator.line import Cancellations, Line
from anime_generator.residency import budget, to_evict
from anime_generator.run import Run

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.engines.protocol import Engine
    from anime_generator.registry import ModelSpec

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1


class Workshop:
    """The engines of one device, the models in its memory, and the run in hand."""

    def __init__(self, line: Line, config: wire.Configure, cancel: Cancellations) -> None:
        self._line = line
        self._cancel = cancel
        self._device = open_device(config.device, config.device_id)
        self._specs = {spec.key: spec for spec in config.models}
        self._engines: dict[str, Engine] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._resident: OrderedDict[str, int] = OrderedDict()
        self.problems: dict[str, str] = {}
        options = EngineOptions(config.embedding_cache, config.preview_every, config.preview_size)
        for name in sorted({spec.engine for spec in config.models}):
            self._open(name, options)

    def ready(self) -> wire.Ready:
        """What can be run here."""
        return wire.Ready(device=device_info(self._device), models=tuple(self._infos.values()), problems=self.problems)

    def obey(self, order: wire.Order) -> bool:
        """Carry out one order; False when this process must end."""
        if isinstance(order, wire.Prepare):
            self._prepare(order.model)
        elif isinstance(order, wire.GiveUp):
            self._give_up(tuple(self._resident) if order.model is None else (order.model,))
        elif isinstance(order, wire.Draw):
            spec = self._specs[order.model]
            run = Run(self._line, order, spec.engine, self._cancel)
            leaving = run.guarded(lambda jobs: self._draw(run, spec, jobs), self._infos.get(order.model))
            self._cancel.clear()
            self._line.send(wire.Idle(run=order.run, device=device_info(self._device), leaving=leaving))
            return not leaving
        return True

    def _open(self, name: str, options: EngineOptions) -> None:
        specs = [spec for spec in self._specs.values() if spec.engine == name]
        try:
            engine = open_engine(name, self._device, options)
        except ImportError as error:
            reason = f"the engine {name} needs a library that is not installed: {error}"
            self.problems |= {spec.key: reason for spec in specs}
            log.exception("engine_unavailable", engine=name)
            return
        self._engines[name] = engine
        for spec in specs:
            self._infos[spec.key] = engine.describe(spec)

    def _prepare(self, key: str) -> None:
        try:
            self._load(self._specs[key], warm_up=True)
        except EngineError as error:
            log.exception("preload_failed", model=key, code=error.code)
            self._tell_residents(failed=key, problem=error.message)

    def _draw(self, run: Run, spec: ModelSpec, jobs: tuple[OfferedJob, ...]) -> None:
        run.begin(Phase.LOADING, tuple(job.attempt_id for job in jobs))
        self._load(spec)
        self._engines[spec.engine].generate(spec, jobs, run.on_event, self._cancel)

    def _load(self, spec: ModelSpec, *, warm_up: bool = False) -> None:
        """Make a model the most recently used one, making room for it; on the last resort it gets the device alone."""
        if spec.key in self._resident:
            self._resident.move_to_end(spec.key)
            return
        self._line.send(wire.Loading(model=spec.key))
        limit = budget(self._device.memory(), host=self._device.kind == "cpu")
        self._drop(to_evict(self._resident, spec.memory, limit))
        engine = self._engines[spec.engine]
        began = time.monotonic()
        try:
            size = engine.load(spec, warm_up=warm_up)
        except EngineError as error:
            if error.code != "out_of_memory" or not self._resident:
                raise
            log.warning("evicting_all", model=spec.key, resident=list(self._resident))
            self._drop(tuple(self._resident))
            size = engine.load(spec, warm_up=warm_up)
        self._resident[spec.key] = size
        log.info("model_loaded", model=spec.key, bytes=size, seconds=round(time.monotonic() - began, 3))
        self._tell_residents()

    def _give_up(self, keys: tuple[str, ...]) -> None:
        self._drop(tuple(key for key in keys if key in self._resident))
        self._tell_residents()

    def _drop(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._engines[self._specs[key].engine].unload(key)
            del self._resident[key]
            log.info("model_unloaded", model=key)

    def _tell_residents(self, *, failed: str | None = None, problem: str = "") -> None:
        self._line.send(
            wire.Residents(
                models=tuple(self._resident), device=device_info(self._device), failed=failed, problem=problem
            )
        )


def hear(line: Line, orders: queue.SimpleQueue[wire.Order], cancel: Cancellations) -> None:
    """The hearing thread: cancels take effect at once, other orders wait. Ends the process with the service."""
    try:
        while (order := line.receive()) is not None:
            if isinstance(order, wire.Stop):
                cancel.add(order.attempts)
            else:
                orders.put(order)
    except (OSError, ValueError, wire.WireError):
        log.exception("line_broken")
    finally:
        os._exit(0)


def bind_to_parent(parent: int) -> None:
    """Die with the service, and leave its signals to it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    # On SIGUSR1, before a hung process is killed, its stacks go to stderr.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def main(argv: list[str]) -> int:
    """Serve the service behind the socket number `argv[1]`, whose process id is `argv[2]`."""
    bind_to_parent(int(argv[2]))
    configure_logging("generator-engine", level=argv[3], style=argv[4])
    line = Line(socket.socket(fileno=int(argv[1])))
    config = line.receive()
    if not isinstance(config, wire.Configure):
        raise wire.WireError(f"the first order must be configure, not {config!r}")
    cancel = Cancellations()
    orders: queue.SimpleQueue[wire.Order] = queue.SimpleQueue()
    threading.Thread(target=hear, args=(line, orders, cancel), name="hear", daemon=True).start()
    try:
        workshop = Workshop(line, config, cancel)
    except DeviceError as error:
        log.error("device_unusable", error=str(error))  # noqa: TRY400 - the text says it all
        return wire.UNUSABLE
    ready = workshop.ready()
    if not ready.models:
        log.error("no_model_usable", problems=ready.problems)
        return wire.UNUSABLE
    line.send(ready)
    while workshop.obey(orders.get()):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
