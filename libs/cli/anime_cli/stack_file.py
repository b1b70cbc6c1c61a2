"""What a running stack tells of itself in `<home>/stack.json`, and the lock that keeps a home to one stack."""

from __future__ import annotations

import fcntl
import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from anime_cli.process import StackError
from anime_cli.secret_files import write_private


class StackFile(BaseModel):
    """A running stack. Holds no passwords: those lie in `<home>/secrets`."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started_at: datetime
    url: str
    nats_url: str
    nats_monitor_url: str | None
    postgres_dsn: str
    artifacts_url: str
    health: dict[str, str]
    pids: dict[str, int]


def path_of(home: Path) -> Path:
    """Where the file lies."""
    return home / "stack.json"


def read_stack_file(home: Path) -> StackFile | None:
    """The stack that runs on this home; None when there is none."""
    try:
        found = StackFile.model_validate_json(path_of(home).read_text())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return found if _is_locked(home) else None


def leftovers(home: Path) -> dict[str, int]:
    """The processes that the file of a stack names which did not end in order, by name; they may be gone."""
    try:
        return StackFile.model_validate_json(path_of(home).read_text()).pids
    except (FileNotFoundError, ValidationError):
        return {}


def write_stack_file(home: Path, stack: StackFile) -> None:
    """Write it whole or not at all."""
    write_private(path_of(home), stack.model_dump_json(indent=2) + "\n")


class HomeLock:
    """One stack a home. The kernel frees the lock of a process that died, so a stale one is simply taken over."""

    def __init__(self, home: Path) -> None:
        self.path = home / "stack.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; raises StackError naming the process that holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise StackError(
                f"a stack already runs on {self.path.parent} (process {holder}): stop it, or set ANIME_HOME"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_locked(home: Path) -> bool:
    try:
        descriptor = os.open(home / "stack.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
