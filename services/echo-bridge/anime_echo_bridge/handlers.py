"""What the echo bridge does when asked: optimise, judge, record, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from anime_common.consume import Delivery
from anime_common.contracts.echo import (
    OPTIMIZE,
    OptimizedPrompt,
    OptimizeFailed,
    OptimizePrompt,
    OptimizeQuestion,
    PromptOptimized,
)
from anime_common.messages import Message, Outgoing
from anime_common.outbox import Connection, Handler, transaction
from anime_common.outcomes import Refused, Unavailable
from anime_common.rpc import Answerer
from anime_common.rpc_contract import Rpc
from anime_echo_bridge import builtin, metrics, store
from anime_echo_bridge.validation import validate

log = structlog.get_logger(__name__)

SERVICE = "echo"


def answer(prompt: str, negative_prompt: str, family: str) -> OptimizedPrompt | str:
    """The optimised prompt, or why there is none: nobody's answer is used unjudged, the builtin's neither."""
    found = builtin.optimize(prompt, negative_prompt, family)
    refused = validate(prompt, found)
    metrics.OPTIMIZED.labels(provider=found.provider, outcome="refused" if refused else "answered").inc()
    return refused or found


async def on_optimize(connection: Connection, delivery: Delivery) -> Sequence[Outgoing]:
    """Answer the question of a job that waits for it."""
    asked = delivery.message
    assert isinstance(asked, OptimizePrompt)
    found = answer(asked.prompt, asked.negative_prompt, asked.family)
    await store.record(
        connection,
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        family=asked.family,
        provider=builtin.PROVIDER,
        answer=found,
        job=(asked.job_id, asked.job_version, asked.repeat),
    )
    about: dict[str, Any] = asked.model_dump(include={"job_id", "job_version", "repeat", "epoch"})
    message: PromptOptimized | OptimizeFailed
    if isinstance(found, OptimizedPrompt):
        message = PromptOptimized(**about, result=found)
    else:
        log.warning("optimize_refused", job_id=str(asked.job_id), reason=found)
        message = OptimizeFailed(**about, reason=found)
    return [Outgoing(message, message.ident())]


@dataclass(frozen=True, slots=True)
class Bridge:
    """Answers questions of people, who have no job yet."""

    pool: asyncpg.Pool[asyncpg.Record]

    def answers(self) -> dict[Rpc[Any, Any], Answerer]:
        """Every question that the echo bridge answers."""
        return {OPTIMIZE: self.optimize}

    async def optimize(self, asked: OptimizeQuestion) -> OptimizedPrompt:
        """The optimised prompt; refuses with 502 when no answer is good enough.

        The record is for learning alone: a database that is away is logged, and the answer given all the same.
        """
        negative = asked.negative_prompt or ""
        found = answer(asked.prompt, negative, asked.family)
        try:
            async with transaction(self.pool) as connection:
                await store.record(
                    connection,
                    prompt=asked.prompt,
                    negative_prompt=negative,
                    family=asked.family,
                    provider=builtin.PROVIDER,
                    answer=found,
                )
        except Unavailable as error:
            log.warning("optimization_not_recorded", error=str(error))
        if isinstance(found, str):
            raise Refused(502, "optimize_failed", found, "prompt")
        return found


HANDLERS: Mapping[type[Message], Handler] = {OptimizePrompt: on_optimize}
