"""What one subscription gets, in order: a snapshot, or what it missed; then everything as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import structlog

from anime_common.messages import subject_matches
from anime_common.outcomes import Refused
from anime_common.topology import FACTS, LEDGER
from anime_gateway.cursor import Cursor, Mark, incarnation
from anime_gateway.feed import ANSWERS, EVENTS_PREFIX, readable
from anime_gateway.frames import Frame, encode, frame_of
from anime_gateway.hub import Hub
from anime_gateway.public import ResetData
from anime_gateway.reading import Gone, stretch

if TYPE_CHECKING:
    from anime_common.bus import Stored, StreamState
    from anime_gateway.mailbox import Mailbox
    from anime_gateway.snapshots import Snapshot, Snapshots

log = structlog.get_logger(__name__)

LEDGER_RETRY = 1.0
SETTLED = 1024
"""All but so many of the newest messages of a stream are taken to lie on every replica that does not say otherwise."""

Batches = AsyncGenerator["list[Frame]", None]
"""Frames as they come; an empty batch says that the stream lives."""

Reason = Literal["unknown", "other_stream", "future", "too_old", "too_far", "streams_replaced"]
REASONS: dict[Reason, str] = {
    "unknown": "this id was not made by the gateway",
    "other_stream": "the event streams were replaced since",
    "future": "this id lies after the last event",
    "too_old": "events after this id have expired",
    "too_far": "more happened since than is worth sending one by one",
    "streams_replaced": "the event streams were replaced",
}


class CannotResume(Exception):
    """What a client missed cannot be read any more."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Streams:
    """What all subscriptions share.

    After `heartbeat` seconds of silence an empty batch says that the stream lives. `replay` is the most stored messages
    looked through to resume a client, and `reading` bounds how many resume at a time.
    """

    hub: Hub
    snapshots: Snapshots
    heartbeat: float
    replay: int
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16))


