"""Programs that come with Python packages: nats-server, dbmate."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path


class ProgramMissing(RuntimeError):
    """A program that should have been installed is not there."""


def find(name: str, package: str) -> Path:
    """Where a program lies: beside this Python, else on the PATH. `package` is named in the error."""
    beside = Path(sysconfig.get_path("scripts")) / name
    if beside.is_file():
        return beside
    on_path = shutil.which(name)
    if on_path is None:
        raise ProgramMissing(f"{name} was not found in {beside.parent} or on the PATH: pip install {package}")
    return Path(on_path)
