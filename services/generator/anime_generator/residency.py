"""Which models stay in memory. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anime_generator.device import Memory

CARD_SHARE = 0.85
"""Of a card's memory, what models may occupy: the rest is for activations and other programs."""
HOST_SHARE = 0.5
"""The same for the machine's own memory, which everything else lives in too."""


def budget(memory: Memory, *, host: bool) -> int:
    """Bytes that resident models may occupy."""
    return int(memory.total * (HOST_SHARE if host else CARD_SHARE))


def to_evict(resident: Mapping[str, int], incoming: int, limit: int) -> tuple[str, ...]:
    """The models to give up so that `incoming` more bytes stay within `limit`.

    `resident` is bytes by model, least recently used first; those go first, and no more of them than necessary. A
    model larger than the limit evicts all others: it is tried rather than refused on an estimate.
    """
    excess = sum(resident.values()) + incoming - limit
    evicted: list[str] = []
    for key, size in resident.items():
        if excess <= 0:
            break
        evicted.append(key)
        excess -= size
    return tuple(evicted)
