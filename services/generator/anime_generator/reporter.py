"""Facts on their way to the broker: in order for each attempt, again and again until they are confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from anime_common.contracts.generator import AttemptFact, AttemptFinished, AttemptStarted, FactPosition
from anime_common.failpoints import hit
from anime_common.messages import Outgoing
from anime_common.outcomes import Unavailable
from anime_common.topology import FACTS
from anime_generator import metrics

if TYPE_CHECKING:
    from uuid import UUID

    from anime_common.bus import Bus, Published

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[Any]"]


class Reporter:
    """Publishes facts; `on_confirmed` is called with the attempt once its last fact is stored."""

    def __init__(self, bus: Bus, spawn: Spawn, on_confirmed: Callable[[UUID], None]) -> None:
        self._bus = bus
        self._spawn = spawn
        self._on_confirmed = on_confirmed
        self._latest: dict[UUID, asyncio.Task[Any]] = {}
        self._stream_created: str | None = None
        self._last: FactPosition | None = None
        bus.on_reconnect(self._suspect_stream)

    @property
    def last_fact(self) -> FactPosition | None:
        """Where our last confirmed fact lies."""
        return self._last

    @property
    def idle(self) -> bool:
        """Whether every fact is confirmed or forgotten."""
        return not self._latest

    def report(self, fact: AttemptFact, traceparent: str | None = None) -> None:
        """Publish a fact in its job's own trace, after those about the same attempt that were reported before."""
        before = self._latest.get(fact.attempt_id)
        out = Outgoing(fact, fact.ident(), traceparent=traceparent)
        self._latest[fact.attempt_id] = self._spawn(self._deliver(fact, out, before), f"fact {out.id}")

    def forget(self, attempts: tuple[UUID, ...]) -> None:
        """Stop publishing about these attempts; what is stored already stays."""
        for attempt_id in attempts:
            task = self._latest.pop(attempt_id, None)
            if task is not None:
                task.cancel()

    async def settle(self, within: float) -> bool:
        """Wait until all is confirmed, at most `within` seconds; whether it is."""
        if self._latest:
            await asyncio.wait(set(self._latest.values()), timeout=within)
        return self.idle

    def give_up(self) -> None:
        """Stop publishing altogether: the service ends."""
        self.forget(tuple(self._latest))

    async def _deliver(self, fact: AttemptFact, out: Outgoing, before: asyncio.Task[Any] | None) -> None:
        mine = asyncio.current_task()
        try:
            if before is not None:
                await asyncio.shield(before)
            await self._confirm(fact, out)
        except asyncio.CancelledError:
            if before is not None:
                before.cancel()
            raise
        finally:
            if self._latest.get(fact.attempt_id) is mine:
                del self._latest[fact.attempt_id]
        if not isinstance(fact, AttemptStarted):
            metrics.ATTEMPTS.labels(outcome=fact.wire.rpartition(".")[2]).inc()
            self._on_confirmed(fact.attempt_id)
        if isinstance(fact, AttemptFinished):
            await hit("generator.after_finished")

    async def _confirm(self, fact: AttemptFact, out: Outgoing) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                stored = await self._bus.publish(out)
                await self._locate(stored)
            except Unavailable as error:
                log.warning("fact_unconfirmed", fact=out.id, error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                log.info("fact", fact=fact.wire, job_id=str(fact.job_id), attempt_id=str(fact.attempt_id))
                return

    async def _locate(self, stored: Published) -> None:
        """Note where the fact lies. A sequence means nothing without knowing which creation of the stream it is of."""
        if self._last is not None and stored.sequence < self._last.sequence and not stored.duplicate:
            self._stream_created = None  # sequences only fall when the stream was made anew
        if self._stream_created is None:
            self._stream_created = (await self._bus.stream_state(FACTS)).created
        position = FactPosition(stream_created=self._stream_created, sequence=stored.sequence)
        same = self._last is not None and self._last.stream_created == position.stream_created
        if self._last is None or not same or position.sequence > self._last.sequence:
            self._last = position

    def _suspect_stream(self) -> None:
        self._stream_created = None
