"""One log of many: follows the log files of the services and prints each line behind the service's name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

INTERVAL = 0.1
_COLOURS = (36, 35, 33, 32, 34, 96, 95)


@dataclass(slots=True)
class LogFollower:
    """Prints what is appended to files. Colours the names when `out` is a terminal."""

    files: Mapping[str, Path]
    out: TextIO = field(default_factory=lambda: sys.stderr)
    _offsets: dict[str, int] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        """Follow until cancelled; then print what is left."""
        try:
            while True:
                self.print_new()
                await asyncio.sleep(INTERVAL)
        finally:
            self.print_new(whole_lines=False)

    def print_new(self, *, whole_lines: bool = True) -> None:
        """Print what has been appended since the last time; a line without its end waits for it."""
        for number, (name, path) in enumerate(self.files.items()):
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets.get(name, 0))
                    new = file.read()
            except FileNotFoundError:
                continue
            if whole_lines:
                new = new[: new.rfind(b"\n") + 1]
            self._offsets[name] = self._offsets.get(name, 0) + len(new)
            for line in new.decode(errors="replace").splitlines():
                self.out.write(f"{self.prefix(name, number)} {line}\n")
        self.out.flush()

    def prefix(self, name: str, number: int) -> str:
        """The name in a column of its own."""
        text = f"{name:<{max(map(len, self.files))}} |"
        return f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{text}\x1b[0m" if self.out.isatty() else text
