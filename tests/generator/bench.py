"""The engine process's own code in the process of a test, on a simulated card whose faults the test chooses."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from anime_common.contracts.generator import OfferedJob, ResidentModel
from anime_generator import wire
from anime_generator.child import Workshop
from anime_generator.line import Cancellations, Line
from anime_generator.metadata import read_png
from anime_generator.registry import ModelSpec
from anime_generator.simulated import Simulated

Reports = list[tuple[wire.Report, bytes]]


@dataclass
class Drawn:
    """What a run came to."""

    reports: Reports
    leaving: bool

    @property
    def ends(self) -> dict[UUID, wire.Ended]:
        found = [report for report, _ in self.reports if isinstance(report, wire.Ended)]
        assert len({end.attempt_id for end in found}) == len(found), "an attempt ended twice"
        return {end.attempt_id: end for end in found}

    def end(self, job: OfferedJob) -> wire.Ended:
        return self.ends[job.attempt_id]

    def pictures(self, job: OfferedJob) -> dict[int, dict[str, Any]]:
        """The records in the pictures of a job, by index; no picture was painted twice."""
        found: dict[int, dict[str, Any]] = {}
        for report, blob in self.reports:
            if isinstance(report, wire.Painted) and report.attempt_id == job.attempt_id:
                assert report.index not in found, "a picture was painted twice"
                record = read_png(blob)
                assert record is not None
                found[report.index] = record
        return found

    @property
    def loaded(self) -> list[str]:
        return [report.model for report, _ in self.reports if isinstance(report, wire.Loading)]

    @property
    def widths(self) -> list[int]:
        """Pictures of every step."""
        return [len(report.pictures) for report, _ in self.reports if isinstance(report, wire.Stepped)]


@dataclass
class Bench:
    """Orders go in, reports come out."""

    workshop: Workshop
    config: wire.Configure
    script: Path
    cancel: Cancellations
    told: queue.SimpleQueue[tuple[wire.Report, bytes]]
    runs: int = 0
    latest: wire.Residents | None = None
    _marks: int = 0

    @property
    def card(self) -> Simulated:
        device = self.workshop._device
        assert isinstance(device, Simulated)
        return device

    def say(self, *faults: dict[str, Any], others_mb: int = 0, activation_bytes: int = 0) -> None:
        """From now on the card behaves like this."""
        said = {"faults": faults, "others_mb": others_mb, "activation_bytes": activation_bytes}
        self.script.write_text(json.dumps(said | {"said": self._marks}))
        self._marks += 1

    def draw(self, *jobs: OfferedJob) -> Drawn:
        self.runs += 1
        goes_on = self.workshop.obey(wire.Draw(run=self.runs, model=jobs[0].settings.model, jobs=jobs))
        reports = self.reports(until=wire.Idle)
        return Drawn(reports, not goes_on)

    def prepare(self, *models: str) -> None:
        for model in models:
            self.workshop.obey(wire.Prepare(model=model))
        self.tell()

    def configure(self, *specs: ModelSpec) -> None:
        self.workshop.obey(self.config.model_copy(update={"models": specs}))
        self.tell()

    def give_up(self, model: str | None = None) -> None:
        self.workshop.obey(wire.GiveUp(model=model))
        self.tell()

    def look(self) -> None:
        self.workshop.look()
        self.tell()

    def tell(self) -> None:
        """Have the residents told now, and take in what was told before."""
        self.workshop._tell_residents(problem="mark")
        while not (self.latest is not None and self.latest.problem == "mark"):
            self._next()
        self.latest = self.latest.model_copy(update={"problem": ""})

    def reports(self, until: type[wire.Report]) -> Reports:
        found = [self._next()]
        while not isinstance(found[-1][0], until):
            found.append(self._next())
        return found

    @property
    def models(self) -> dict[str, ResidentModel]:
        assert self.latest is not None
        return {model.key: model for model in self.latest.models}

    def tier(self, model: str) -> str | None:
        return self.models[model].tier if model in self.models else None

    @property
    def limits(self) -> dict[str, int]:
        assert self.latest is not None
        return self.latest.batch_limits

    def _next(self) -> tuple[wire.Report, bytes]:
        report, blob = self.told.get(timeout=60)
        if isinstance(report, wire.Residents):
            self.latest = report
        return report, blob


@contextmanager
def at_bench(folder: Path, *specs: ModelSpec, megabytes: int = 100, **rules: Any) -> Iterator[Bench]:
    """A workshop with these models; `rules` are those of `wire.MemoryRules`."""
    script = folder / "card.json"
    config = wire.Configure(
        device=f"simulated:{megabytes}:{script}",
        device_id="card",
        models=specs,
        embedding_cache=1 << 20,
        preview_every=3,
        preview_size=64,
        memory=wire.MemoryRules(**rules),
    )
    ours, theirs = socket.socketpair()
    told: queue.SimpleQueue[tuple[wire.Report, bytes]] = queue.SimpleQueue()
    listening = threading.Thread(target=listen, args=(ours, told), daemon=True)
    listening.start()
    cancel = Cancellations()
    try:
        yield Bench(Workshop(Line(theirs), config, cancel), config, script, cancel, told)
    finally:
        theirs.close()
        listening.join(timeout=10)
        ours.close()


def listen(line: socket.socket, told: queue.SimpleQueue[tuple[wire.Report, bytes]]) -> None:
    with line.makefile("rb") as file:
        while header := file.read(wire.HEADER.size):
            text_size, blob_size = wire.lengths(header)
            text, blob = file.read(text_size), file.read(blob_size)
            told.put((wire.read_report(text), blob))
