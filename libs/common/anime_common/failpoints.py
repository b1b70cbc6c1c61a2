"""Named points at which a test can kill, freeze, delay or fail a service; inert unless `ANIME_FAILPOINTS` is set.

Syntax: `name=action[:argument][*times]`, comma-separated; `times` defaults to 1, `*0` means always. Actions: `kill`
(SIGKILL to the own process), `stop` (SIGSTOP), `sleep:seconds`, `error` (raises FailpointError), `hold:path` (waits
while the file exists). Each hit that acts is written as one line `failpoint NAME ACTION` to stderr, and appended to
the file named by `record` in `configure`, so that a test can assert that it fired. `times` counts over restarts of
the process when a record file is given.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


class FailpointError(RuntimeError):
    """What an `error` failpoint raises."""


@dataclass(slots=True)
class _Point:
    action: str
    argument: str
    times: int
    hits: int = 0


_PART = re.compile(
    r"(?P<name>[^=\s]+)=(?P<action>kill|stop|sleep|error|hold)(?::(?P<argument>[^*]*))?(?:\*(?P<times>\d+))?"
)
_SECONDS = re.compile(r"\d+(\.\d+)?")
_RECORDED = re.compile(r"failpoint (\S+) [a-z]+")

_points: dict[str, _Point] = {}
_record: Path | None = None


def configure(spec: str, record: Path | None = None) -> None:
    """Set the active failpoints; an empty text switches all off. Raises ValueError on bad syntax."""
    global _record  # noqa: PLW0603 - fault injection is process-wide by nature
    _points.clear()
    _record = record
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        name, point = _parse(part)
        _points[name] = point
    if record is not None and record.exists():
        for line in record.read_text().splitlines():
            # A line may be cut short by the very crash that it announces: that one is not counted.
            found = _RECORDED.fullmatch(line)
            if found is not None and (known := _points.get(found[1])) is not None:
                known.hits += 1


def _parse(part: str) -> tuple[str, _Point]:
    found = _PART.fullmatch(part)
    if found is None:
        raise ValueError(f"failpoint {part!r}: not name=action[:argument][*times] with kill, stop, sleep, error, hold")
    action, argument = found["action"], found["argument"] or ""
    if action == "sleep" and not _SECONDS.fullmatch(argument):
        raise ValueError(f"failpoint {part!r}: sleep needs seconds, such as sleep:0.5")
    if action == "hold" and not argument:
        raise ValueError(f"failpoint {part!r}: hold needs a path, such as hold:/tmp/gate")
    return found["name"], _Point(action, argument, int(found["times"] or 1))


async def hit(name: str) -> None:
    """Pass a named point; does nothing unless a test armed it."""
    if _points and (point := _arm(name)) is not None:
        if point.action == "sleep":
            await asyncio.sleep(float(point.argument))
        elif point.action == "hold":
            while await asyncio.to_thread(Path(point.argument).exists):
                await asyncio.sleep(0.01)
        else:
            _strike(name, point)


def hit_sync(name: str) -> None:
    """`hit` for code outside of an event loop."""
    if _points and (point := _arm(name)) is not None:
        if point.action == "sleep":
            time.sleep(float(point.argument))
        elif point.action == "hold":
            while Path(point.argument).exists():
                time.sleep(0.01)
        else:
            _strike(name, point)


def _arm(name: str) -> _Point | None:
    point = _points.get(name)
    if point is None or (point.times and point.hits >= point.times):
        return None
    point.hits += 1
    line = f"failpoint {name} {point.action}\n"
    if _record is not None:
        with _record.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    sys.stderr.write(line)
    sys.stderr.flush()
    return point


def _strike(name: str, point: _Point) -> None:
    if point.action == "error":
        raise FailpointError(name)
    os.kill(os.getpid(), signal.SIGKILL if point.action == "kill" else signal.SIGSTOP)
