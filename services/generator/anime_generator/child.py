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
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

from anime_common.contracts.vocabulary import Phase
from anime_common.log import configure_logging
from anime_generator import wire
from anime_generator.device import DeviceError, device_info, open_device
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import (
    Drawn,
    EngineError,
    EngineOptions,
    PhaseBegan,
    Previewed,
    Stepped,
    Warned,
)
from anime_generator.metadata import encode_png
from anime_generator.registry import settings_problem
from anime_generator.residency import budget, to_evict

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_common.messages import Model
    from anime_generator.engines.protocol import Engine, EngineEvent, Picture
    from anime_generator.registry import ModelSpec

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1
UNUSABLE = 78
"""Exit status when nothing of the configuration can be run (EX_CONFIG of sysexits.h)."""


class Cancellations:
    """The attempts that were cancelled; filled by the thread that hears orders."""

    def __init__(self) -> None:
        self._asked: set[UUID] = set()

    def add(self, attempts: tuple[UUID, ...]) -> None:
        """Cancel these."""
        self._asked.update(attempts)

    def asked(self, attempt_id: UUID) -> bool:
        """Whether this one was cancelled."""
        return attempt_id in self._asked

    def clear(self) -> None:
        """Forget all: their run is over."""
        self._asked.clear()


class Line:
    """The socket to the service."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: Model, blob: bytes = b"") -> None:
        """Tell the service; waits while it is slow to listen."""
        self._connection.sendall(wire.frame(message, blob))

    def receive(self) -> wire.Order | None:
        """The next order; None when the service has gone."""
        header = self._exactly(wire.HEADER.size)
        if header is None:
            return None
        size, _ = wire.lengths(header)
        text = self._exactly(size)
        return None if text is None else wire.read_order(text)

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)


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


class Run:
    """One run: turns what the engine tells into reports, and gives every attempt exactly one end."""

    def __init__(self, line: Line, order: wire.Draw, engine: str, cancel: Cancellations) -> None:
        self._line = line
        self._run = order.run
        self._engine = engine
        self._cancel = cancel
        self._open = {job.attempt_id: job for job in order.jobs}
        self._painted: dict[UUID, int] = defaultdict(int)
        self._warnings: dict[UUID, tuple[str, ...]] = defaultdict(tuple)
        self._timings: dict[Phase, float] = defaultdict(float)
        self._phase = Phase.LOADING
        self._since = time.perf_counter()

    def guarded(self, draw: Callable[[tuple[OfferedJob, ...]], None], info: ModelInfo | None) -> bool:
        """Draw whatever can be drawn and end every attempt; True when this process must be replaced."""
        self._refuse(info)
        if not self._open:
            return False
        try:
            draw(tuple(self._open.values()))
        except EngineError as error:
            log.exception("run_failed", code=error.code, attempts=[str(attempt) for attempt in self._open])
            self._end_all(error)
            return error.poisoned
        except Exception as error:
            log.exception("run_failed", attempts=[str(attempt) for attempt in self._open])
            self._end_all(EngineError("engine_error", f"the engine failed: {error!r}", retryable=True))
            return False
        self._end_all(EngineError("engine_error", "the engine drew fewer pictures than asked", retryable=True))
        return False

    def begin(self, phase: Phase, attempts: tuple[UUID, ...]) -> None:
        """A phase begins for these attempts."""
        self._clock(phase)
        self._line.send(wire.Began(run=self._run, phase=phase, attempts=attempts))

    def on_event(self, event: EngineEvent) -> None:
        """The engine's callback."""
        if isinstance(event, PhaseBegan):
            self.begin(event.phase, tuple(dict.fromkeys(picture.attempt_id for picture in event.pictures)))
        elif isinstance(event, Stepped):
            pictures = tuple((picture.attempt_id, picture.index) for picture in event.pictures)
            self._line.send(wire.Stepped(run=self._run, pictures=pictures, step=event.step, steps=event.steps))
        elif isinstance(event, Previewed):
            self._line.send(wire.Preview(run=self._run, attempt_id=event.picture.attempt_id), event.jpeg)
        elif isinstance(event, Warned):
            self._warnings[event.attempt_id] += (event.text,)
        else:
            self._save(event)

    def _save(self, event: Drawn) -> None:
        picture: Picture = event.picture
        job = self._open[picture.attempt_id]
        before = self._phase
        self._clock(Phase.SAVING)
        warnings = self._warnings[picture.attempt_id]
        data = encode_png(event.image, job, picture, engine=self._engine, warnings=warnings)
        width, height = event.image.size
        painted = wire.Painted(
            run=self._run,
            attempt_id=picture.attempt_id,
            index=picture.index,
            seed=picture.seed,
            width=width,
            height=height,
        )
        self._line.send(painted, data)
        self._clock(before)
        self._painted[picture.attempt_id] += 1
        if self._painted[picture.attempt_id] == job.settings.count:
            self._end(picture.attempt_id, "painted")

    def _refuse(self, info: ModelInfo | None) -> None:
        """End the attempts that this model cannot do."""
        for attempt_id, job in tuple(self._open.items()):
            problem = f"model: {job.settings.model} cannot be run here"
            if info is not None and (problem := settings_problem(info, job.settings) or "") == "":
                continue
            self._end(attempt_id, "failed", EngineError("bad_settings", problem, retryable=False))

    def _end_all(self, error: EngineError) -> None:
        lone = len(self._open) == 1
        for attempt_id in tuple(self._open):
            if self._cancel.asked(attempt_id):
                self._end(attempt_id, "cancelled")
            else:
                self._end(attempt_id, "failed", error, lone=lone)

    def _end(
        self,
        attempt_id: UUID,
        outcome: Literal["painted", "cancelled", "failed"],
        error: EngineError | None = None,
        *,
        lone: bool = True,
    ) -> None:
        del self._open[attempt_id]
        self._clock(self._phase)
        self._line.send(
            wire.Ended(
                run=self._run,
                attempt_id=attempt_id,
                outcome=outcome,
                timings={phase: round(seconds, 4) for phase, seconds in self._timings.items()},
                warnings=self._warnings[attempt_id],
                code=error.code if error else "",
                message=error.message if error else "",
                retryable=error.retryable if error else False,
                lone=lone,
            )
        )

    def _clock(self, phase: Phase) -> None:
        now = time.perf_counter()
        self._timings[self._phase] += now - self._since
        self._phase, self._since = phase, now


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
        return UNUSABLE
    ready = workshop.ready()
    if not ready.models:
        log.error("no_model_usable", problems=ready.problems)
        return UNUSABLE
    line.send(ready)
    while workshop.obey(orders.get()):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
