"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the response of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import structlog
from starlette.responses import Response

from anime_common.bus import ApiError
from anime_common.outcomes import Refused, Unavailable
from anime_gateway import metrics
from anime_gateway.frames import HEARTBEAT
from anime_gateway.mailbox import Closed, Mailbox
from anime_gateway.protocol import abort_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from anime_gateway.hub import Hub
    from anime_gateway.stream import Batches

log = structlog.get_logger(__name__)

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
LAST_WORDS = 1.0


class EventStream(Response):
    """Sends frames as they come, until they end, the client leaves, or its mailbox is closed. Detaches the mailbox.

    A client that takes nothing for `stuck_after` seconds is cut off: it comes back with the id of its last event.
    """

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(self, hub: Hub, box: Mailbox, frames: Batches, stuck_after: float) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._hub, self._box, self._frames, self._stuck_after = hub, box, frames, stuck_after
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        pump = asyncio.create_task(self._pump(send), name="sse")
        leaving = asyncio.create_task(self._left(receive), name="sse-leaving")
        self._box.on_close = pump.cancel
        metrics.STREAMS.labels(kind="sse").inc()
        try:
            await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.detach(self._box)
            self._box.on_close = None
            for task in (pump, leaving):
                task.cancel()
            failures = await asyncio.gather(pump, leaving, return_exceptions=True)
            metrics.STREAMS.labels(kind="sse").dec()
        await self._end(scope, send)
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._started = True
        # The comment makes the headers leave at once; the random delay keeps a restart from being a stampede.
        await self._send(send, b":\nretry: %d\n\n" % random.randint(500, 2000))  # noqa: S311 - no secret
        try:
            async with contextlib.aclosing(self._frames) as batches:
                async for frames in batches:
                    await self._send(send, b"".join([frame.sse for frame in frames]) or HEARTBEAT)
        except TimeoutError:
            self._box.close(Closed.STUCK)
        except (ApiError, Unavailable, Refused) as error:
            log.info("stream_interrupted", error=str(error))

    async def _send(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(self._stuck_after):
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._box.close(Closed.GONE)

    async def _end(self, scope: Scope, send: Send) -> None:
        reason = self._box.closed
        metrics.STREAMS_CLOSED.labels(reason=reason or "done").inc()
        if reason is Closed.STUCK:
            log.info("stream_stuck", path=scope["path"])
            if (abort := abort_of(scope)) is not None:
                abort()
        if reason is Closed.GONE or not self._started:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
