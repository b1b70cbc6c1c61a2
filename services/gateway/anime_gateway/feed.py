"""Both event streams as one live feed without gaps.

Live copies come over core NATS, where any may be lost. Each names its stream and sequence, so a gap is seen at the next
one; a lost tail is seen by comparing with the stream, after every reconnect and periodically. What is missing is read
from the stream. A stream that was replaced, or that lost events which nobody saw, is a reset: only a snapshot helps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from anime_common.bus import ApiError, Bus, Received, Stored, StreamState
from anime_common.clock import happens
from anime_common.messages import Message, Undecodable, decode, read_envelope
from anime_common.outcomes import Unavailable
from anime_common.topology import FACTS, LEDGER, LIVE_PREFIX
from anime_gateway import metrics
from anime_gateway.cursor import Cursor, Mark, incarnation
from anime_gateway.reading import Gone, stretch

log = structlog.get_logger(__name__)

EVENTS_PREFIX = "anime.evt."
ANSWERS = f"{EVENTS_PREFIX}jobs.command_"
ABSENT_RETRY = 0.25


@dataclass(slots=True)
class Place:
    """How far one stream was delivered."""

    created: str
    last: int

    @property
    def mark(self) -> Mark:
        """As a part of a cursor."""
        return Mark(incarnation(self.created), self.last)


@dataclass(slots=True)
class Feed:
    """Delivers every event of both streams once and in order per stream, from where they are when it starts.

    `deliver` gets each event after the feed's `cursor` moved past it; `reset` is called when the feed cannot go on and
    has jumped to the end of the new stream. `overhear` gets every event as soon as it comes, in any order, maybe twice.
    """

    bus: Bus
    deliver: Callable[[Stored], None]
    reset: Callable[[str], None]
    overhear: Callable[[Stored], None]
    check_every: float
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _places: dict[str, Place] = field(default_factory=dict)
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cursor(self) -> Cursor:
        """The place of the feed; only once `ready`."""
        return Cursor(self._places[LEDGER].mark, self._places[FACTS].mark)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the streams until stopped."""
        forget = self.bus.on_reconnect(self._wake.set)
        silence = await self.bus.listen(f"{LIVE_PREFIX}>", self._on_live)
        ending = asyncio.create_task(stop.wait())
        ending.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                self._wake.clear()
                for stream in (LEDGER, FACTS):
                    await self._check(stream)
                if len(self._places) == 2:
                    self.ready.set()
                pause = self.check_every if self.ready.is_set() else ABSENT_RETRY
                await happens(self._wake, within=pause)
        finally:
            ending.cancel()
            forget()
            await silence()

    async def _on_live(self, received: Received) -> None:
        stream, sequence = received.headers.get("Nats-Stream", ""), int(received.headers.get("Nats-Sequence", 0))
        subject = EVENTS_PREFIX + received.subject.removeprefix(LIVE_PREFIX)
        stored = Stored(stream, sequence, subject, received.headers, received.data)
        self.overhear(stored)
        async with self._order:
            place = self._places.get(stream)
            if place is None or sequence <= place.last:
                return
            if sequence > place.last + 1:
                try:
                    await self._repair(stream, place, sequence - 1)
                except Unavailable as error:
                    log.warning("feed_gap_stays", stream=stream, after=place.last, error=str(error))
                    self._wake.set()
                    return
            if sequence == place.last + 1:
                self._pass(place, stored)

    async def _check(self, stream: str) -> None:
        """Compare with the stream's tail, and mend what the live feed missed."""
        before = self._places.get(stream)
        last_before = before.last if before is not None else 0
        try:
            state = await self.bus.stream_state(stream)
        except (Unavailable, ApiError) as error:
            log.info("feed_waits", stream=stream, error=str(error))
            return
        async with self._order:
            place = self._places.get(stream)
            if place is None:
                self._places[stream] = Place(state.created, state.last)
            elif place.created != state.created:
                self._restart(stream, state, "replaced")
            elif state.last < last_before:
                self._restart(stream, state, "cut")
            elif state.last > place.last:
                with contextlib.suppress(Unavailable):
                    await self._repair(stream, place, state.last)

    async def _repair(self, stream: str, place: Place, until: int) -> None:
        """Read what is missing up to `until`; raises Unavailable when it cannot be read now."""
        while place.last < until:
            try:
                async for page in stretch(self.bus, stream, place.last, until):
                    metrics.FEED_REPAIRED.labels(stream=stream).inc(len(page))
                    for stored in page:
                        self.overhear(stored)
                        self._pass(place, stored)
                place.last = until
            except Gone as gone:
                # Events that nobody here saw have left the stream: it is as if it had been replaced.
                first = gone.state.first
                place.last = min(first - 1, until) if first > place.last + 1 else until
                self._tell_reset(stream, "expired")

    def _pass(self, place: Place, stored: Stored) -> None:
        place.last = stored.sequence
        if self.ready.is_set():
            self.deliver(stored)

    def _restart(self, stream: str, state: StreamState, reason: str) -> None:
        self._places[stream] = Place(state.created, state.last)
        self._tell_reset(stream, reason)

    def _tell_reset(self, stream: str, reason: str) -> None:
        log.warning("feed_reset", stream=stream, reason=reason)
        metrics.FEED_RESETS.labels(reason=reason).inc()
        if self.ready.is_set():
            self.reset(f"{stream} was {reason}")


def readable(stored: Stored) -> Message | None:
    """The message of a stored event; None for one that this version does not know."""
    try:
        return decode(read_envelope(stored.subject, stored.headers), stored.data)
    except Undecodable as error:
        log.warning("event_unreadable", stream=stored.stream, sequence=stored.sequence, error=str(error))
        return None
