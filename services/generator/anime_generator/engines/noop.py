"""An engine without a model, for tests and benchmarks: it draws a plain picture and misbehaves on request.

Directives stand in the registry (`[models.<key>.options]`) or in the prompt after `noop:`, as `name=value` words:

- `load_ms`, `encode_ms`, `step_ms`, `decode_ms`: how long each takes;
- `fail=oom|retryable|permanent|poisoned`, with `fail_at=<step>` (0, the default, is before the first step);
- `hang_at=<step>`, `crash_at=<step>`: stop answering, or end the process, when that step is due;
- `hold_at=<step>` with `hold=<file>`: wait at that step while the file exists;
- `attempts=<n>`: misbehave in the first n attempts of a job only (default: always).
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from PIL import Image

from anime_common.contracts.vocabulary import Phase, Sampler
from anime_generator.device import OutOfMemoryError
from anime_generator.engines.protocol import (
    Cancelled,
    Drawn,
    EngineError,
    PhaseBegan,
    Previewed,
    Stepped,
    plan_passes,
    wanted,
)

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, EngineOptions, OnProgress, Picture
    from anime_generator.registry import ModelSpec, Option

CRASH_STATUS = 70
TICK = 0.002

FAILURES: dict[str, tuple[str, bool, bool]] = {
    "oom": ("out_of_memory", True, False),
    "retryable": ("engine_error", True, False),
    "permanent": ("bad_settings", False, False),
    "poisoned": ("device_error", True, True),
}
"""By the value of `fail`: code, retryable, poisoned."""


@dataclass(frozen=True, slots=True)
class Directives:
    """How to behave; durations in milliseconds, steps counted from 1, -1 is never."""

    load_ms: float = 0.0
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
            raise EngineError("bad_settings", f"noop: there is no directive {name!r}", retryable=False)
        kind = type(known[name])
        try:
            known[name] = kind(value)
        except ValueError as error:
            raise EngineError(
                "bad_settings", f"noop: {name}={value!r} is no {kind.__name__}", retryable=False
            ) from error
    directives = Directives(**known)
    if directives.fail and directives.fail not in FAILURES:
        raise EngineError("bad_settings", f"noop: fail is one of {', '.join(FAILURES)}", retryable=False)
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

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """Every sampler is as good as any other."""
        return spec.info(tuple(Sampler))

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Take the memory that the registry names, from a simulated device; `warm_up` changes nothing."""
        del warm_up
        directives = read_directives(spec.options)
        if spec.key not in self._resident:
            try:
                self._device.take(spec.key, spec.memory)
            except OutOfMemoryError as error:
                raise EngineError("out_of_memory", str(error), retryable=True) from error
            time.sleep(directives.load_ms / 1000)
            self._resident.add(spec.key)
        return spec.memory

    def generate(
        self, spec: ModelSpec, requests: Sequence[OfferedJob], on_progress: OnProgress, cancel: Cancel
    ) -> None:
        """Draw plain pictures, as slowly and as badly as the directives say."""
        behaviour = {request.attempt_id: _behaviour(spec, request) for request in requests}
        settings = {request.attempt_id: request.settings for request in requests}
        steps = requests[0].settings.steps
        for pictures in plan_passes(requests, spec.batch_limit):
            left = wanted(pictures, cancel)
            if not left:
                continue
            directives = tuple(behaviour[attempt] for attempt in dict.fromkeys(picture.attempt_id for picture in left))
            on_progress(PhaseBegan(Phase.ENCODING, left))
            _pause(max(each.encode_ms for each in directives), left, cancel)
            on_progress(PhaseBegan(Phase.SAMPLING, left))
            try:
                self._sample(left, directives, steps, on_progress, cancel)
            except Cancelled:
                continue
            if left := wanted(left, cancel):
                on_progress(PhaseBegan(Phase.DECODING, left))
            for picture in left:
                _pause(behaviour[picture.attempt_id].decode_ms, (picture,), cancel)
                if not cancel.asked(picture.attempt_id):
                    size = settings[picture.attempt_id].width, settings[picture.attempt_id].height
                    on_progress(Drawn(picture, Image.new("RGB", size, _colour(picture.seed))))

    def unload(self, key: str) -> None:
        """Give the memory back."""
        self._resident.discard(key)
        self._device.give_back(key)

    def _sample(
        self,
        pictures: tuple[Picture, ...],
        directives: Sequence[Directives],
        steps: int,
        on_progress: OnProgress,
        cancel: Cancel,
    ) -> None:
        for step in range(1, steps + 1):
            if not wanted(pictures, cancel):
                raise Cancelled
            for each in directives:
                _misbehave(each, step, pictures, cancel)
            _pause(max(each.step_ms for each in directives), pictures, cancel)
            on_progress(Stepped(pictures, step, steps))
            if step % self._options.preview_every == 0 and step < steps:
                for picture in pictures:
                    on_progress(Previewed(picture, _jpeg(picture.seed)))


def _misbehave(directives: Directives, step: int, pictures: tuple[Picture, ...], cancel: Cancel) -> None:
    if directives.crash_at == step:
        os._exit(CRASH_STATUS)
    if directives.hang_at == step:
        _hang()
    if directives.fail and step == max(directives.fail_at, 1):
        code, retryable, poisoned = FAILURES[directives.fail]
        raise EngineError(code, f"noop: {directives.fail} at step {step}", retryable=retryable, poisoned=poisoned)
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
