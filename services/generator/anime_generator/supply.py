"""Brings the pictures that jobs begin with: asks files where they lie, reads them, makes sure that they are whole."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import structlog

from anime_common import rpc
from anime_common.artifacts import Missing
from anime_common.contracts.files import GET_FILE, FileRef, FileView
from anime_common.contracts.generation import MAX_SIDE
from anime_common.contracts.vocabulary import PICTURE_TYPES
from anime_common.outcomes import Refused, Unavailable
from anime_generator import wire
from anime_generator.model import Failure
from anime_generator.wire import named

if TYPE_CHECKING:
    from anime_common.artifacts import Artifacts
    from anime_common.bus import Bus
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Supplies:
    """What jobs begin with, the bytes of all inputs one after another in `blob`; and which attempts cannot have it."""

    inputs: tuple[wire.Input, ...] = ()
    blob: bytes = b""
    failures: Mapping[UUID, Failure] = field(default_factory=dict)


NOTHING = Supplies()


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file whose bytes are those that files has taken in."""

    view: FileView
    data: bytes

    def told(self) -> wire.Input:
        """As the engine process is told of it."""
        view = self.view
        return wire.Input(file_id=view.id, sha256=view.sha256, media_type=view.media_type, size=view.size)


@dataclass(frozen=True, slots=True)
class Supply:
    """Brings inputs, waiting for a files service or an artifact store that is away for at most `patience` seconds.

    `limit` is in bytes, for all inputs of one run.
    """

    bus: Bus
    artifacts: Artifacts
    patience: float
    limit: int = wire.MAX_BLOB

    async def bring(self, jobs: Sequence[OfferedJob], wanted: Callable[[], bool]) -> Supplies:
        """Everything that these jobs begin with, each file once; does not wait on once `wanted()` is false."""
        files = tuple(dict.fromkeys(file_id for job in jobs for file_id in named(job.settings).values()))
        if not files:
            return NOTHING
        looked = await asyncio.gather(*(self._find(each, wanted) for each in files))
        views = self._within_limit(dict(zip(files, looked, strict=True)))
        read = await asyncio.gather(*(self._read(view, wanted) for view in views.values()))
        found = dict(zip(files, read, strict=True))
        failures = {job.attempt_id: problem for job in jobs if (problem := _problem(job.settings, found)) is not None}
        needed = {each for job in jobs if job.attempt_id not in failures for each in named(job.settings).values()}
        whole = [each for file_id, each in found.items() if file_id in needed and isinstance(each, _Whole)]
        return Supplies(tuple(each.told() for each in whole), b"".join(each.data for each in whole), failures)

    async def _find(self, file_id: UUID, wanted: Callable[[], bool]) -> FileView | Failure:
        """What files knows of a file that is a picture, or why there is none."""

        async def ask() -> FileView | Failure:
            try:
                view = await rpc.call(self.bus, GET_FILE, FileRef(id=file_id))
            except Refused as error:
                if error.status == 404:
                    return _missing(file_id)
                raise Unavailable(error.message) from error
            if view.media_type not in PICTURE_TYPES:
                taken = ", ".join(PICTURE_TYPES)
                return _unusable(f"the file {file_id} is {view.media_type}, not a picture ({taken})")
            return view

        return await self._patiently(file_id, ask, wanted)

    def _within_limit(self, views: dict[UUID, FileView | Failure]) -> dict[UUID, FileView | Failure]:
        """The same, without those that are too large together with the ones before them."""
        total, kept = 0, dict(views)
        for file_id, view in views.items():
            if isinstance(view, FileView):
                total += view.size
                if total > self.limit:
                    most = f"at most {self.limit} bytes are taken for one run"
                    kept[file_id] = _unusable(f"the file {file_id} is too large with its {view.size} bytes: {most}")
        return kept

    async def _read(self, view: FileView | Failure, wanted: Callable[[], bool]) -> _Whole | Failure:
        """A file with its bytes, just as files has taken them in."""
        if isinstance(view, Failure):
            return view

        async def get() -> _Whole | Failure:
            try:
                data = await self.artifacts.get(view.key)
            except Missing:
                return _missing(view.id)
            if len(data) != view.size or await asyncio.to_thread(_sha256, data) != view.sha256:
                return _unusable(f"the file {view.id} is damaged: its bytes are not those that were filed")
            return _Whole(view, data)

        return await self._patiently(view.id, get, wanted)

    async def _patiently(
        self, file_id: UUID, get: Callable[[], Awaitable[T | Failure]], wanted: Callable[[], bool]
    ) -> T | Failure:
        """Try again while whoever has it is away."""
        give_up, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return await get()
            except (Unavailable, OSError) as error:
                if not wanted() or time.monotonic() + pause > give_up:
                    text = f"the file {file_id} cannot be had now: {error}"
                    return Failure("input_unavailable", text)
                log.warning("input_waits", file_id=str(file_id), error=str(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def _problem(settings: Settings, found: Mapping[UUID, _Whole | Failure]) -> Failure | None:
    """Why a job cannot be drawn, if so; names the field."""
    for name, file_id in named(settings).items():
        file = found[file_id]
        if isinstance(file, Failure):
            return replace(file, message=f"{name}: {file.message}")
        if name == "init_image" and _beyond(settings, file.view):
            pixels = f"{file.view.width} x {file.view.height} pixels"
            text = f"the file {file_id} of {pixels} would be enlarged beyond {MAX_SIDE} a side"
            return _unusable(f"{name}: {text}")
    return None


def _beyond(settings: Settings, view: FileView) -> bool:
    """Whether a picture that is enlarged as it is becomes larger than any that is made here."""
    if settings.sampled() or settings.upscale is None:
        return False
    return round(max(view.width, view.height) * settings.upscale.factor) > MAX_SIDE


def _missing(file_id: UUID) -> Failure:
    return Failure("input_missing", f"there is no file {file_id} in the library")


def _unusable(text: str) -> Failure:
    return Failure("input_unusable", text)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
