"""The worker's state, and the doing of what it decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from anime_generator import model
from anime_generator.model import Decision, Effect, Forget, Interrupt, Report, Unload, Worker

if TYPE_CHECKING:
    from uuid import UUID

    from anime_common.contracts.vocabulary import AttemptProgress
    from anime_generator.engine_host import EngineHost
    from anime_generator.reporter import Reporter


class Desk:
    """Holds the one `Worker` of this process. `changed` is called when a heartbeat would tell something new."""

    def __init__(self, worker: Worker, host: EngineHost, changed: Callable[[], None]) -> None:
        self.worker = worker
        self._host = host
        self._changed = changed
        self._reporter: Reporter | None = None
        self._news = asyncio.Event()

    def publish_through(self, reporter: Reporter) -> None:
        """Facts go out through this reporter, which tells us when they are confirmed."""
        self._reporter = reporter

    def apply(self, decision: Decision) -> None:
        """Take a decision as the new state and do what follows from it."""
        self.worker, effects = decision
        for effect in effects:
            self._do(effect)
        self._news.set()
        self._news = asyncio.Event()
        self._changed()

    def note(self, progress: AttemptProgress) -> None:
        """Remember how far an attempt is; the next heartbeat tells it."""
        self.worker = model.advance(self.worker, progress)

    def confirmed(self, attempt_id: UUID) -> None:
        """The last fact about an attempt is stored."""
        self.apply((model.confirmed(self.worker, attempt_id), ()))

    def holds(self, attempt_id: UUID) -> bool:
        """Whether the attempt is still ours to work on."""
        return attempt_id in self.worker.attempts

    async def news(self) -> None:
        """Wait for the next decision."""
        await self._news.wait()

    def _do(self, effect: Effect) -> None:
        assert self._reporter is not None
        if isinstance(effect, Report):
            attempt = self.worker.attempts.get(effect.fact.attempt_id)
            self._reporter.report(effect.fact, attempt.traceparent if attempt else None)
        elif isinstance(effect, Interrupt):
            self._host.stop(effect.attempts)
        elif isinstance(effect, Forget):
            self._reporter.forget(effect.attempts)
        else:
            assert isinstance(effect, Unload)
            self._host.give_up(effect.model)
