"""One reading of a registry: its tables, one after another, and every mistake in them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from anime_common.messages import Request
from anime_generator.registry.files import Look, look

PACKAGE = Path(__file__).parent.parent
SHIPPED = PACKAGE / "models.toml"
BUILT_IN = PACKAGE / "models"
CONFIGURATIONS = PACKAGE / "families"
"""What single files need beside their weights, by family: configurations of their parts, and of the tokenizers."""

SECTIONS = ("models", "loras", "embeddings")
_KEY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")

Table = dict[str, Any]
E = TypeVar("E", bound=Request)


class RegistryError(Exception):
    """The registry cannot be used; `problems` are lines of the form `key: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class Reading:
    """What is read, and what is wrong with it. `named` are the enabled tables, wrong ones included."""

    engines: frozenset[str]
    default: str
    bases: dict[tuple[str, str], Path]
    problems: list[str] = field(default_factory=list)
    named: dict[str, set[str]] = field(default_factory=lambda: {section: set() for section in SECTIONS})
    _looked: dict[Path, Look] = field(default_factory=dict)

    def look(self, path: Path) -> Look:
        """What lies there, looked at once however often it is named."""
        if path not in self._looked:
            self._looked[path] = look(path)
        return self._looked[path]

    def wrong(self, where: str, text: str) -> None:
        """Note a mistake."""
        self.problems.append(f"{where}: {text}")

    def is_wrong(self, section: str, key: str) -> bool:
        """Whether a mistake was found in this table."""
        return any(problem.startswith((f"{section}.{key}.", f"{section}.{key}:")) for problem in self.problems)

    def entry(self, section: str, key: str, table: object, kind: type[E]) -> E | None:
        """One table, checked by itself; None when it is wrong, or switched off."""
        where = f"{section}.{key}"
        entry = self.checked(where, table, kind)
        if entry is None:
            self.named[section].add(key)
            return None
        if not getattr(entry, "enabled", True):
            return None
        self.named[section].add(key)
        if not _KEY.fullmatch(key):
            self.wrong(where, "keys are made of small letters, digits, dots, dashes and underscores, 64 at most")
            return None
        return entry

    def checked(self, where: str, table: object, kind: type[E]) -> E | None:
        """A table by itself; None when it is wrong, which is noted."""
        try:
            return kind.model_validate(table)
        except ValidationError as error:
            for line in error.errors(include_url=False, include_context=False, include_input=False):
                unknown = line["type"] == "extra_forbidden"
                said = f"unknown key; allowed are {_allowed(kind, line['loc'])}" if unknown else line["msg"]
                self.wrong(".".join([where, *map(str, line["loc"])]), said)
            return None

    def path(self, section: str, key: str, name: str, value: str | None) -> Path | None:
        """`value` relative to the file it stands in; `builtin:<name>` is a model that comes with the generator."""
        if value is None:
            return None
        plain = value.removeprefix("builtin:")
        path = BUILT_IN / plain if plain != value else self.bases[section, key] / Path(value).expanduser()
        if not path.exists():
            self.wrong(f"{section}.{key}.{name}", f"{path} does not exist")
            return None
        return path.absolute()


def _allowed(kind: type[BaseModel], where: tuple[int | str, ...]) -> str:
    """The keys of the table that holds the key at `where`."""
    for name in where[:-1]:
        field = kind.model_fields.get(str(name))  # absent for the name of a table that people choose
        inner = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        kind = next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), kind)
    return ", ".join(kind.model_fields)


def read_tables(path: Path) -> Table:
    """The tables of a registry file; raises RegistryError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegistryError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RegistryError([f"{path}: not a TOML file: {error}"]) from error


def section_of(tables: Table, section: str) -> Table:
    """The tables of one section; none when it is not made of tables."""
    found = tables.get(section, {})
    return found if isinstance(found, dict) else {}
