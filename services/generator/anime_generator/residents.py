"""The models in the memory of this process: carries out what `residency.py` and `pressure.py` decide."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from anime_common.contracts.generator import ResidentModel
from anime_generator import residency
from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError
from anime_generator.memory import in_words
from anime_generator.pressure import Pressure, Thresholds
from anime_generator.residency import Held, Limits, Move, Tier

if TYPE_CHECKING:
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Engine
    from anime_generator.registry import ModelSpec
    from anime_generator.wire import MemoryRules

log = structlog.get_logger(__name__)

HOST_CACHE_SHARE = 0.25
"""Of the machine's memory, what weights may wait in unless the settings say otherwise."""
REMEMBERED = 8
"""How many models that were given up are still told of."""
PRELOADED = "preloaded"
DREW = "drew the last job"
ON_REQUEST = "given up: as ordered"


@dataclass(slots=True)
class _Record:
    """What is known of a model: its size outlives its stay. `tier` is None once it is dropped."""

    spec: ModelSpec
    size: int
    measured: bool = False
    tier: Tier | None = None
    last_used: float = 0.0
    reason: str = ""
    yielded: bool = False

    def held(self, tier: Tier) -> Held:
        """As the policy sees it."""
        spec = self.spec
        return Held(spec.key, self.size, tier, self.last_used, preloaded=spec.preload, pinned=spec.pin)


