"""Jobs: submit, read, list, change, cancel, retry, and the last preview picture."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import (
    GET_ATTEMPTS,
    GET_JOB,
    LIST_JOBS,
    Attempts,
    CancelJob,
    JobChanges,
    JobPage,
    JobQuery,
    JobQuestion,
    JobRef,
    JobView,
    PrioritizeJob,
    RetryJob,
    SubmitJob,
)
from anime_common.messages import Message
from anime_common.outcomes import not_found
from anime_gateway import inputs
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.commands import Sent
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.mailbox import Mailbox
from anime_gateway.problems import invalid
from anime_gateway.public import Pending, job_url

router = APIRouter(prefix="/jobs", tags=["jobs"])

Ref = Annotated[str, Path(description="The job's id or its 8-character code.", examples=["k3v9x2mq"])]
Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer", description="`wait=N`: answer when the job has ended, or after N seconds.", examples=["wait=30"]
    ),
]
_REF: TypeAdapter[str] = TypeAdapter(JobRef)
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)
PENDING: dict[int | str, dict[str, Any]] = {
    202: {
        "model": Pending,
        "description": "Stored by the message bus, and not answered yet: the ledger is busy or away. It will be "
        "carried out; until then the job answers 404.",
    }
}
SMALL = {"prompt": "1girl, blue hair, twintails, smile, classroom"}
FULL = {
    "prompt": "1girl, pink hair, looking at viewer, night sky, stars",
    "negative_prompt": "lowres, bad anatomy",
    "project": "moonlit-academy",
    "width": 512,
    "height": 768,
    "steps": 24,
    "guidance": 6.5,
    "sampler": "dpm++ 2m karras",
    "seed": 1234,
    "count": 2,
    "optimize": True,
    "priority": "interactive",
}


@router.post(
    "",
    summary="Submit a job",
    status_code=201,
    response_model=JobView,
    responses=errors(409, *WRITE_ERRORS)
    | PENDING
    | {200: {"model": JobView, "description": "This `Idempotency-Key` was used before for the same request."}},
    openapi_extra=json_body(GenerationRequest, the_least=SMALL, all_of_it=FULL),
)
async def submit(
    request: Request,
    gateway: Deps,
    wanted: Annotated[GenerationRequest, body(GenerationRequest)],
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Make pictures from a prompt. The job is kept from the moment this answers; it waits its turn, however long."""
    await inputs.check(gateway, wanted)
    job_id = id_for("job", idempotency_key)
    wait = preferred_wait(prefer, gateway.settings.gateway_prefer_wait)
    command = SubmitJob(job_id=job_id, request=wanted)
    if wait == 0.0:
        return _answered(gateway, await gateway.commands.send(command, str(job_id)), str(job_id))
    began = asyncio.get_running_loop().time()
    box = Mailbox(job_id, gateway.settings.gateway_stream_queue)
    await gateway.hub.attach(box)
    try:
        sent = await gateway.commands.send(command, str(job_id), wait=wait)
        view = None
        if sent.answer is not None and not sent.answer.job.state.ended:
            view = await _end(request, box, began + wait)
        response = _answered(gateway, sent, str(job_id), view)
    finally:
        gateway.hub.detach(box)
    response.headers["Preference-Applied"] = f"wait={wait:g}"
    return response


async def _end(request: Request, box: Mailbox, deadline: float) -> JobView | None:
    """The job as last seen before its end, the deadline, a reset or the client's leaving, whichever comes first."""
    loop = asyncio.get_running_loop()
    view: JobView | None = None
    while box.closed is None and box.reset is None and (left := deadline - loop.time()) > 0:
        for frame in await box.take(min(left, 1.0)):
            view = frame.view or view
        if (view is not None and view.state.ended) or await request.is_disconnected():
            break
    return view


def preferred_wait(prefer: str | None, most: float) -> float:
    """The seconds of `wait=N` in a `Prefer` header (RFC 7240), at most `most`; what is not understood is ignored."""
    found = _WAIT.search(prefer) if prefer else None
    return min(float(found[1]), most) if found else 0.0


