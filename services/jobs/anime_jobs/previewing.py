"""What would be drawn for a request, without drawing it: the composed prompt, and how long it is for its model."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anime_common import rpc
from anime_common.contracts.generator import COUNT_TOKENS, TokensQuestion
from anime_common.contracts.jobs import PreviewQuestion, PromptLength, PromptPreview
from anime_common.outbox import transaction
from anime_common.outcomes import Refused
from anime_jobs.books import opened
from anime_jobs.preparing import prepare

if TYPE_CHECKING:
    from anime_common.bus import Bus
    from anime_jobs.fleet import Fleet

COUNT_WAIT = 2.0
"""Seconds that a worker has to count tokens: a preview is shown without them rather than late."""
NO_MODEL = "no worker has announced a model yet: what is drawn with it is not known"


@dataclass(frozen=True, slots=True)
class Previews:
    """Answers what a request becomes. `lost_after` is the silence, in seconds, after which a worker is not asked."""

    pool: Any
    fleet: Fleet
    bus: Bus
    lost_after: float

    async def preview(self, question: PreviewQuestion) -> PromptPreview:
        """Everything that a job of this request would be accepted with; refused as the job would be."""
        async with transaction(self.pool) as connection, opened(connection, []) as books:
            found = await prepare(books, question.request, secrets.randbelow(2**32))
        if found.resolved is None:
            raise Refused(503, "no_model", NO_MODEL)
        composed = found.resolved.composition
        settings = found.resolved.settings
        length = await self._length(settings.model, (composed.prompt, composed.negative_prompt))
        return PromptPreview(composition=composed, settings=settings, warnings=found.resolved.warnings, length=length)

    async def _length(self, model: str, texts: tuple[str, str]) -> PromptLength:
        """How long both prompts are, as the first worker that has the model counts them."""
        now = asyncio.get_running_loop().time()
        able = [
            worker
            for worker, seen in sorted(self.fleet.seen.items())
            if not seen.heartbeat.goodbye
            and now - seen.at <= self.lost_after
            and any(info.key == model for info in seen.heartbeat.models)
        ]
        why = f"no live worker has the model {model}"
        for worker in able:
            try:
                counted = await rpc.call(
                    self.bus, COUNT_TOKENS.at(worker), TokensQuestion(model=model, texts=texts), timeout=COUNT_WAIT
                )
            except Refused as refusal:
                why = refusal.message
                continue
            prompt, negative = counted.counts
            return PromptLength(tokenizer=counted.tokenizer, prompt=prompt, negative_prompt=negative)
        return PromptLength(unknown=why)
