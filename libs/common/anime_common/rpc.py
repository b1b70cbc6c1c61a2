"""Questions between services over NATS micro services (discovery and statistics for free, see `nats micro ls`).

nats-py's micro runs the calls of an endpoint one after another, answers errors with `repr` and drains on stop; so the
calls are spawned as bounded tasks here, errors are mapped here, and the service ends with its connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import nats.errors
import structlog
from nats.micro import add_service
from nats.micro.service import EndpointConfig, ServiceConfig
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ValidationError

from anime_common import metrics, strict_json
from anime_common.clock import heeding
from anime_common.messages import first_error
from anime_common.outcomes import Refused, Unavailable
from anime_common.rpc_contract import A, ProblemBody, Q, Rpc
from anime_common.tracing import current_traceparent, span

if TYPE_CHECKING:
    from nats.micro.request import Request

    from anime_common.bus import Bus

log = structlog.get_logger(__name__)

STATUS = "Nats-Service-Error-Code"
MAX_RUNNING = 64
VERSION = "1.0.0"
BUS_AWAY = "the message bus is away; try again soon"

Answerer = Callable[[Any], Awaitable[BaseModel]]


async def serve(bus: Bus, answers: dict[Rpc[Any, Any], Answerer]) -> None:
    """Answer questions until the connection ends; at most `MAX_RUNNING` at once, the rest wait."""
    owner = next(iter(answers)).owner
    service = await add_service(bus.client, ServiceConfig(name=f"anime-{owner}", version=VERSION, queue_group=owner))
    slots = asyncio.Semaphore(MAX_RUNNING)
    running: set[asyncio.Task[None]] = set()

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        slots.release()

    def endpoint(rpc: Rpc[Any, Any], answer: Answerer) -> EndpointConfig:
        async def on_request(request: Request) -> None:
            await slots.acquire()
            task = asyncio.create_task(_answer(rpc, answer, request), name=rpc.subject)
            running.add(task)
            task.add_done_callback(ended)

        return EndpointConfig(name=rpc.name, subject=rpc.subject, handler=on_request)

    for rpc, answer in answers.items():
        await service.add_endpoint(endpoint(rpc, answer))
    await bus.flush()


async def _answer(rpc: Rpc[Any, Any], answer: Answerer, request: Request) -> None:
    began = time.perf_counter()
    status, body = 200, b""
    traceparent = (request.headers or {}).get("traceparent")
    with span(rpc.subject, traceparent=traceparent, kind=SpanKind.SERVER):
        try:
            found = await answer(strict_json.read(rpc.question, request.data or b"{}"))
            body = found.model_dump_json(exclude_none=True).encode()
        except ValidationError as error:
            field, text = first_error(error)
            status, body = 422, _problem(422, "invalid", text, field or None)
        except Refused as error:
            status, body = error.status, _problem(error.status, error.code, error.message, error.field)
        except Unavailable as error:
            log.warning("question_unavailable", rpc=rpc.subject, error=str(error))
            status, body = 503, _problem(503, "unavailable", f"{rpc.owner} cannot answer now; try again", None)
        except Exception:
            log.exception("question_failed", rpc=rpc.subject)
            status, body = 500, _problem(500, "internal", f"{rpc.owner} failed to answer; its log says why", None)
    metrics.RPC_SECONDS.labels(name=rpc.name, status=str(status)).observe(time.perf_counter() - began)
    try:
        if status == 200:
            await request.respond(body)
        else:
            await request.respond_error(str(status), "refused", body)
    except (nats.errors.Error, OSError, ValueError) as error:
        log.warning("answer_lost", rpc=rpc.subject, error=repr(error))


def _problem(status: int, code: str, message: str, field: str | None) -> bytes:
    return ProblemBody(status=status, code=code, message=message, field=field).model_dump_json().encode()


async def call(bus: Bus, rpc: Rpc[Q, A], question: Q, *, timeout: float = 5.0) -> A:
    """Ask a question; raises Refused as the owner refused it, with 503 when nobody answers and 504 when too late."""
    if not bus.connected:
        raise Refused(503, "unavailable", BUS_AWAY)
    headers = {"traceparent": traceparent} if (traceparent := current_traceparent()) else None
    body = question.model_dump_json(exclude_unset=True).encode()
    try:
        msg = await heeding(bus.client.request(rpc.subject, body, timeout=timeout, headers=headers))
    except nats.errors.NoRespondersError as error:
        raise Refused(503, "unavailable", f"the service {rpc.owner!r} is not running; try again soon") from error
    except (nats.errors.TimeoutError, TimeoutError) as error:
        raise Refused(504, "timeout", f"the service {rpc.owner!r} did not answer in {timeout:g} s") from error
    except (nats.errors.Error, OSError) as error:
        raise Refused(503, "unavailable", BUS_AWAY) from error
    if msg.headers and STATUS in msg.headers:
        problem = ProblemBody.model_validate_json(msg.data)
        raise Refused(problem.status, problem.code, problem.message, problem.field)
    return rpc.answer.model_validate_json(msg.data, extra="ignore")
