"""The engine process's own code in this process: orders go in, audited pictures come out.

Whatever the engine tells goes over a real socket as it does between the two processes of a worker, so that what the
telling costs is measured too.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

from anime_common.contracts.generation import Settings
from anime_common.contracts.generator import ResidentModel
from anime_generator import wire
from anime_generator.child import Workshop
from anime_generator.engines.watch import PreviewBudget
from anime_generator.line import Cancellations, Line
from anime_generator.registry import ModelSpec
from tests.bench.generator.audit import Run, audited
from tests.bench.generator.subjects import job
from tests.bench.generator.timing import Lap, timed
from tests.generator.bench import listen

EMBEDDING_CACHE = 64 << 20
PREVIEW_EVERY, PREVIEW_SIZE = 3, 256
"""As the service's settings are by default."""
PATIENCE = 60.0
"""Seconds to wait for a report that must be on its way."""


def configuration(device: str, models: Sequence[ModelSpec], host_cache: int | None = None) -> wire.Configure:
    """What an engine process is told first, as the service tells it by default."""
    return wire.Configure(
        device=device,
        device_id=None,
        models=tuple(models),
        embedding_cache=EMBEDDING_CACHE,
        preview_every=PREVIEW_EVERY,
        preview_size=PREVIEW_SIZE,
        memory=wire.MemoryRules(host_cache=host_cache),
    )


@dataclass(slots=True)
class AtWork:
    """An engine at work in this process."""

    workshop: Workshop
    told: queue.SimpleQueue[tuple[wire.Report, bytes]]
    runs: int = 0
    residents: tuple[ResidentModel, ...] = ()

    def prepare(self, key: str) -> ResidentModel:
        """Load and warm up a model; what is told of it then."""
        assert self.workshop.obey(wire.Prepare(model=key))
        self._until(lambda report: isinstance(report, wire.Residents) and self.tier(key) == "device")
        return next(model for model in self.residents if model.key == key)

    def draw(self, settings: Settings) -> tuple[Lap, Run]:
        """Draw one job: from the order until the engine is idle again. Raises AuditError."""
        self.runs += 1
        wanted = job(settings)
        order = wire.Draw(run=self.runs, model=settings.model, jobs=(wanted,))
        found: list[tuple[wire.Report, bytes]] = []

        def work() -> None:
            self.workshop.obey(order)
            found.extend(self._until(lambda report: isinstance(report, wire.Idle)))

        return timed(work), audited(wanted, found)

    def tier(self, key: str) -> str | None:
        """Where a model lies, as was told last."""
        return next((model.tier for model in self.residents if model.key == key), None)

    def resident(self, key: str) -> Any:
        """A model in memory, with its diffusers pipeline: the same weights at the same addresses for others to use."""
        return cast("Any", self.workshop._engines["diffusers"])._resident[key]

    def _until(self, last: Any) -> list[tuple[wire.Report, bytes]]:
        found = []
        while True:
            report, blob = self.told.get(timeout=PATIENCE)
            if isinstance(report, wire.Residents):
                self.residents = report.models
            found.append((report, blob))
            if isinstance(report, wire.Residents) and report.failed is not None:
                raise RuntimeError(f"{report.failed} cannot be loaded: {report.problem}")
            if last(report):
                return found


@contextmanager
def at_work(config: wire.Configure) -> Iterator[AtWork]:
    """An engine with this configuration; its models are given up in the end."""
    ours, theirs = socket.socketpair()
    told: queue.SimpleQueue[tuple[wire.Report, bytes]] = queue.SimpleQueue()
    listening = threading.Thread(target=listen, args=(ours, told), daemon=True)
    listening.start()
    workshop = Workshop(Line(theirs), config, Cancellations())
    try:
        for key, problem in workshop.problems.items():
            raise RuntimeError(f"{key}: {problem}")
        yield AtWork(workshop, told)
    finally:
        workshop.obey(wire.GiveUp(model=None))
        theirs.close()
        listening.join(timeout=PATIENCE)
        ours.close()


@contextmanager
def without_previews() -> Iterator[None]:
    """Within it no preview is made: otherwise the first one always is."""
    with patch.object(PreviewBudget, "due", lambda *_: False):
        yield


@contextmanager
def preview_costs() -> Iterator[list[float]]:
    """The seconds that each preview within it took, as the engine's own budget is told."""
    costs: list[float] = []
    paid = PreviewBudget.paid

    def noted(budget: PreviewBudget, seconds: float) -> None:
        costs.append(seconds)
        paid(budget, seconds)

    with patch.object(PreviewBudget, "paid", noted):
        yield costs
