"""Random passwords in files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def secret_file(folder: Path, name: str) -> Path:
    """The file of a secret, made with a random one where it is missing. The folder is closed to others."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if not path.exists():
        write_private(path, secrets.token_hex(24))
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all; what this has written, a power failure does not undo."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