class Subscription:
    """One client's stream, to everything or to one job; `box` is attached to the hub already."""

    def __init__(self, streams: Streams, box: Mailbox) -> None:
        self._streams = streams
        self._hub = streams.hub
        self._box = box
        self._covered: Snapshot | None = None
        self._over = False

    async def follow(self, last_id: str | None, *, ended: bool = False) -> Batches:
        """Batches of frames; an empty one when nothing has happened for a while.

        Ends when the mailbox is closed; the stream of a job ends with the job. `ended` says that it had ended before:
        then a client that saw every event is told the end once more.
        """
        if last_id is None:
            async for frames in self._anew(None):
                yield frames
        else:
            try:
                async for frames in self._missed(last_id):
                    yield frames
            except CannotResume as error:
                async for frames in self._anew(error.reason):
                    yield frames
            if ended and not self._over:
                async for frames in self._anew(None):
                    yield frames
        while not self._over and self._box.closed is None:
            if self._box.reset is None:
                yield self._shown(await self._box.take(self._streams.heartbeat))
            else:
                async for frames in self._anew("streams_replaced"):
                    yield frames

    def _shown(self, frames: list[Frame]) -> list[Frame]:
        """What the snapshot has not said already; of one job, up to its end."""
        shown = [frame for frame in frames if self._covered is None or not self._covered.covers(frame)]
        if self._box.job_id is None:
            return shown
        for index, frame in enumerate(shown):
            if frame.ends:
                self._over = True
                return [*shown[:index], frame.as_last()]
        return shown

    async def _anew(self, reason: Reason | None) -> Batches:
        """A reset if there is a reason, then a snapshot, asked for until the ledger answers."""
        self._box.reset = None
        if reason is not None:
            yield [Frame("reset", encode(ResetData(reason=reason, detail=REASONS[reason])), serial=0)]
        while self._box.closed is None:
            try:
                self._covered = await self._snapshot()
            except Refused as error:
                if error.status < 500:
                    log.info("job_is_gone", job_id=str(self._box.job_id), error=error.message)
                    self._over = True
                    return
                log.info("snapshot_waits", error=error.message)
                yield []
                await asyncio.sleep(LEDGER_RETRY)
            else:
                self._over = self._box.job_id is not None and self._covered.frame.ends
                yield [self._covered.frame.as_last() if self._over else self._covered.frame]
                return

    async def _snapshot(self) -> Snapshot:
        if self._box.job_id is None:
            return await self._streams.snapshots.of_everything()
        return await self._streams.snapshots.of_job(self._box.job_id)

    async def _missed(self, last_id: str) -> Batches:
        """What happened between an id and the mailbox's start, then how things stand; raises CannotResume.

        Facts come first, so that the end of a job is the last that is said of it.
        """
        target, job_id = self._box.start, self._box.job_id
        assert target is not None, "attach the mailbox first"
        cursor = self._resumable(last_id, target)
        async for page in self._between(FACTS, cursor.facts, target.facts, f"{EVENTS_PREFIX}files.>"):
            yield self._replayed(page, lambda place: Cursor(cursor.ledger, place), target.facts)
        about = f"{EVENTS_PREFIX}jobs.>" if job_id is None else f"{EVENTS_PREFIX}jobs.*.{job_id}"
        told: list[Frame] = []
        async for page in self._between(LEDGER, cursor.ledger, target.ledger, about):
            frames = self._replayed(page, lambda place: Cursor(place, target.facts), target.ledger)
            if job_id is None:
                yield frames
            else:
                told += frames
        if told and told[-1].ends:
            self._over = True
            yield [*told[:-1], told[-1].as_last()]
        else:
            yield [*told, *self._hub.state(job_id)]

    def _resumable(self, last_id: str, now: Cursor) -> Cursor:
        cursor = Cursor.parse(last_id)
        if cursor is None:
            raise CannotResume("unknown")
        if problem := cursor.problem(now):
            raise CannotResume(problem)
        if cursor.behind(now) > self._streams.replay:
            raise CannotResume("too_far")
        return cursor

    def _replayed(self, page: list[Stored], at: Callable[[Mark], Cursor], stream: Mark) -> list[Frame]:
        """The frames of stored events; `at` says the client's place when it has one of them."""
        frames = []
        for stored in page:
            message = None if stored.subject.startswith(ANSWERS) else readable(stored)
            if message is None:
                continue
            cursor = at(Mark(stream.stream, stored.sequence))
            frame = frame_of(message, cursor, 0, self._hub.compose)
            if frame is not None and self._box.job_id in {None, frame.job_id}:
                frames.append(frame)
        return frames

    async def _between(self, stream: str, after: Mark, until: Mark, match: str) -> AsyncIterator[list[Stored]]:
        """The stored events in (after, until] that match, page by page; raises CannotResume when some have expired.

        The server sorts out what does not match, but for the newest events: there a replica that lags behind could
        leave out one that does, and nobody would know. So these are all read, and sorted out here.
        """
        position = settled = after.sequence
        if position < until.sequence - SETTLED:
            state = await self._same(stream, after, position)
            settled = max(until.sequence - SETTLED - state.lag, position)
        while position < settled:
            async with self._streams.reading:
                page = await self._hub.bus.read(stream, position + 1, match=match)
                await self._same(stream, after, position)
            if wanted := [stored for stored in page if stored.sequence <= settled]:
                yield wanted
            position = page[-1].sequence if page else settled
        pages = stretch(self._hub.bus, stream, settled, until.sequence)
        while True:
            async with self._streams.reading:
                try:
                    newest = await anext(pages, None)
                except Gone as gone:
                    raise CannotResume("too_old") from gone
                if newest is None:
                    return
                await self._same(stream, after, until.sequence)
            yield [stored for stored in newest if subject_matches(match, stored.subject)]

    async def _same(self, stream: str, mark: Mark, position: int) -> StreamState:
        """The state of a stream, if it is the one of the mark and still holds what follows `position`."""
        state = await self._hub.bus.stream_state(stream)
        if incarnation(state.created) != mark.stream:
            raise CannotResume("other_stream")
        if state.first > position + 1:
            raise CannotResume("too_old")
        return state
