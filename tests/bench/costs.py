"""What a run costs: processor time of every process, what the machine had left, and which of it was the limit.

Times come from /proc (see proc(5)), in seconds of one core; a process counts with all that it started, ended or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.tables import Table
from tests.faults.breaking import children_of

TICKS = os.sysconf("SC_CLK_TCK")
FULL_MACHINE = 0.10
"""A machine that idles less than this share is full."""
FULL_CORE = 0.85
"""A process that works more than this share of the time fills a core."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Clocks at one moment, in seconds: of each process by name, and of the machine's cores together."""

    at: float
    processes: Mapping[str, float]
    idle: float
    total: float


def read(pids: Mapping[str, int]) -> Reading:
    """Read all clocks; a process that runs below another one named here counts for itself alone."""
    named = set(pids.values())
    user, nice, system, idle, waiting, *rest = (int(each) / TICKS for each in _first_line("/proc/stat").split()[1:9])
    return Reading(
        at=time.monotonic(),
        processes={name: cpu_seconds(pid, named - {pid}) for name, pid in pids.items()},
        idle=idle + waiting,
        total=user + nice + system + idle + waiting + sum(rest),
    )


def cpu_seconds(pid: int, without: set[int] = frozenset()) -> float:  # type: ignore[assignment]
    """Of a process and all below it, those that have ended included; `without` are counted elsewhere."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    times = text.rpartition(")")[2].split()[11:15]  # utime, stime, and both of the children that were waited for
    below = sum(cpu_seconds(child, without) for child in children_of(pid) if child not in without)
    return sum(map(int, times)) / TICKS + below


def rss_bytes(pid: int) -> int:
    """The resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _first_line(path: str) -> str:
    return Path(path).read_text().splitlines()[0]


@dataclass(frozen=True, slots=True)
class Costs:
    """Between two readings: `seconds` of wall time on `cores`, in which `jobs` were done.

    `processes`: seconds of a core by process. `idle` and `others`: shares of the machine, 0 to 1.
    """

    jobs: int
    cores: int
    seconds: float
    processes: Mapping[str, float]
    idle: float
    others: float

    @classmethod
    def between(cls, before: Reading, after: Reading, jobs: int, cores: int) -> Costs:
        """What was spent from one reading to the next."""
        spent = {name: after.processes[name] - at for name, at in before.processes.items()}
        total = max(after.total - before.total, 1e-9)
        idle = (after.idle - before.idle) / total
        others = max(1.0 - idle - sum(spent.values()) / total, 0.0)
        return cls(jobs, cores, after.at - before.at, spent, idle, others)

    def per_job(self, name: str) -> float:
        """Milliseconds of a core that a process spent on each job."""
        return 1000 * self.processes[name] / self.jobs

    def table(self) -> Table:
        """Who spent how much."""
        ordered = sorted(self.processes, key=self.processes.__getitem__, reverse=True)
        rows = [(name, self.per_job(name), 100 * self.processes[name] / self.seconds) for name in ordered]
        whole = sum(self.processes.values())
        rows.append(("together", 1000 * whole / self.jobs, 100 * whole / self.seconds))
        return Table(("process", "CPU ms per job", "% of one core"), rows, "Processor time")

    def bottleneck(self) -> str:
        """What limits the rate, as the numbers say."""
        largest = max(self.processes, key=self.processes.__getitem__)
        busy = self.processes[largest] / self.seconds
        of_all = 100 * self.processes[largest] / max(sum(self.processes.values()), 1e-9)
        if self.idle < FULL_MACHINE:
            text = (
                f"the processors: {100 * (1 - self.idle):.0f} % of {self.cores} cores are busy;"
                f" the largest part is {largest} with {self.per_job(largest):.1f} ms a job, {of_all:.0f} % of ours"
            )
        elif busy > FULL_CORE:
            text = (
                f"the process {largest}, which fills {100 * busy:.0f} % of one core"
                f" while {100 * self.idle:.0f} % of the machine idles"
            )
        else:
            text = (
                f"waiting (commits, fsyncs, round trips): no process fills a core, the busiest, {largest},"
                f" {100 * busy:.0f} % of one, and {100 * self.idle:.0f} % of the machine idles"
            )
        if self.others > FULL_MACHINE:
            text += f". Other programs took {100 * self.others:.0f} % of the machine: on a calm one the rate is higher"
        return text
