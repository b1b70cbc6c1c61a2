"""What changing the model costs: both in memory, the other one's weights parked, or read again from the disk.

The two models are one checkpoint under two keys: as many bytes each, in weights of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from anime_common.contracts.vocabulary import Phase
from tests.bench.generator.audit import AuditError, Run
from tests.bench.generator.subjects import Subject, second
from tests.bench.generator.timing import Lap, Range
from tests.bench.generator.workshop import AtWork, at_work, configuration
from tests.bench.tables import Result, Table

ROOM = 1.5
"""Models of this size that a real card is left room for."""
RESERVE = 0.15
"""Of a card, what models leave free."""
ON_A_CPU = (
    "On a CPU weights are never parked: both tiers would be the same memory. That row shows the engine's code on the"
    " simulated card, whose memory is the machine's too: copies from memory to memory, one model out and one in. The"
    " files that are read again are in the system's cache, in half precision, so that reading can take less than that."
)


COLUMNS = ("the other model", "device", "switch ms, median", "lowest", "highest", "s, switch and picture", "CPU s")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model that is not in use waits: `tier` as the engine tells it, None when it must be read again."""

    name: str
    tier: str | None
    host_cache: int | None


RESIDENT = Place("both in the device's memory", "device", None)
PARKED = Place("weights parked in the machine's memory", "host", 1 << 40)
RELOADED = Place("read again from the disk", None, 0)


def switching(subject: Subject) -> Result:
    """How much longer a picture takes because the model before it was another one."""
    rows: list[tuple[str | float | None, ...]] = []
    numbers: dict[str, float] = {}
    remarks = []
    size, drawn = 0, 0
    for place in (RESIDENT, PARKED, RELOADED):
        with _arranged(subject, place, size) as (engine, device):
            size, laps = _turns(subject, engine, place)
        drawn += len(laps)
        if not laps:
            remarks.append(f"There is no memory for this: {place.name}.")
            rows.append((place.name, device, None, None, None, None, None))
            continue
        loading = Range.of(1000 * run.timings[Phase.LOADING] for _, run in laps)
        whole, cpu = Range.of(lap.wall for lap, _ in laps), Range.of(lap.cpu for lap, _ in laps)
        rows.append((place.name, device, loading.median, loading.low, loading.high, whole.median, cpu.median))
        numbers[f"switch ms, {place.tier or 'disk'}"] = loading.median
    if not drawn:
        raise AuditError("no switch could be arranged: see how much memory is free")
    numbers["model MB"] = size / (1 << 20)
    if not subject.device.startswith("cuda"):
        remarks.append(ON_A_CPU)
    remarks.append(
        f"Each model takes {numbers['model MB']:,.0f} MB. Audit: {drawn} pictures; before each of them the models lay"
        " where the row says, and afterwards they had changed places."
    )
    table = Table(COLUMNS, rows)
    return Result("switch", "Changing the model", numbers=numbers, tables=[table], remarks=remarks)


def _turns(subject: Subject, engine: AtWork, place: Place) -> tuple[int, list[tuple[Lap, Run]]]:
    """Draw with one model after the other; the bytes of one, and the runs of which each began with a switch.

    No runs when there is not memory enough for the first model to lie at that place.
    """
    first, other = subject.spec.key, second(subject).key
    size = engine.prepare(first).bytes
    engine.prepare(other)
    found: list[tuple[Lap, Run]] = []
    if engine.tier(first) != place.tier:
        return size, found
    for number in range(subject.amount.switches + 2):
        key, left = (first, other) if number % 2 == 0 else (other, first)
        if engine.tier(key) != place.tier or engine.tier(left) != "device":
            raise AuditError(f"{key} is in {engine.tier(key)} before the switch, {left} in {engine.tier(left)}")
        lap, run = engine.draw(subject.settings(**subject.small, model=key, seed=13000 + number))
        loaded = () if place.tier == "device" else (key,)
        if run.loaded != loaded or engine.tier(key) != "device" or engine.tier(left) != place.tier:
            raise AuditError(f"{run.loaded} were loaded, not {loaded}; {left} is in {engine.tier(left)} now")
        if number >= 2:  # the first ones of each warm up what loading leaves cold
            found.append((lap, run))
    return size, found


@contextmanager
def _arranged(subject: Subject, place: Place, size: int) -> Iterator[tuple[AtWork, str]]:
    """An engine where a model that is not in use comes to lie at that place; and what the device is called."""
    specs = [subject.spec, second(subject)]
    if place is RESIDENT:
        with at_work(configuration(subject.device, specs)) as engine:
            yield engine, subject.device
    elif subject.device.startswith("cuda"):
        with at_work(configuration(subject.device, specs, place.host_cache)) as engine, _ballast(subject.device, size):
            yield engine, f"{subject.device}, room for one"
    else:
        known = [spec.model_copy(update={"memory": size}) for spec in specs]
        megabytes = (2 * size >> 20) + 1
        with at_work(configuration(f"simulated:{megabytes}", known, _cache(place, size))) as engine:
            yield engine, f"simulated, {megabytes:,} MB"


def _cache(place: Place, size: int) -> int | None:
    return None if place.host_cache is None else min(place.host_cache, 2 * size)


@contextmanager
def _ballast(device: str, size: int) -> Iterator[None]:
    """Take so much of a real card that one model fits and two do not."""
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    wanted = ballast_bytes(free, total, size)
    taken: Any = torch.empty(wanted, dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


def ballast_bytes(free: int, total: int, size: int) -> int:
    """What to take of a card so that models of `size` bytes fit once; 0 when they fit only once anyway."""
    return max(int(free - RESERVE * total - ROOM * size), 0)
