"""How the command ends: exit statuses, and errors that people and programs can read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """What the exit status of `anime` means; the same for every command."""

    OK = 0
    FAILED = 1
    """The job failed or was cancelled; the doctor found something wrong; a bug."""
    USAGE = 2
    """The command line or a field of the request is not valid."""
    UNREACHABLE = 3
    """The gateway, or what the command needs, does not answer."""
    NOT_FOUND = 4
    CONFLICT = 5
    """It conflicts with how things are now, such as cancelling a completed job."""
    DENIED = 6
    """The gateway wants a token (ANIME_TOKEN), or this one may not do that."""
    INTERRUPTED = 130


class CliError(Exception):
    """An expected error: `lines` for people, `problem` for programs."""

    def __init__(self, status: ExitStatus, text: str, *more: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.lines = (text, *more)
        self.problem = dict(problem) if problem else {"detail": text}


def report(error: CliError, *, as_json: bool) -> None:
    """Say what went wrong on stderr."""
    if as_json:
        text = json.dumps({**error.problem, "exit_status": int(error.status)}, ensure_ascii=False) + "\n"
    else:
        text = "".join(f"anime: {line}\n" for line in error.lines)
    sys.stderr.write(text)
