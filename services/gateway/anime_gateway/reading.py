"""Reads stretches of a stream exactly: what is not there yet is waited for, what is gone is said.

A direct get is answered by any replica of a stream, also by one that has not stored the newest messages yet: to it they
do not exist, and an empty answer proves nothing. What does is the leader's word (its stream state) on which sequences
there are, and the sequences themselves: a replica stores them in order, so a later one proves those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from anime_common.bus import Bus, Stored, StreamState
from anime_common.outcomes import Unavailable

PATIENCE = 2.0
"""How long a replica may lag behind what its leader has, in seconds, before a reader gives up for now."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


class Gone(Exception):
    """Messages of a stretch have left the stream; `state` is what it holds now."""

    def __init__(self, stream: str, state: StreamState) -> None:
        super().__init__(f"{stream} holds {state.first} to {state.last}")
        self.state = state


async def stretch(bus: Bus, stream: str, after: int, until: int) -> AsyncIterator[list[Stored]]:
    """Every message of (after, until] in order, page by page; a single one that was deleted is passed over.

    Raises Gone when the beginning or the end is not in the stream any more, Unavailable when it cannot be read now.
    """
    position, waited, pause = after, 0.0, _FIRST_PAUSE
    while position < until:
        page = await bus.read(stream, position + 1)
        if not page or page[0].sequence > position + 1:
            state = await bus.stream_state(stream)
            if state.first > position + 1 or state.last < until:
                raise Gone(stream, state)
        if page:
            waited, pause = 0.0, _FIRST_PAUSE
            position = page[-1].sequence
            if wanted := [stored for stored in page if stored.sequence <= until]:
                yield wanted
        elif waited < PATIENCE:
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, _LONGEST_PAUSE)
        else:
            raise Unavailable(f"{stream} has {position + 1}, but no replica that was asked has it yet")
