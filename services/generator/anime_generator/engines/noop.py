"""An engine without a model, for tests and benchmarks: it draws a plain picture and misbehaves on request.

Directives stand in the registry (`[models.<key>.options]`) or in the prompt after `noop:`, as `name=value` words:

- `load_ms`, `encode_ms`, `step_ms`, `decode_ms`: how long each takes; `copy_ms`: coming back from the host tier;
- `fail=oom|retryable|permanent|poisoned`, with `fail_at=<step>` (0, the default, is before the first step);
- `hang_at=<step>`, `crash_at=<step>`: stop answering, or end the process, when that step is due;
- `hold_at=<step>` with `hold=<file>`: wait at that step while the file exists;
- `attempts=<n>`: misbehave in the first n attempts of a job only (default: always).
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from PIL import Image

from anime_common.contracts.vocabulary import Phase, Sampler
from anime_generator.engines.protocol import (
    NO_INPUTS,
    OUT_OF_MEMORY,
    USUAL,
    Cancelled,
    Drawn,
    EngineError,
    PhaseBegan,
    Previewed,
    Stepped,
    plan_passes,
    wanted,
)
from anime_generator.memory import Demand, DeviceFaultError, OutOfMemoryError

if TYPE_CHECKING:
    from uuid import UUID

    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, EngineOptions, Inputs, Manner, OnProgress, Picture
    from anime_generator.registry import ModelSpec, Option

CRASH_STATUS = 70
TICK = 0.002

FAILURES: dict[str, tuple[str, bool]] = {
    "oom": (OUT_OF_MEMORY, False),
    "retryable": ("engine_error", False),
    "permanent": ("bad_settings", False),
    "poisoned": ("device_error", True),
}
"""By the value of `fail`: code, poisoned."""


@dataclass(frozen=True, slots=True)
class Directives:
    """How to behave; durations in milliseconds, steps counted from 1, -1 is never."""

    load_ms: float = 0.0
    copy_ms: float = 0.0
    encode_ms: float = 0.0
    step_ms: float = 0.0
    decode_ms: float = 0.0
    fail: str = ""
    fail_at: int = 0
    hang_at: int = -1
    crash_at: int = -1
    hold_at: int = -1
    hold: str = ""
    attempts: int = 0

    def behaving(self) -> Directives:
        """The same speeds without any fault."""
        return replace(self, fail="", hang_at=-1, crash_at=-1)


def read_directives(options: dict[str, Option], prompt: str = "") -> Directives:
    """Directives of a registry entry and of a prompt, which wins; raises EngineError on unknown or malformed ones."""
    words = prompt.partition("noop:")[2].replace(",", " ").split()
    given: dict[str, Option] = {**options, **dict(word.split("=", 1) for word in words if "=" in word)}
    known = asdict(Directives())
    for name, value in given.items():
        if name not in known:
            raise EngineError("bad_settings", f"noop: there is no directive {name!r}")
        kind = type(known[name])
        try:
            known[name] = kind(value)
        except ValueError as error:
            raise EngineError("bad_settings", f"noop: {name}={value!r} is no {kind.__name__}") from error
    directives = Directives(**known)
    if directives.fail and directives.fail not in FAILURES:
        raise EngineError("bad_settings", f"noop: fail is one of {', '.join(FAILURES)}")
    return directives


def _behaviour(spec: ModelSpec, request: OfferedJob) -> Directives:
    directives = read_directives(spec.options, request.settings.prompt)
    if directives.attempts and request.attempt > directives.attempts:
        return directives.behaving()
    return directives


class NoopEngine:
    """See the module's text."""

    def __init__(self, device: Device, options: EngineOptions) -> None:
        self._device = device
        self._options = options
        self._resident: set[str] = set()
        self._offloaded: set[str] = set()

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """Every sampler is as good as any other."""
        return spec.info(tuple(Sampler))

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Take the memory that the registry names, from a simulated device; `warm_up` changes nothing."""
        del warm_up
        directives = read_directives(spec.options)
        if spec.key not in self._resident:
            copied = spec.key in self._offloaded
            self._offloaded.discard(spec.key)
            with _translated():
                self._device.demand(Demand(spec.key, Phase.LOADING))
                self._device.take(spec.key, spec.memory)
            time.sleep((directives.copy_ms if copied else directives.load_ms) / 1000)
            self._resident.add(spec.key)
        return spec.memory

    def offload(self, key: str) -> bool:
        """Give the device's memory back and remember the model."""
        if key not in self._resident:
            return False
        self._resident.discard(key)
        self._offloaded.add(key)
        self._device.give_back(key)
        return True

    def generate(
        self,
        spec: ModelSpec,
        requests: Sequence[OfferedJob],
        on_progress: OnProgress,
        cancel: Cancel,
        manner: Manner = USUAL,
        inputs: Inputs = NO_INPUTS,  # noqa: ARG002 - it announces that it takes none
    ) -> None:
        """Draw plain pictures, as slowly and as badly as the directives say."""
        behaviour = {request.attempt_id: _behaviour(spec, request) for request in requests}
        for pictures in plan_passes(requests, spec.batch_limit, manner):
            try:
                with _translated():
                    _Pass(self._device, self._options, behaviour, on_progress, cancel).draw(
                        spec.key, pictures, requests[0].settings, economical=manner.economical
                    )
            except Cancelled:
                continue

    def unload(self, key: str) -> None:
        """Give the memory back."""
        self._resident.discard(key)
        self._offloaded.discard(key)
        self._device.give_back(key)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One forward pass, with what it needs."""

    device: Device
    options: EngineOptions
    behaviour: Mapping[UUID, Directives]
    tell: OnProgress
    cancel: Cancel

    def draw(self, model: str, pictures: tuple[Picture, ...], settings: Settings, *, economical: bool) -> None:
        """Draw these pictures, all of one size; raises Cancelled when nobody wants them."""
        left = self._left(pictures)
        demand = Demand(model, Phase.ENCODING, 1, settings.width * settings.height, 0, economical)
        self._begin(Phase.ENCODING, left)
        self.device.demand(demand)
        _pause(max(each.encode_ms for each in self._directives(left)), left, self.cancel)
        self._begin(Phase.SAMPLING, self._left(left))
        self._sample(left, settings.steps, replace(demand, phase=Phase.SAMPLING, pictures=len(left)))
        left = self._left(left)
        self._begin(Phase.DECODING, left)
        for picture in left:
            self.device.demand(replace(demand, phase=Phase.DECODING))
            _pause(self.behaviour[picture.attempt_id].decode_ms, (picture,), self.cancel)
            if not self.cancel.asked(picture.attempt_id):
                self.tell(Drawn(picture, Image.new("RGB", (settings.width, settings.height), _colour(picture.seed))))

    def _begin(self, phase: Phase, pictures: tuple[Picture, ...]) -> None:
        self.tell(PhaseBegan(phase, pictures))

    def _left(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        left = wanted(pictures, self.cancel)
        if not left:
            raise Cancelled
        return left

    def _directives(self, pictures: tuple[Picture, ...]) -> tuple[Directives, ...]:
        attempts = dict.fromkeys(picture.attempt_id for picture in pictures)
        return tuple(self.behaviour[attempt] for attempt in attempts)

    def _sample(self, pictures: tuple[Picture, ...], steps: int, demand: Demand) -> None:
        directives = self._directives(pictures)
        for step in range(1, steps + 1):
            self._left(pictures)
            self.device.demand(replace(demand, step=step))
            for each in directives:
                _misbehave(each, step, pictures, self.cancel)
            _pause(max(each.step_ms for each in directives), pictures, self.cancel)
            self.tell(Stepped(pictures, step, steps))
            if step % self.options.preview_every == 0 and step < steps:
                for picture in pictures:
                    self.tell(Previewed(picture, _jpeg(picture.seed)))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the simulated card's errors into ours."""
    try:
        yield
    except OutOfMemoryError as error:
        raise EngineError(OUT_OF_MEMORY, f"out of memory: {error}") from error
    except DeviceFaultError as error:
        raise EngineError("device_error", str(error), poisoned=True) from error


def _misbehave(directives: Directives, step: int, pictures: tuple[Picture, ...], cancel: Cancel) -> None:
    if directives.crash_at == step:
        os._exit(CRASH_STATUS)
    if directives.hang_at == step:
        _hang()
    if directives.fail and step == max(directives.fail_at, 1):
        code, poisoned = FAILURES[directives.fail]
        raise EngineError(code, f"noop: {directives.fail} at step {step}", poisoned=poisoned)
    while directives.hold_at == step and Path(directives.hold).exists():
        if not wanted(pictures, cancel):
            raise Cancelled
        time.sleep(TICK)


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def _pause(milliseconds: float, pictures: tuple[Picture, ...], cancel: Cancel) -> None:
    """Take that long, unless nobody wants the pictures any more."""
    end = time.monotonic() + milliseconds / 1000
    while (left := end - time.monotonic()) > 0 and wanted(pictures, cancel):
        time.sleep(min(left, 0.02))


def _colour(seed: int) -> tuple[int, int, int]:
    return seed * 53 % 256, seed * 101 % 256, seed * 197 % 256


def _jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), _colour(seed)).save(buffer, "JPEG")
    return buffer.getvalue()
