"""Batches: many jobs of one request, accepted together."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from anime_common.contracts.batches import (
    CANCEL_BATCH,
    CREATE_BATCH,
    GET_BATCH,
    LIST_BATCHES,
    RETRY_BATCH,
    UPDATE_BATCH,
    BatchChanges,
    BatchMoved,
    BatchOffer,
    BatchQuery,
    BatchRef,
    CancelBatch,
    CreateBatch,
    NewBatch,
    RetryBatch,
    UpdateBatch,
)
from anime_common.outcomes import Refused, not_found
from anime_gateway import inputs
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.etags import IfMatch, expected, tagged
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.public import BASE, BatchRetry, BatchView, BatchViews, MovedBatch, batch_view
from anime_gateway.routes.projects import Flag

router = APIRouter(prefix="/batches", tags=["batches"])

Ref = Annotated[str, Path(description="The batch's id or its 8-character code.", examples=["b4k7m2p9"])]
DryRun = Annotated[Flag, Query(description="Make nothing; answer with what would be made.")]
WAIT = 30.0
"""Seconds that the ledger has for a thousand jobs."""


@router.post(
    "",
    summary="Make a batch",
    status_code=201,
    response_model=BatchOffer,
    responses=errors(409, *WRITE_ERRORS) | {200: {"model": BatchOffer, "description": "A dry run: nothing was made."}},
    openapi_extra=json_body(
        NewBatch,
        matrix={
            "name": "Hair and scenes",
            "request": {"prompt": "1girl, {hair}, {scene}", "project": "moonlit-academy"},
            "variables": {"hair": ["silver hair", "black hair"], "scene": ["rooftop", "classroom"]},
            "count": 2,
        },
        prompts={"request": {"characters": ["yuki"]}, "prompts": ["smile", "crying", "laughing"], "seeds": [1, 2]},
        variants={"request": {"prompt": "1girl, {red|blue|__colours__} hair"}, "dynamic": {"choose": "all"}},
    ),
)
async def create(
    gateway: Deps,
    wanted: Annotated[NewBatch, body(NewBatch)],
    *,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept one job for each combination of all that is listed, all of them or none. `dry_run` says how many."""
    await inputs.check(gateway, wanted.request)
    question = CreateBatch(id=id_for("batch", idempotency_key), batch=wanted, dry_run=dry_run)
    try:
        found = await gateway.ask(CREATE_BATCH, question, within="batch", timeout=WAIT)
    except Refused as error:
        if error.code != "timeout":
            raise
        # Nobody knows whether it was accepted: the same id makes asking again harmless.
        found = await gateway.ask(CREATE_BATCH, question, within="batch", timeout=WAIT)
    if found.batch is None:
        return answer(found)
    return tagged(found, found.batch.version, 201, {"Location": f"{BASE}/batches/{found.batch.id}"})


@router.get("", summary="List batches", response_model=BatchViews, responses=errors(422))
async def list_batches(gateway: Deps, query: Annotated[BatchQuery, Query()]) -> Response:
    """Batches, newest first."""
    page = await gateway.ask(LIST_BATCHES, query)
    return answer(BatchViews(items=tuple(map(batch_view, page.items)), next=page.next))


@router.get("/{batch}", summary="Read a batch", response_model=BatchView, responses=errors(404))
async def read(gateway: Deps, batch: Ref) -> Response:
    """How far a batch is, and when its last job should end. Its jobs: `GET /jobs?batch=…`."""
    found = await gateway.ask(GET_BATCH, BatchRef(batch=checked(batch)))
    return tagged(batch_view(found), found.version)


@router.patch(
    "/{batch}",
    summary="Change a batch",
    response_model=MovedBatch,
    responses=errors(404, 412, *WRITE_ERRORS),
    openapi_extra=json_body(
        BatchChanges, pause={"paused": True}, resume={"paused": False}, urgent={"priority": "interactive"}
    ),
)
async def change(
    gateway: Deps, batch: Ref, changes: Annotated[BatchChanges, body(BatchChanges)], if_match: IfMatch = None
) -> Response:
    """Rename it, hold its waiting jobs back, let them go on, or change their priority."""
    question = UpdateBatch(batch=checked(batch), changes=changes, expected_version=expected(if_match))
    return _moved(await gateway.ask(UPDATE_BATCH, question, within="changes", timeout=WAIT))


@router.post(
    "/{batch}/cancel", summary="Cancel a batch", response_model=MovedBatch, responses=errors(404, 413, 415, 422)
)
async def cancel(gateway: Deps, batch: Ref) -> Response:
    """Stop all of its jobs that have not ended; running ones stop as soon as their worker has heard."""
    return _moved(await gateway.ask(CANCEL_BATCH, CancelBatch(batch=checked(batch)), timeout=WAIT))


@router.post(
    "/{batch}/retry",
    summary="Retry a batch",
    response_model=MovedBatch,
    responses=errors(404, *WRITE_ERRORS),
    openapi_extra=json_body(BatchRetry, failed={}, memory={"code": "out_of_memory"}, all={"cancelled": True}),
)
async def retry(gateway: Deps, batch: Ref, which: Annotated[BatchRetry, body(BatchRetry)]) -> Response:
    """Run its failed jobs again, each under its own id, with a fresh retry budget."""
    question = RetryBatch(batch=checked(batch), cancelled=which.cancelled, code=which.code)
    return _moved(await gateway.ask(RETRY_BATCH, question, timeout=WAIT))


def _moved(moved: BatchMoved) -> Response:
    return tagged(MovedBatch(jobs=moved.jobs, batch=batch_view(moved.batch)), moved.batch.version)


def checked(batch: str) -> str:
    """The name of a batch in a path; raises Refused when none can have it."""
    try:
        UUID(batch)
    except ValueError:
        if not (len(batch) == 8 and batch.isascii() and batch.isalnum()):
            raise not_found("batch", batch[:64], "batch") from None
    return batch
