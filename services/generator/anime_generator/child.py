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
from typing import TYPE_CHECKING

import structlog

from anime_common.log import configure_logging
from anime_generator import wire
from anime_generator.batching import BatchLimits
from anime_generator.device import DeviceError, device_info, open_device
from anime_generator.drawing import Drawing, Studio
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import EngineError, EngineOptions
from anime_generator.inputs import RunInputs
from anime_generator.line import Cancellations, Line, Ordered
from anime_generator.residents import PRELOADED, Residents
from anime_generator.run import Run

if TYPE_CHECKING:
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.engines.protocol import Engine

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1
NOTABLE = 0.01
"""Of the memory: a change of what is free that is told at once."""


class Workshop:
    """The engines of one device, the models in its memory, and the run in hand."""

    def __init__(self, line: Line, config: wire.Configure, cancel: Cancellations) -> None:
        self._line = line
        self._cancel = cancel
        self._device = open_device(config.device, config.device_id, config.remote)
        self._specs = {spec.key: spec for spec in config.models}
        self._configured = {spec.key: spec.batch_limit for spec in config.models}
        self._engines: dict[str, Engine] = {}
        self._infos: dict[str, ModelInfo] = {}
        self.problems: dict[str, str] = {}
        self._options = EngineOptions(config.embedding_cache, config.preview_every, config.preview_size, config.remote)
        self._open_all()
        self._limits = BatchLimits()
        self._residents = Residents(self._device, self._engines, config.memory, self._loading, self._tell_residents)
        self._studio = Studio(self._device, self._specs, self._infos, self._engines, self._residents, self._limits)
        self._told_free = self._device.memory().free

    def ready(self) -> wire.Ready:
        """What can be run here."""
        return wire.Ready(device=device_info(self._device), models=tuple(self._infos.values()), problems=self.problems)

    def obey(self, order: wire.Order, blob: bytes = b"") -> bool:
        """Carry out one order; False when this process must end. `blob` is that of the order's frame."""
        if isinstance(order, wire.Prepare):
            return self._prepare(order.model)
        if isinstance(order, wire.GiveUp):
            self._residents.give_up(order.model)
        elif isinstance(order, wire.Configure):
            self._reconfigure(order)
        elif isinstance(order, wire.Draw):
            return self._draw(order, RunInputs(order.inputs, blob))
        return True

    def look(self) -> None:
        """Nothing is ordered: see whether other programs need the device, and tell how much of it is free."""
        if self._residents.look():
            return  # it was told already
        memory = self._device.memory()
        if abs(memory.free - self._told_free) > NOTABLE * memory.total:
            self._tell_residents()

    def _reconfigure(self, config: wire.Configure) -> None:
        """Other models than before: those that are gone, or lie in other files, are given up."""
        fresh = {spec.key: spec for spec in config.models}
        self._residents.reconfigure(fresh)
        for known in (self._specs, self._configured, self._infos, self.problems):
            known.clear()
        self._specs.update(fresh)
        self._configured.update({key: spec.batch_limit for key, spec in fresh.items()})
        self._open_all()
        self._tell_residents()
        self._line.send(self.ready())

    def _open_all(self) -> None:
        for name in sorted({spec.engine for spec in self._specs.values()}):
            self._open(name)

    def _open(self, name: str) -> None:
        specs = [spec for spec in self._specs.values() if spec.engine == name]
        try:
            engine = self._engines.get(name) or open_engine(name, self._device, self._options)
        except ImportError as error:
            reason = f"the engine {name} needs a library that is not installed: {error}"
            self.problems |= {spec.key: reason for spec in specs}
            log.exception("engine_unavailable", engine=name)
            return
        self._engines[name] = engine
        for spec in specs:
            self._infos[spec.key] = engine.describe(spec)

    def _prepare(self, key: str) -> bool:
        try:
            self._residents.use(self._specs[key], PRELOADED, warm_up=True)
        except EngineError as error:
            log.exception("preload_failed", model=key, code=error.code)
            self._tell_residents(failed=key, problem=error.message)
            return not error.poisoned
        return True

    def _draw(self, order: wire.Draw, inputs: RunInputs) -> bool:
        run = Run(self._line, order, {key: spec.engine for key, spec in self._specs.items()}, self._cancel, inputs)
        leaving = run.guarded(Drawing(self._studio, run).draw, self._infos.get(order.model))
        self._cancel.clear()
        if not leaving:
            self._residents.weigh()
            self._tell_residents()
        self._line.send(wire.Idle(run=order.run, device=device_info(self._device), leaving=leaving))
        return not leaving

    def _loading(self, model: str, size: int) -> None:
        self._line.send(wire.Loading(model=model, bytes=size, compiled=self._specs[model].compiled))

    def _tell_residents(self, *, failed: str | None = None, problem: str = "") -> None:
        device = device_info(self._device)
        self._told_free = device.memory_free
        self._line.send(
            wire.Residents(
                models=self._residents.told(),
                device=device,
                batch_limits=self._limits.announced(self._configured),
                failed=failed,
                problem=problem,
            )
        )


def hear(line: Line, orders: queue.SimpleQueue[Ordered], cancel: Cancellations) -> None:
    """The hearing thread: cancels take effect at once, other orders wait. Ends the process with the service."""
    try:
        while (heard := line.receive()) is not None:
            if isinstance(heard.order, wire.Stop):
                cancel.add(heard.order.attempts)
            else:
                orders.put(heard)
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
    first = line.receive()
    config = first.order if first is not None else None
    if not isinstance(config, wire.Configure):
        raise wire.WireError(f"the first order must be configure, not {config!r}")
    cancel = Cancellations()
    orders: queue.SimpleQueue[Ordered] = queue.SimpleQueue()
    threading.Thread(target=hear, args=(line, orders, cancel), name="hear", daemon=True).start()
    try:
        workshop = Workshop(line, config, cancel)
    except DeviceError as error:
        log.error("device_unusable", error=str(error))  # noqa: TRY400 - the text says it all
        return wire.UNUSABLE
    ready = workshop.ready()
    if not ready.models and config.remote is None:
        log.error("no_model_usable", problems=ready.problems)
        return wire.UNUSABLE
    line.send(ready)
    return serve(workshop, orders, config.memory.look_every)


def serve(workshop: Workshop, orders: queue.SimpleQueue[Ordered], look_every: float) -> int:
    """Obey orders, and look around between them; returns the exit status when this process must end."""
    while True:
        try:
            heard = orders.get(timeout=look_every)
        except queue.Empty:
            workshop.look()
        else:
            if not workshop.obey(heard.order, heard.blob):
                return 0
            del heard  # what a run began with need not wait for the next order


if __name__ == "__main__":
    sys.exit(main(sys.argv))
