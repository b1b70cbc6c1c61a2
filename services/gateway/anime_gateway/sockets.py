"""The WebSocket: the same messages as the event streams, for any number of jobs over one connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import structlog
from pydantic import Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from anime_common.bus import ApiError
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Request, first_error
from anime_common.outcomes import Refused, Unavailable
from anime_gateway import metrics
from anime_gateway.access import caller_of, whole_seconds
from anime_gateway.mailbox import Closed, Mailbox
from anime_gateway.protocol import abort_of
from anime_gateway.routes.jobs import find
from anime_gateway.stream import Subscription

if TYPE_CHECKING:
    from anime_gateway.deps import Gateway

log = structlog.get_logger(__name__)

MAX_SUBSCRIPTIONS = 32
RESTARTING = 1012
"""Close code: service restart (https://www.iana.org/assignments/websocket)."""


class Subscribe(Request):
    """Follow a job (id or code), or everything when `job_id` is absent; from `last_event_id` on if given."""

    action: Literal["subscribe"]
    job_id: Annotated[str, Field(max_length=64)] | None = None
    last_event_id: Annotated[str, Field(max_length=200)] | None = None


class Unsubscribe(Request):
    """Follow it no longer."""

    action: Literal["unsubscribe"]
    job_id: Annotated[str, Field(max_length=64)] | None = None


class Ping(Request):
    """Answered with `pong`."""

    action: Literal["ping"]


Order = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="action")]
ORDER: TypeAdapter[Subscribe | Unsubscribe | Ping] = TypeAdapter(Order)


class Talk:
    """One WebSocket and its subscriptions, by job id (None for everything)."""

    def __init__(self, gateway: Gateway, socket: WebSocket) -> None:
        self._gateway = gateway
        self._socket = socket
        self._following: dict[UUID | None, asyncio.Task[None]] = {}
        self._left = False

    async def run(self) -> None:
        """Accept, and do what is asked until the client leaves."""
        await self._socket.accept()
        metrics.STREAMS.labels(kind="websocket").inc()
        try:
            while True:
                received = await self._socket.receive()
                if received["type"] == "websocket.disconnect":
                    return
                await self._hear(received.get("text") or received.get("bytes") or "")
        except WebSocketDisconnect:
            return
        finally:
            metrics.STREAMS.labels(kind="websocket").dec()
            following = list(self._following.values())
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _hear(self, text: str | bytes) -> None:
        try:
            self._not_too_often()
            order = ORDER.validate_json(text)
            match order:
                case Subscribe():
                    await self._subscribe(order)
                case Unsubscribe():
                    await self._unsubscribe(order)
                case Ping():
                    await self._say("pong", {})
        except ValidationError as error:
            field, problem = first_error(error)
            await self._refuse(Refused(422, "invalid", problem, _named(field)))
        except Refused as error:
            await self._refuse(error)

    def _not_too_often(self) -> None:
        """A message counts as a request: raises Refused when there are too many."""
        wait = self._gateway.access.wait(caller_of(self._socket.scope))
        if wait:
            raise Refused(429, "rate_limited", f"too many messages: try again in {whole_seconds(wait)} s")

    async def _subscribe(self, order: Subscribe) -> None:
        view = await find(self._gateway, order.job_id) if order.job_id is not None else None
        job_id = view.id if view is not None else None
        if job_id in self._following or None in self._following:
            raise Refused(409, "already_subscribed", "these events come already", "job_id")
        if len(self._following) >= MAX_SUBSCRIPTIONS:
            raise Refused(429, "too_many_subscriptions", f"at most {MAX_SUBSCRIPTIONS} at a time: follow everything")
        box = Mailbox(job_id, self._gateway.settings.gateway_stream_queue)
        await self._gateway.hub.attach(box)
        await self._say("subscribed", {"job_id": str(job_id) if job_id else None})
        state = view.state if view is not None else None
        task = asyncio.create_task(self._follow(box, order.last_event_id, state), name="websocket")
        box.on_close = task.cancel
        self._following[job_id] = task

    async def _unsubscribe(self, order: Unsubscribe) -> None:
        view = await find(self._gateway, order.job_id) if order.job_id is not None else None
        job_id = view.id if view is not None else None
        task = self._following.pop(job_id, None)
        if task is None:
            raise Refused(404, "not_subscribed", "these events were not asked for", "job_id")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._say("unsubscribed", {"job_id": str(job_id) if job_id else None})

    async def _follow(self, box: Mailbox, last_id: str | None, state: JobState | None) -> None:
        """Pass on one subscription until it ends."""
        stream = Subscription(self._gateway.streams, box)
        try:
            async with contextlib.aclosing(stream.follow(last_id, ended=state is not None and state.ended)) as batches:
                async for frame in (frame async for frames in batches for frame in frames):
                    async with asyncio.timeout(self._gateway.settings.gateway_stuck_after):
                        await self._socket.send_text(frame.text)
            await self._say("end", {"job_id": str(box.job_id)})
            self._following.pop(box.job_id, None)
        except TimeoutError:
            box.close(Closed.STUCK)
        except (ApiError, Unavailable, Refused) as error:
            log.info("stream_interrupted", error=str(error))
            await self._leave()
        except WebSocketDisconnect:
            return
        finally:
            box.on_close = None
            self._gateway.hub.detach(box)
            await self._part(box)

    async def _part(self, box: Mailbox) -> None:
        """Cut off a client that is stuck; say goodbye when the gateway stops."""
        if box.closed is not None:
            metrics.STREAMS_CLOSED.labels(reason=box.closed).inc()
        if box.closed is Closed.STUCK and (abort := abort_of(self._socket.scope)) is not None:
            log.info("stream_stuck", path=self._socket.scope["path"])
            abort()
        elif box.closed is Closed.STOPPING:
            await self._leave()

    async def _leave(self) -> None:
        """Close, once: the client should come back to another instance."""
        if not self._left:
            self._left = True
            with contextlib.suppress(WebSocketDisconnect):
                await self._socket.close(RESTARTING)

    async def _say(self, event: str, data: dict[str, Any]) -> None:
        if not self._left:
            await self._socket.send_json({"event": event, "data": data})

    async def _refuse(self, error: Refused) -> None:
        data = {"status": error.status, "code": error.code, "detail": error.message, "field": error.field}
        await self._say("error", data)


def _named(field: str) -> str | None:
    """The field as the client wrote it: without the name of the action that pydantic puts first."""
    head, _, rest = field.partition(".")
    return (rest if head in {"subscribe", "unsubscribe", "ping"} else field) or None
