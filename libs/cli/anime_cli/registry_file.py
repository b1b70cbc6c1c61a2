"""The owner's `models.toml`: entries are added so that comments and order stay as they are."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from anime_cli.errors import CliError, ExitStatus

TEMPLATE = """\
# Your own models, laid over those that come with the generator. `anime models add FILE` writes entries for you,
# `anime models check` looks at them; docs/models.md explains every key. Changes are picked up while the stack runs.
"""
_KEY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def ensure(file: Path) -> None:
    """Make the file, with a word about what it is for, unless it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), file.open("x", encoding="utf-8") as new:
            new.write(TEMPLATE)


def check_key(key: str) -> str:
    """The key, if it may be one; raises CliError."""
    if not _KEY.fullmatch(key):
        text = f"--key {key!r}: keys are made of small letters, digits, dots, dashes and underscores, 64 at most"
        raise CliError(ExitStatus.USAGE, text)
    return key


def place_of(path: Path, file: Path) -> str:
    """How an entry of `file` names `path`: relative where it lies beside or below, else in full."""
    full, folder = path.absolute(), file.absolute().parent
    return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)


def add(
    file: Path, section: str, key: str, entry: Mapping[str, Any], *, default: bool, accept: Callable[[Path], None]
) -> None:
    """Add `[section.key]` to the file, once `accept` has looked at the result and not raised.

    Raises CliError when the key is taken, or the file cannot be read or written.
    """
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.parse(TEMPLATE)
    except (OSError, TOMLKitError, UnicodeDecodeError) as error:
        raise CliError(ExitStatus.USAGE, f"{file} cannot be read: {error}") from error
    if key in document.get(section, {}):
        raise CliError(ExitStatus.CONFLICT, f"{file} has [{section}.{key}] already: choose another --key")
    if section not in document:
        document.append(section, tomlkit.table(is_super_table=True))
    document[section].append(key, _table(entry))
    if default and "default" in document:
        document["default"] = key
    text = tomlkit.dumps(document)
    _replace(file, _with_default(text, key) if default and "default" not in document else text, accept)


def _table(entry: Mapping[str, Any]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for name, value in entry.items():
        table.append(name, _table(value) if isinstance(value, Mapping) else value)
    return table


def _with_default(text: str, key: str) -> str:
    """`default` stands before the first table, and before the comments that belong to that."""
    lines = text.splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    while at and lines[at - 1].startswith("#"):
        at -= 1
    return "".join([*lines[:at], f'default = "{key}"\n\n', *lines[at:]])


def _replace(file: Path, text: str, accept: Callable[[Path], None]) -> None:
    """Write beside the file, where relative paths mean the same, and take its place when accepted."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".models-", suffix=".toml")
        draft = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            accept(draft)
            if file.exists():
                draft.chmod(file.stat().st_mode & 0o777)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise CliError(ExitStatus.USAGE, f"{file} cannot be written: {error.strerror}") from error
