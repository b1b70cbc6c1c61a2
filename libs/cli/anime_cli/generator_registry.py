"""Asks the generator that is installed here about model files and workflows: it knows them, we only show it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_cli.errors import CliError, ExitStatus

PROGRAM = "anime_generator.registry"
WORKFLOWS = "anime_generator.comfyui"
TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Item:
    """One file that a registry names."""

    section: str
    key: str
    part: str
    path: str
    kind: str
    family: str
    dtype: str
    size: int
    tensors: int
    prediction: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a registry names, and all that is wrong with it."""

    file: str
    items: tuple[Item, ...]
    problems: tuple[str, ...]


def installed() -> bool:
    """Whether the generator is installed beside us."""
    return importlib.util.find_spec(PROGRAM.partition(".")[0]) is not None


def check(file: Path | None) -> Checked:
    """Look at everything that the shipped registry, with this file laid over it, names."""
    answer = ask(PROGRAM, "check", *([str(file)] if file is not None else []))
    items = tuple(Item(**{**item, "problems": tuple(item["problems"])}) for item in answer["items"])
    return Checked(answer["file"], items, tuple(answer["problems"]))


def inspect(file: Path, family: str) -> dict[str, Any]:
    """What a model file holds, and what an entry for it would say."""
    return ask(PROGRAM, "inspect", "--family", family, "--", str(file))


def ask(program: str, *arguments: str) -> dict[str, Any]:
    """What one of the generator's programs says; raises CliError when it is not here, or fails."""
    if not installed():
        text = "the generator is not installed here: run this where it is"
        raise CliError(ExitStatus.UNREACHABLE, text)
    command = [sys.executable, "-m", program, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except ValueError as error:
        last = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CliError(ExitStatus.FAILED, f"the generator's program {program} failed: {last}") from error
    return found