class Residents:
    """Loads models, and makes room for them. `on_load` hears before a load of so many bytes, `on_change` after it."""

    def __init__(
        self,
        device: Device,
        engines: Mapping[str, Engine],
        rules: MemoryRules,
        on_load: Callable[[str, int], None],
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._engines = engines
        self._rules = rules
        self._on_load = on_load
        self._on_change = on_change
        self._clock = clock
        self._pressure = Pressure(Thresholds(rules.low, rules.high, rules.calm))
        self._records: OrderedDict[str, _Record] = OrderedDict()

    @property
    def resident(self) -> tuple[str, ...]:
        """The models that can draw, least recently used first."""
        return tuple(key for key, record in self._records.items() if record.tier is Tier.DEVICE)

    def told(self) -> tuple[ResidentModel, ...]:
        """Every model in memory or given up lately, as heartbeats tell it; most recently used last."""
        now, wall = self._clock(), datetime.now(UTC)
        return tuple(
            ResidentModel(
                key=key,
                tier=record.tier.value if record.tier else None,
                bytes=record.size,
                measured=record.measured,
                last_used=(wall - timedelta(seconds=now - record.last_used)).replace(microsecond=0),
                preloaded=record.spec.preload,
                pinned=record.spec.pin,
                reason=record.reason,
            )
            for key, record in self._records.items()
            if record.reason
        )

    def use(self, spec: ModelSpec, reason: str, *, warm_up: bool = False) -> None:
        """Make a model the most recently used one, making room for it; on the last resort it gets the device alone.

        Raises EngineError.
        """
        record = self._record(spec)
        if record.tier is not Tier.DEVICE:
            self._bring(record, reason, warm_up=warm_up)
        record.reason, record.last_used, record.yielded = reason, self._clock(), False
        self._records.move_to_end(spec.key)

    def weigh(self) -> None:
        """Take the sizes of models on the device anew: LoRAs stay beside a model after the job that brought them."""
        for record in self._records.values():
            if record.tier is Tier.DEVICE:
                record.size = self._engines[record.spec.engine].load(record.spec)

    def clear_for(self, key: str) -> bool:
        """Leave the device to one model; whether anything had to go."""
        moves = residency.clear(self._held(), key, self._limits())
        self._make(moves, f"made room for {key}, which ran out of memory")
        self._device.release()
        return bool(moves)

    def give_up(self, key: str | None) -> None:
        """Drop a model, or all, from both tiers."""
        going = [each.key for each in self._held() if key in {None, each.key}]
        self._make([Move(each, None) for each in going], ON_REQUEST)
        for each in self._records.values():
            each.yielded = each.yielded and key not in {None, each.spec.key}
        self._device.release()
        self._on_change()

    def reconfigure(self, specs: Mapping[str, ModelSpec]) -> None:
        """Take the registry's new entries; models that are gone, or would be loaded otherwise, are given up."""
        for key, record in list(self._records.items()):
            fresh = specs.get(key)
            if fresh is not None and fresh.loads_like(record.spec):
                record.spec = fresh
                continue
            if record.tier is not None:
                self._engines[record.spec.engine].unload(key)
                log.info("model_moved", model=key, to="nowhere", reason="its entry in the registry has changed")
            del self._records[key]
        self._device.release()

    def look(self) -> bool:
        """Between runs: yield to other programs, bring back what was yielded. Whether anything moved."""
        if self._device.memory().free < self._rules.high * self._device.memory().total:
            self._device.release()  # only then: to get its blocks anew costs the next run a little
        memory, ours = self._device.memory(), self._device.held()
        moved = self._make(residency.trim(self._held(), self._limits()), "given up: the machine's memory is short")
        if wanted := self._pressure.look(memory, ours, self._clock()):
            moves = residency.give_up(self._held(), wanted, self._limits())
            moved |= self._make(moves, f"given up: another program took {in_words(self._pressure.grown)}")
            for move in moves:
                self._records[move.key].yielded = True
            self._device.release()
        elif room := self._pressure.room(memory, self._clock()):
            moved |= self._bring_back(room)
        if moved:
            self._on_change()
        return moved

    def _bring(self, record: _Record, reason: str, *, warm_up: bool) -> None:
        """Load a model. An estimate that was too low, or another program, may need all others to go."""
        spec = record.spec
        self._device.release()
        limits = self._limits()
        self._make(residency.make_room(self._held(), spec.key, record.size, limits), f"made room for {spec.key}")
        error = self._load(record, warm_up=warm_up)
        if error is not None and error.code == OUT_OF_MEMORY and self.clear_for(spec.key):
            error = self._load(record, warm_up=warm_up)
        if error is not None:
            record.reason = f"could not be loaded: {error.message}"
            self._on_change()
            raise error
        record.tier, record.reason = Tier.DEVICE, reason
        self._pressure.settle(self._device.memory(), self._device.held())
        self._on_change()

    def _load(self, record: _Record, *, warm_up: bool) -> EngineError | None:
        """Load, or copy back, a model; why it failed. The error is returned bare: its frames would hold tensors."""
        spec, began = record.spec, time.monotonic()
        self._on_load(spec.key, record.size)
        try:
            record.size = self._engines[spec.engine].load(spec, warm_up=warm_up)
        except EngineError as error:
            log.warning("load_failed", model=spec.key, code=error.code, error=error.message)
            record.tier = None
            return error.bare()
        record.measured = True
        came = "memory" if record.tier is Tier.HOST else "disk"
        seconds = round(time.monotonic() - began, 3)
        log.info("model_loaded", model=spec.key, bytes=record.size, seconds=seconds, source=came)
        return None

    def _bring_back(self, room: int) -> bool:
        """Load what was preloaded and then yielded, as long as nothing has to go for it."""
        for record in [each for each in self._records.values() if each.yielded and _protected(each.spec)]:
            free = self._limits().device - sum(each.size for each in self._held() if each.tier is Tier.DEVICE)
            if record.tier is not Tier.DEVICE and record.size <= min(room, free):
                record.yielded = False
                try:
                    self._bring(record, "preloaded again: there is room", warm_up=False)
                except EngineError:
                    log.warning("not_brought_back", model=record.spec.key)
                record.last_used = self._clock()
                return True
        return False

    def _make(self, moves: Iterable[Move], reason: str) -> bool:
        made = False
        for move in moves:
            record = self._records[move.key]
            engine = self._engines[record.spec.engine]
            kept = move.to is Tier.HOST and engine.offload(move.key)
            if not kept:
                engine.unload(move.key)
            record.tier, record.reason = (Tier.HOST if kept else None), reason
            log.info("model_moved", model=move.key, to=record.tier or "nowhere", reason=reason)
            made = True
        self._forget_oldest()
        return made

    def _limits(self) -> Limits:
        """What each tier may hold now."""
        held = self._held()
        sizes = {tier: sum(each.size for each in held if each.tier is tier) for tier in Tier}
        device = residency.device_limit(self._device.memory(), sizes[Tier.DEVICE], host=self._device.kind == "cpu")
        machine = self._device.host_memory()
        cache = self._rules.host_cache
        cache = int(machine.total * HOST_CACHE_SHARE) if cache is None else min(cache, machine.total)
        return Limits(device, *residency.host_limits(machine, sizes[Tier.HOST], cache))

    def _held(self) -> list[Held]:
        return [record.held(record.tier) for record in self._records.values() if record.tier is not None]

    def _record(self, spec: ModelSpec) -> _Record:
        if spec.key not in self._records:
            self._records[spec.key] = _Record(spec, spec.memory or spec.size)
        return self._records[spec.key]

    def _forget_oldest(self) -> None:
        """Keep telling of a few models that are gone; their sizes stay known."""
        gone = [record for record in self._records.values() if record.tier is None and record.reason]
        for record in gone[:-REMEMBERED]:
            record.reason = ""


def _protected(spec: ModelSpec) -> bool:
    return spec.preload or spec.pin
