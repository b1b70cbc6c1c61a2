"""Live events: SSE of everything or of one job, and the WebSocket."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, WebSocket
from starlette.responses import Response

from anime_gateway.cursor import Cursor
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import SCHEMAS, errors
from anime_gateway.mailbox import Mailbox
from anime_gateway.routes.jobs import Ref, find
from anime_gateway.sockets import Talk
from anime_gateway.sse import EventStream
from anime_gateway.stream import Subscription

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The `id` of the last event; browsers send it.", max_length=200),
]
Since = Annotated[
    str | None, Query(alias="last_event_id", description="The same, for who cannot set headers.", max_length=200)
]
EVENTS = {
    "snapshot": "SnapshotData",
    "job": "JobData",
    "progress": "Progress",
    "file": "FileData",
    "project": "ProjectData",
    "character": "CharacterData",
    "batch": "BatchData",
    "queue": "QueueState",
    "reset": "ResetData",
}
"""The schema of `data` by the name of the event."""

EXAMPLE = """:
retry: 1200

id: 1f0c9a2e.811-77ab01d3.1420
event: snapshot
data: {"jobs": [], "truncated": false, "queue": null}

id: 1f0c9a2e.812-77ab01d3.1420
event: job
data: {"type": "started", "job": {"id": "0198c5a3-7c11-7bb4-a4f0-1f7d2a9e6b52", "state": "running"}}

event: progress
data: {"job_id": "0198c5a3-7c11-7bb4-a4f0-1f7d2a9e6b52", "state": "running", "phase": "sampling", "step": 7}

"""


def _stream(text: str) -> dict[int | str, dict[str, Any]]:
    schema = {
        "type": "string",
        "format": "event-stream",
        "x-events": {name: {"$ref": SCHEMAS.format(model=model)} for name, model in EVENTS.items()},
    }
    return {200: {"description": text, "content": {"text/event-stream": {"schema": schema, "example": EXAMPLE}}}}


@router.get(
    "/events",
    summary="Follow everything",
    response_class=Response,
    responses=errors(422) | _stream("Events, without end: see `x-events` for the data of each."),
)
async def everything(gateway: Deps, last_event_id: LastEventId = None, since: Since = None) -> Response:
    """Server-sent events of all jobs and files: first a `snapshot`, or what happened since `Last-Event-ID`."""
    box = Mailbox(None, gateway.settings.gateway_stream_queue)
    return await _follow(gateway, box, last_event_id or since)


@router.get(
    "/jobs/{job}/events",
    tags=["jobs"],
    summary="Follow a job",
    response_class=Response,
    responses=errors(404, 410, 422)
    | _stream("Events of the job until its end: see `x-events` for the data of each.")
    | {204: {"description": "The job has ended and `Last-Event-ID` shows that the client knows: do not come back."}},
)
async def of_job(gateway: Deps, job: Ref, last_event_id: LastEventId = None, since: Since = None) -> Response:
    """Server-sent events of one job; the stream ends with the job."""
    view = await find(gateway, job)
    last_id = last_event_id or since
    cursor = Cursor.parse(last_id) if last_id is not None else None
    if view.state.ended and cursor is not None and cursor.end == view.version:
        return Response(status_code=204)
    box = Mailbox(view.id, gateway.settings.gateway_stream_queue)
    return await _follow(gateway, box, last_id, ended=view.state.ended)


async def _follow(gateway: Gateway, box: Mailbox, last_id: str | None, *, ended: bool = False) -> EventStream:
    await gateway.hub.attach(box)
    frames = Subscription(gateway.streams, box).follow(last_id, ended=ended)
    return EventStream(gateway.hub, box, frames, gateway.settings.gateway_stuck_after)


@router.websocket("/ws")
async def websocket(socket: WebSocket, gateway: Deps) -> None:
    """The same messages over a WebSocket: see `Subscribe`, `Unsubscribe` and `Ping` for what may be sent."""
    await Talk(gateway, socket).run()
