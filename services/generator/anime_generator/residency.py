"""Which models stay in memory, and in which tier. Pure.

Two tiers: the device, where a model can draw, and the machine's own memory, from where it comes back by a copy. Models
go least recently used first; preloaded ones after all others, pinned ones last. Nothing goes that could stay: while
two models fit together, neither ever makes room for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anime_generator.memory import Memory

CARD_SHARE = 0.85
"""Of a card's memory, what models may occupy: the rest is for activations."""
HOST_SHARE = 0.5
"""The same of the machine's own memory when that is the device: everything else lives in it too."""
CARD_RESERVE = 0.15
HOST_RESERVE = 0.1
"""Of the memory, what loading a model must leave free, whoever has taken the rest."""


class Tier(StrEnum):
    """Where the weights of a model lie."""

    DEVICE = "device"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Held:
    """A model in memory: bytes (measured once it was loaded), when it was last used, what protects it."""

    key: str
    size: int
    tier: Tier
    last_used: float
    preloaded: bool = False
    pinned: bool = False

    @property
    def worth(self) -> tuple[int, float, str]:
        """What is worth least goes first."""
        return (2 if self.pinned else 1 if self.preloaded else 0, self.last_used, self.key)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that models may occupy in each tier. No host tier when that is 0.

    While two models change places both are in the host tier for a moment: then there may be `peak` bytes in it, which
    is `host` unless the machine is known to have more.
    """

    device: int
    host: int = 0
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A model changes its tier; it is dropped when `to` is None."""

    key: str
    to: Tier | None


def device_limit(memory: Memory, held: int, *, host: bool) -> int:
    """Bytes that models may occupy on the device, of which they hold `held`.

    A share of all memory, and never so much that what other programs hold leaves no reserve. Nothing in it depends on
    which models are resident, so that models which fit together keep doing so.
    """
    share, reserve = (HOST_SHARE, HOST_RESERVE) if host else (CARD_SHARE, CARD_RESERVE)
    return max(min(int(memory.total * share), held + memory.free - int(memory.total * reserve)), 0)


def host_limits(memory: Memory, held: int, configured: int) -> tuple[int, int]:
    """Bytes of the machine's memory that weights may wait in, and that there may be for a moment.

    The first is as configured, the second what there is; neither is so much that other programs have no reserve.
    """
    there_is = max(held + memory.free - int(memory.total * HOST_RESERVE), 0)
    return min(configured, there_is), there_is


def make_room(held: Iterable[Held], key: str, size: int, limits: Limits) -> tuple[Move, ...]:
    """What must move so that `key` can come to the device with `size` bytes; nothing when it is there.

    Moves are in the order in which to make them: no limit is passed after any of them. A model larger than the device's
    limit has the device to itself: it is tried rather than refused on an estimate.
    """
    models = tuple(held)
    on_device = [each for each in models if each.tier is Tier.DEVICE]
    if any(each.key == key for each in on_device):
        return ()
    excess = sum(each.size for each in on_device) + size - limits.device
    return _moves(models, _least_worth(on_device, excess), limits, coming=key)


def give_up(held: Iterable[Held], wanted: int, limits: Limits) -> tuple[Move, ...]:
    """What must move so that `wanted` bytes of the device become free, as far as models hold so much."""
    models = tuple(held)
    on_device = [each for each in models if each.tier is Tier.DEVICE]
    return _moves(models, _least_worth(on_device, wanted), limits)


def clear(held: Iterable[Held], keep: str, limits: Limits) -> tuple[Move, ...]:
    """What must move so that `keep` has the device to itself."""
    models = tuple(held)
    victims = sorted((each for each in models if each.tier is Tier.DEVICE and each.key != keep), key=_worth)
    return _moves(models, victims, limits, coming=keep)


def trim(held: Iterable[Held], limits: Limits) -> tuple[Move, ...]:
    """What the host tier must drop because its limit has shrunk."""
    return _moves(tuple(held), (), limits)


def _worth(model: Held) -> tuple[int, float, str]:
    return model.worth


def _least_worth(models: Iterable[Held], excess: int) -> Sequence[Held]:
    """The models to give up for `excess` bytes, least worth first. None of them could stay."""
    chosen: list[Held] = []
    for each in sorted(models, key=_worth):
        if excess <= 0:
            break
        chosen.append(each)
        excess -= each.size
    for each in sorted(chosen, key=_worth, reverse=True):
        if excess + each.size <= 0:
            chosen.remove(each)
            excess += each.size
    return chosen


def _moves(models: Sequence[Held], victims: Sequence[Held], limits: Limits, coming: str = "") -> tuple[Move, ...]:
    """Victims wait in the host tier when they are worth more than what must be dropped there.

    The model that comes from there to the device is there until they have left the device.
    """
    waiting = [each for each in models if each.tier is Tier.HOST and each.key != coming]
    leaving = sum(each.size for each in models if each.tier is Tier.HOST and each.key == coming)
    room = min(limits.host, (limits.host if limits.peak is None else limits.peak) - leaving)
    stay: set[str] = set()
    for each in sorted([*victims, *waiting], key=_worth, reverse=True):
        if limits.host > 0 and each.size <= room:
            stay.add(each.key)
            room -= each.size
    dropped = [Move(each.key, None) for each in sorted(waiting, key=_worth) if each.key not in stay]
    return (*dropped, *(Move(each.key, Tier.HOST if each.key in stay else None) for each in victims))
