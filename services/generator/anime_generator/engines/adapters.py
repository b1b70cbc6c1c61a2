"""LoRAs of a resident model: loaded once, switched on for the jobs that name them, taken away without a trace.

They are never merged into the weights: what had been added could not be taken out again bit for bit. A few stay in
memory, switched off, so that jobs that alternate between them load nothing.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from anime_generator.engines.faults import of_the_device
from anime_generator.engines.protocol import EngineError

if TYPE_CHECKING:
    from anime_common.contracts.vocabulary import LoraUse
    from anime_generator.registry import LoraSpec

log = structlog.get_logger(__name__)

KEPT = 4
"""How many LoRAs stay in memory beside a model, unless one job names more."""

_PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A LoRA in memory: the file it came from, and what the pipeline calls it."""

    stamp: str
    name: str


class Adapters:
    """The LoRAs of one pipeline."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._count = 0

    @property
    def loaded(self) -> tuple[str, ...]:
        """The keys of those in memory, least recently used first."""
        return tuple(self._loaded)

    def missing(self, specs: Iterable[LoraSpec], uses: Sequence[LoraUse]) -> tuple[LoraSpec, ...]:
        """What must be loaded before these can be used; raises EngineError naming one that nobody knows."""
        known = {spec.key: spec for spec in specs}
        for use in uses:
            if use.key not in known:
                raise EngineError("unknown_lora", f"loras.{use.key}: this worker does not have it")
        wanted = [known[use.key] for use in uses]
        return tuple(spec for spec in wanted if not self._has(spec))

    def use(self, specs: Iterable[LoraSpec], uses: Sequence[LoraUse]) -> str:
        """Have exactly these at work; returns their fingerprint, empty for none. Raises EngineError."""
        known = {spec.key: spec for spec in specs}
        for spec in self.missing(known.values(), uses):
            self._load(spec)
        for use in uses:
            self._loaded.move_to_end(use.key)
        self._forget_oldest(max(KEPT, len(uses)))
        if not uses:
            if self._loaded:
                self._pipe.disable_lora()
            return ""
        self._pipe.enable_lora()
        self._pipe.set_adapters([self._loaded[use.key].name for use in uses], [use.weight for use in uses])
        return " ".join(f"{use.key}@{known[use.key].stamp}:{use.weight:g}" for use in uses)

    def _has(self, spec: LoraSpec) -> bool:
        loaded = self._loaded.get(spec.key)
        return loaded is not None and loaded.stamp == spec.stamp

    def _load(self, spec: LoraSpec) -> None:
        """Put a LoRA beside the weights, switched off; nothing of it stays when it does not fit."""
        self._drop(spec.key)
        self._count += 1
        name = f"lora{self._count}"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what we want
                self._pipe.load_lora_weights(
                    str(spec.source.parent),
                    weight_name=spec.source.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                )
            fits = any(name in names for names in self._pipe.get_list_adapters().values())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
            self._discard(name)
            if of_the_device(error):
                raise  # what is wrong is not the file
            raise _unusable(spec, f"does not fit this model: {error}") from error
        if not fits:
            self._discard(name)
            raise _unusable(spec, "changes no part that this model has")
        self._settle(name)
        self._loaded[spec.key] = _Loaded(spec.stamp, name)
        log.info("lora_loaded", lora=spec.key, bytes=spec.size)

    def _settle(self, name: str) -> None:
        """Weights of a LoRA come in the precision of their file: they are to be where and as the model's are."""
        for part in (getattr(self._pipe, each, None) for each in _PARTS):
            if part is None:
                continue
            for path, weights in part.named_parameters():
                if name in path.split("."):
                    weights.data = weights.data.to(part.device, part.dtype)

    def _forget_oldest(self, most: int) -> None:
        while len(self._loaded) > most:
            self._drop(next(iter(self._loaded)))

    def _drop(self, key: str) -> None:
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            self._discard(loaded.name)

    def _discard(self, name: str) -> None:
        with contextlib.suppress(ValueError, KeyError):
            self._pipe.delete_adapters(name)
        if not self._loaded:
            self._pipe.unload_lora_weights()


def _unusable(spec: LoraSpec, reason: str) -> EngineError:
    return EngineError("model_unusable", f"loras.{spec.key}: {spec.source.name} {reason}")
