"""What waits for one client: events in order, never dropped; of progress, only the newest of each job."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from anime_gateway.cursor import Cursor
    from anime_gateway.frames import Frame

BATCH = 64


class Closed(StrEnum):
    """Why a mailbox takes nothing more."""

    GONE = "gone"
    STUCK = "stuck"
    STOPPING = "stopping"


class Mailbox:
    """The queue between the hub and one subscription, to everything or to one job.

    `start` is the place in the streams after which the frames in it begin. A client that lets more than `limit` frames
    pile up is stuck: its mailbox closes. `on_close` tells the writer, which may be blocked in sending.
    """

    __slots__ = ("_frames", "_limit", "_number", "_waiter", "closed", "job_id", "on_close", "reset", "start")

    def __init__(self, job_id: UUID | None, limit: int) -> None:
        self.job_id = job_id
        self.on_close: Callable[[], object] | None = None
        self.start: Cursor | None = None
        self.closed: Closed | None = None
        self.reset: str | None = None
        self._limit = limit
        self._frames: dict[object, Frame] = {}
        self._number = 0
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """How many frames wait."""
        return len(self._frames)

    def put(self, frame: Frame) -> None:
        """Add a frame. Progress replaces older progress of the job, and an event of the job makes it needless."""
        if self.closed is not None:
            return
        if frame.key is not None:
            self._frames.pop(frame.key, None)
            self._frames[frame.key] = frame
        else:
            if frame.view is not None:
                self._frames.pop(frame.view.id, None)
            self._number += 1
            self._frames[self._number] = frame
        if len(self._frames) > self._limit:
            self.close(Closed.STUCK)
            return
        self._wake()

    def restart(self, start: Cursor, reason: str) -> None:
        """The streams were replaced: forget what waits; the client must be told to start anew."""
        self._frames.clear()
        self.start, self.reset = start, reason
        self._wake()

    def close(self, reason: Closed) -> None:
        """Take nothing more."""
        if self.closed is not None:
            return
        self.closed = reason
        self._frames.clear()
        self._wake()
        if self.on_close is not None:
            self.on_close()

    async def take(self, timeout: float) -> list[Frame]:
        """What waits, as soon as there is anything; nothing after `timeout` seconds, when closed or on a reset.

        At most `BATCH` frames, so that a slow client does not get a copy of all that waits at once.
        """
        if not self._frames and self.closed is None and self.reset is None:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self.closed is not None or self.reset is not None:
            return []
        if len(self._frames) <= BATCH:
            taken = list(self._frames.values())
            self._frames.clear()
            return taken
        return [self._frames.pop(key) for key in list(itertools.islice(self._frames, BATCH))]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
