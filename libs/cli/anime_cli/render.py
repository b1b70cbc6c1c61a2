"""What people see: tables and texts. Nothing that comes from elsewhere is taken for markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anime_common.contracts.files import FileView
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState

WIDE = 240
FLEXIBLE = frozenset({"prompt", "description", "message", "reason", "title", "device", "works on", "progress"})
"""Columns that give way when the terminal is narrow; ids and names never do."""

STYLES = {
    JobState.PREPARING: "cyan",
    JobState.QUEUED: "yellow",
    JobState.DISPATCHED: "yellow",
    JobState.RUNNING: "blue",
    JobState.FILING: "blue",
    JobState.COMPLETED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
}


def console(stream: TextIO | None = None) -> Console:
    """A console without markup, on stdout unless told otherwise; what is no terminal gets wide lines."""
    target = stream or sys.stdout
    return Console(file=target, markup=False, emoji=False, highlight=False, width=None if target.isatty() else WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], empty: str) -> None:
    """Print a table, or what to say when there is nothing in it."""
    found = list(rows)
    if not found:
        console().print(empty)
        return
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, name in enumerate(columns):
        if name in FLEXIBLE:
            made.add_column(name, overflow="fold")
        else:
            made.add_column(name, no_wrap=True, min_width=max(len(str(row[number])) for row in found))
    for row in found:
        made.add_row(*row)
    console().print(made)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; empty values are left out."""
    known = [(name, value) for name, value in pairs if value is not None and value != ""]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in known:
        grid.add_row(name, value if isinstance(value, Text) else str(value))
    console().print(grid)


def state(found: JobState) -> Text:
    """A state in its colour."""
    return Text(found.value, style=STYLES[found])


def one_line(text: str, length: int = 60) -> str:
    """A text without line breaks, cut to a length."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def seconds(value: float | None) -> str:
    """A duration, for people: 0.04 s, 1.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago something was."""
    return f"{seconds(max(((now or datetime.now(UTC)) - at).total_seconds(), 0.0))} ago"


def size(count: int) -> str:
    """A number of bytes, for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def measures(file: FileView) -> str:
    """How large a picture or clip is, and how long what moves or sounds."""
    pixels = f"{file.width}x{file.height}" if file.width else ""
    return ", ".join(filter(None, (pixels, seconds(file.duration))))


def progress(job: JobView) -> str:
    """How far a job is, or why it waits, in a few words."""
    now = job.progress
    if job.state in {JobState.PREPARING, JobState.QUEUED}:
        place = f"place {now.position}" if now.position else ""
        return ", ".join(filter(None, (place, now.message or job.message)))
    if job.state is JobState.COMPLETED:
        noun = "picture" if all(output.type == "image" for output in job.outputs) else "file"
        return f"{len(job.outputs)} {noun}{'s' if len(job.outputs) != 1 else ''}"
    if job.state.ended:
        return job.error.message if job.error else (job.message or "")
    step = f"{now.step}/{now.steps}" if now.step is not None and now.steps else ""
    phase = now.phase.value if now.phase else ""
    return " ".join(filter(None, (f"{now.percent:.0f} %", phase, step)))


def took(job: JobView) -> str:
    """How long a job ran."""
    if job.started_at is None:
        return ""
    return seconds(((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds())


def error_console() -> Console:
    """A console on stderr."""
    return console(sys.stderr)