def _answered(gateway: Gateway, sent: Sent, job: str, view: JobView | None = None) -> Response:
    """What became of a command: the job, or the promise that it will be carried out."""
    if sent.answer is None:
        detail = "stored, and not answered in time: it will be carried out as soon as the ledger can"
        pending = Pending(command_id=sent.id, job_id=job, job_url=job_url(job), detail=detail)
        return answer(pending, 202, {"Location": job_url(job)})
    view = view or gateway.hub.compose(sent.answer.job)
    return answer(view, sent.answer.status, {"Location": job_url(view.id)})


@router.get("", summary="List jobs", response_model=JobPage, responses=errors(422))
async def list_jobs(gateway: Deps, query: Annotated[JobQuery, Query()]) -> Response:
    """Jobs, newest first."""
    page = await gateway.ask(LIST_JOBS, query)
    views = tuple(gateway.hub.attempts.view(view) for view in page.items)
    return answer(JobPage(items=views, next=page.next))


@router.get("/{job}", summary="Read a job", response_model=JobView, responses=errors(404, 410))
async def read(gateway: Deps, job: Ref) -> Response:
    """A job with its progress; 404 or 410 with the reason for one that was refused after it had been taken in."""
    return answer(await find(gateway, job))


async def find(gateway: Gateway, job: str) -> JobView:
    """A job by id or code; raises Refused."""
    view = await gateway.ask(GET_JOB, JobQuestion(job=checked(job)))
    return gateway.hub.attempts.view(view)


def checked(job: str) -> str:
    """The name of a job in a path; raises Refused when no job can have it."""
    try:
        return _REF.validate_python(job)
    except ValidationError as error:
        raise not_found("job", job[:64], "job") from error


@router.get("/{job}/attempts", summary="Every attempt at a job", response_model=Attempts, responses=errors(404))
async def attempts(gateway: Deps, job: Ref) -> Response:
    """Who tried, when it was offered, begun and ended, how far it came, why it ended, and how long until the next."""
    return answer(await gateway.ask(GET_ATTEMPTS, JobQuestion(job=checked(job))))


@router.patch(
    "/{job}",
    summary="Change when a job runs",
    response_model=JobView,
    responses=errors(404, 409, *WRITE_ERRORS) | PENDING,
    openapi_extra=json_body(JobChanges, first={"priority": "interactive"}, pause={"paused": True}),
)
async def change(gateway: Deps, job: Ref, changes: Annotated[JobChanges, body(JobChanges)]) -> Response:
    """Change priority, earliest start or pause of a job that has not ended."""
    if not changes.model_fields_set:
        raise invalid("", f"nothing to change: give one of {', '.join(JobChanges.model_fields)}")
    for name in changes.model_fields_set - {"not_before"}:
        if getattr(changes, name) is None:
            raise invalid(name, "must not be null")
    clear = "not_before" in changes.model_fields_set and changes.not_before is None
    return await _order(gateway, job, PrioritizeJob(job=checked(job), changes=changes, clear_not_before=clear))


@router.post(
    "/{job}/cancel", summary="Cancel a job", response_model=JobView, responses=errors(404, 409, 413, 415) | PENDING
)
async def cancel(gateway: Deps, job: Ref) -> Response:
    """Stop a job: at once while it waits, between two steps while it runs (see `cancel_requested`)."""
    return await _order(gateway, job, CancelJob(job=checked(job)))


@router.post(
    "/{job}/retry", summary="Run a job again", response_model=JobView, responses=errors(404, 409, 413, 415) | PENDING
)
async def retry(gateway: Deps, job: Ref) -> Response:
    """Run a failed or cancelled job again, under the same id."""
    return await _order(gateway, job, RetryJob(job=checked(job)))


async def _order(gateway: Gateway, job: str, command: Message) -> Response:
    return _answered(gateway, await gateway.commands.send(command, job), job)


@router.get(
    "/{job}/preview",
    summary="See a picture grow",
    response_class=Response,
    responses=errors(404, 410)
    | {200: {"content": {"image/jpeg": {}}, "description": "The last preview of the attempt in work."}},
)
async def preview(gateway: Deps, job: Ref) -> Response:
    """The last small preview of a running job; `preview_url` of its progress changes with each."""
    view = await find(gateway, job)
    found = gateway.hub.attempts.preview(view.id)
    if found is None or found.attempt_id != view.attempt_id:
        raise not_found("preview of job", job, "job")
    return Response(found.data, headers={"Cache-Control": "no-store"}, media_type="image/jpeg")
