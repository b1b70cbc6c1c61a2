"""The state of the whole: health, counts, queue, generators, models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from anime_common.contracts.echo import OPTIMIZE, OptimizeQuestion
from anime_common.contracts.files import LIBRARY_STATS
from anime_common.contracts.jobs import (
    GET_CATALOGUE,
    GET_PROFILE,
    GET_QUEUE,
    GET_STATS,
    GET_WORKERS,
    HOLD_QUEUE,
    RETRY_JOBS,
    HoldQueue,
    Profile,
    ProfileQuestion,
    QueueState,
    Retried,
    RetryFilter,
)
from anime_common.contracts.statistics import GET_HISTORY, StatsQuestion
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Empty
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.public import GatewayStats, Health, ModelList, Part, PauseReason, Stats, WorkerList

router = APIRouter(tags=["system"])

HEALTH_WAIT = 2.0
RETRY_WAIT = 30.0
"""Seconds that the ledger has to look for a thousand failed jobs and queue them."""
LIVE = frozenset({"idle", "busy", "draining"})
OPTIONAL = frozenset({"echo"})
"""Parts whose absence stops no job."""


@router.get(
    "/health",
    summary="How the system is",
    response_model=Health,
    responses=errors() | {503: {"model": Health, "description": "A part is away without which nothing is made."}},
)
async def health(gateway: Deps) -> Response:
    """Every part by itself; 503 while one is away without which no picture is made."""
    names = ("jobs", "files", "echo", "generators")
    checks = (_jobs(gateway), _files(gateway), _echo(gateway), _generators(gateway))
    parts = {
        "bus": Part(ok=gateway.bus.connected, detail=None if gateway.bus.connected else "the message bus is away"),
        "events": _part(await gateway.hub.check()),
        **dict(zip(names, await asyncio.gather(*(_checked(check) for check in checks)), strict=True)),
    }
    wrong = {name for name, part in parts.items() if not part.ok}
    status = "ok" if not wrong else "degraded" if wrong <= OPTIONAL else "unavailable"
    return answer(Health.model_validate({"status": status, "parts": parts}), 503 if wrong - OPTIONAL else 200)


def _part(problem: str | None) -> Part:
    return Part(ok=problem is None, detail=problem)


async def _checked(check: Awaitable[str | None]) -> Part:
    try:
        return _part(await check)
    except Refused as error:
        return _part(error.message)


async def _jobs(gateway: Gateway) -> str | None:
    await gateway.ask(GET_STATS, Empty(), timeout=HEALTH_WAIT)
    return None


async def _files(gateway: Gateway) -> str | None:
    await gateway.ask(LIBRARY_STATS, Empty(), timeout=HEALTH_WAIT)
    return None


async def _echo(gateway: Gateway) -> str | None:
    try:
        # A blank prompt is refused before any provider is asked: that it is refused shows that somebody is there.
        await gateway.ask(OPTIMIZE, OptimizeQuestion.model_construct(prompt=""), timeout=HEALTH_WAIT)
    except Refused as error:
        return None if error.status == 422 else error.message
    return None


async def _generators(gateway: Gateway) -> str | None:
    workers = await gateway.ask(GET_WORKERS, Empty(), timeout=HEALTH_WAIT)
    return None if any(worker.status in LIVE for worker in workers.items) else "no generator is running: jobs wait"


@router.get("/stats", summary="Counts and speeds", response_model=Stats, responses=errors())
async def stats(gateway: Deps, question: Annotated[StatsQuestion, Query()]) -> Response:
    """How much there is of everything now; and what the last hour, day, week or month was like."""
    jobs, history, files = await asyncio.gather(
        gateway.ask(GET_STATS, Empty()), gateway.ask(GET_HISTORY, question), gateway.ask(LIBRARY_STATS, Empty())
    )
    own = GatewayStats(streams=len(gateway.hub), running=len(gateway.hub.attempts))
    return answer(Stats(jobs=jobs, history=history, files=files, gateway=own))


@router.get("/queue", summary="The queue", response_model=QueueState, responses=errors())
async def queue(gateway: Deps) -> Response:
    """The first 500 places with position and estimated end, then counts."""
    return answer(await gateway.ask(GET_QUEUE, Empty()))


@router.post(
    "/queue/pause",
    summary="Pause the queue",
    response_model=QueueState,
    responses=errors(*WRITE_ERRORS),
    openapi_extra=json_body(PauseReason, why={"reason": "the card is needed for a game"}),
)
async def pause_queue(gateway: Deps, why: Annotated[PauseReason, body(PauseReason)]) -> Response:
    """Start nothing new until it is resumed, also after a restart; what runs goes on to its end."""
    return answer(await gateway.ask(HOLD_QUEUE, HoldQueue(paused=True, reason=why.reason)))


@router.post("/queue/resume", summary="Resume the queue", response_model=QueueState, responses=errors(413, 415))
async def resume_queue(gateway: Deps) -> Response:
    """Let the queue go on."""
    return answer(await gateway.ask(HOLD_QUEUE, HoldQueue(paused=False)))


@router.post(
    "/retries",
    tags=["jobs"],
    summary="Run failed jobs again",
    response_model=Retried,
    responses=errors(404, *WRITE_ERRORS),
    openapi_extra=json_body(
        RetryFilter, memory={"code": "out_of_memory"}, night={"since": "2026-03-01T22:00:00Z", "dry_run": True}
    ),
)
async def retry_many(gateway: Deps, which: Annotated[RetryFilter, body(RetryFilter)]) -> Response:
    """Run the failed jobs to which all applies that is given again, each under its own id with a fresh retry budget."""
    return answer(await gateway.ask(RETRY_JOBS, which, timeout=RETRY_WAIT))


@router.get("/generators", summary="The generators", response_model=WorkerList, responses=errors())
async def generators(gateway: Deps) -> Response:
    """Every worker: its device, the models it holds, what it does."""
    workers = await gateway.ask(GET_WORKERS, Empty())
    return answer(WorkerList(items=workers.items))


@router.get("/profile", summary="Where the time goes", response_model=Profile, responses=errors(404))
async def profile(gateway: Deps, question: Annotated[ProfileQuestion, Query()]) -> Response:
    """What a job, or the latest jobs of a workflow or model, spent their time with, and what would help."""
    return answer(await gateway.ask(GET_PROFILE, question))


@router.get("/models", summary="The models", response_model=ModelList, responses=errors())
async def models(gateway: Deps) -> Response:
    """Every model that a worker can or could run, with its defaults and limits."""
    catalogue = await gateway.ask(GET_CATALOGUE, Empty())
    return answer(ModelList(items=catalogue.items))
