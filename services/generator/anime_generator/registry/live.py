"""The registry in force: its files are looked at every few seconds, and what changed well takes the old one's place."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from anime_common.clock import happens
from anime_generator import metrics
from anime_generator.registry.files import stamp
from anime_generator.registry.load import load_registry
from anime_generator.registry.reading import RegistryError
from anime_generator.registry.specs import ModelSpec, Registry

log = structlog.get_logger(__name__)

SETTLE = 0.1
"""Seconds for which a changed file must stay as it is before it is read."""

Fingerprint = tuple[object, ...]


class Catalogue(Protocol):
    """What a worker has, as it is now: files of its own, or what a server has that draws for it."""

    @property
    def current(self) -> Registry:
        """What can be drawn with."""

    @property
    def backlog(self) -> int | None:
        """Prompts of others that wait at the server; None where there is none."""

    def engine(self, model: str) -> str:
        """The engine of a model; empty when the model is not there (any more)."""

    def warnings(self) -> tuple[str, ...]:
        """What somebody should mend, for heartbeats."""

    async def follow(self, interval: float, changed: Callable[[], None], stop: asyncio.Event) -> None:
        """Look every `interval` seconds until `stop`; `changed` hears of every difference."""


class LiveRegistry:
    """Holds the last registry without a mistake. `problems` are those of the file as it is now; it is not in force."""

    def __init__(self, path: Path | None, engines: frozenset[str]) -> None:
        """Read the registry; raises RegistryError."""
        self._path = path
        self._engines = engines
        self.current = load_registry(path, engines)
        self.problems: tuple[str, ...] = ()
        self.backlog: int | None = None
        self._seen = self._fingerprint()
        metrics.REGISTRY_PROBLEMS.set(0)

    def engine(self, model: str) -> str:
        """The engine of a model; empty when the model is not there (any more)."""
        spec = self.current.models.get(model)
        return spec.engine if spec is not None else ""

    def warnings(self) -> tuple[str, ...]:
        """What heartbeats tell of a file that cannot be used."""
        return tuple(f"the registry of models is not in force as it stands: {problem}" for problem in self.problems)

    async def follow(self, interval: float, changed: Callable[[], None], stop: asyncio.Event) -> None:
        """Look at the files every `interval` seconds until `stop`; `changed` hears of every swap and refusal."""
        while not await happens(stop, within=interval):
            if await asyncio.to_thread(self.look):
                changed()

    def look(self) -> bool:
        """Read the registry anew if its files changed, or did not serve last time; whether that made a difference.

        Files are read here, outside the event loop; what is in force is swapped by one assignment.
        """
        found = self._fingerprint()
        if found == self._seen and not self.problems:
            return False
        time.sleep(SETTLE)
        if self._fingerprint() != found:
            return False  # still being written: half a file may well be a registry
        self._seen = found
        try:
            fresh = load_registry(self._path, self._engines)
        except RegistryError as error:
            return self._refuse(tuple(error.problems))
        self._seen = (found[0], *_stamps(fresh))
        if fresh == self.current and not self.problems:
            return False
        told = _difference(self.current.models, fresh.models)
        log.info("registry_changed", file=str(self._path), **told)
        self.current, self.problems = fresh, ()
        metrics.REGISTRY_PROBLEMS.set(0)
        return True

    def _refuse(self, problems: tuple[str, ...]) -> bool:
        if problems == self.problems:
            return False
        for problem in problems:
            log.error("registry_refused", problem=problem, in_force="the one from before")
        self.problems = problems
        metrics.REGISTRY_PROBLEMS.set(len(problems))
        return True

    def _fingerprint(self) -> Fingerprint:
        """Changes whenever the owner's file does, or a file that the registry names."""
        if self._path is None:
            return (None, *_stamps(self.current))
        try:
            text = self._path.read_bytes()
        except OSError as error:
            return (error.errno, *_stamps(self.current))
        return (hashlib.sha256(text).hexdigest(), *_stamps(self.current))


def _stamps(registry: Registry) -> tuple[str, ...]:
    return tuple(stamp(path) for path in _named(registry))


def _named(registry: Registry) -> Iterator[Path]:
    for spec in registry.models.values():
        yield from (path for path in (spec.source, spec.vae) if path is not None)
    yield from (lora.source for lora in registry.loras.values())
    yield from (embedding.source for embedding in registry.embeddings.values())


def _difference(old: Mapping[str, ModelSpec], new: Mapping[str, ModelSpec]) -> dict[str, list[str]]:
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(key for key in old.keys() & new.keys() if old[key] != new[key]),
    }
