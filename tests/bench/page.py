"""The record of a run: one page for people, one file for programs. Pure but for the writing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.tables import Cell, Result, shown

PAGE, DATA = "results.md", "results.json"
INTRO = (
    "Written by `make bench`; [README.md](README.md) explains what is measured and how. A rate stands here only if all"
    " of its jobs or events were audited afterwards."
)


def markdown(machine: Mapping[str, Cell], results: Sequence[Result]) -> str:
    """The page."""
    lines = "\n".join(f"- {name}: {shown(value)}" for name, value in machine.items())
    return "\n\n".join(["# Results", INTRO, "## Machine", lines, *(result.markdown() for result in results)]) + "\n"


def data(machine: Mapping[str, Cell], results: Sequence[Result]) -> str:
    """The same for programs."""
    found = {"machine": dict(machine), "parts": {result.name: result.as_json() for result in results}}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def record(folder: Path, machine: Mapping[str, Cell], results: Sequence[Result]) -> None:
    """Write both into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(markdown(machine, results))
    (folder / DATA).write_text(data(machine, results))
