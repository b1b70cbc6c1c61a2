"""The loop of a durable consumer: pull, decode, handle, and turn the outcome into ack, retry or dead letter.

A handler gets a batch and returns, or raises. `Unavailable` means infrastructure is away: the batch goes back, pulling
pauses, nothing counts. Any other error of a batch makes its messages run alone; one that fails alone `attempts` times,
or that cannot be decoded, is stored as a dead letter and then terminated.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from anime_common import metrics
from anime_common.clock import happens
from anime_common.messages import Envelope, Message, Undecodable, decode, read_envelope
from anime_common.outcomes import Poison, Unavailable

if TYPE_CHECKING:
    from anime_common.bus import Bus
    from anime_common.pull import Pull, Pulled
    from anime_common.topology import Consumer

log = structlog.get_logger(__name__)

MAX_PAUSE = 2.0

_HEADER_NAME = re.compile(r"(?!nats-)[!#$%&'*+.^_`|~0-9a-z-]+", re.IGNORECASE)
"""Headers that a dead letter keeps: not the server's own, and none whose name cannot be sent again."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A decoded message of a durable consumer."""

    envelope: Envelope
    message: Message
    pulled: Pulled

    @property
    def id(self) -> str:
        """Its ce-id: unique per message, stable per meaning."""
        return self.envelope.id


Handle = Callable[[Sequence[Delivery]], Awaitable[None]]
OnDead = Callable[["Pulled", str, "str | None"], Awaitable[None]]


@dataclass(slots=True)
class Loop:
    """Consumes one durable consumer until `stop`. Times in seconds.

    `on_dead` is told of each dead letter before it is stored (message, reason, field). It may raise Unavailable; any
    other error of it is logged, since a message that even this cannot handle must not stop those behind it.
    """

    bus: Bus
    consumer: Consumer
    handle: Handle
    stop: asyncio.Event
    on_dead: OnDead | None = None
    batch: int = 64
    expires: float = 1.0
    attempts: int = 5
    _failures: Counter[str] = field(default_factory=Counter)
    _pause: float = 0.0

    async def run(self) -> None:
        """Pull and handle until stopped; then give back what is left."""
        pull = await self._open()
        try:
            while not self.stop.is_set():
                try:
                    pulled = await pull.fetch(self.batch, self.expires)
                except Unavailable as error:
                    await self._rest(error)
                    continue
                if pulled:
                    await self._take(pulled)
                else:
                    self._pause = 0.0
            for message in await pull.rest():
                await self.bus.nak(message)
        finally:
            await pull.close()

    async def _open(self) -> Pull:
        return await self.bus.pull(self.consumer.stream, self.consumer.name)

    async def _rest(self, error: Unavailable) -> None:
        if self._pause == 0.0:
            log.warning("consumer_waits", consumer=self.consumer.name, error=str(error))
        self._pause = min(max(self._pause * 2, 0.05), MAX_PAUSE)
        await happens(self.stop, within=self._pause)

    async def _take(self, pulled: Sequence[Pulled]) -> None:
        batch: list[Delivery] = []
        try:
            for message in pulled:
                try:
                    envelope = read_envelope(message.subject, message.headers)
                    batch.append(Delivery(envelope, decode(envelope, message.data), message))
                except Undecodable as error:
                    await self._bury(message, str(error), error.field)
            if batch:
                await self._attempt(batch)
        except Unavailable as error:
            for message in pulled:
                await self.bus.nak(message, delay=0.1)
            await self._rest(error)
        else:
            self._pause = 0.0

    async def _attempt(self, batch: Sequence[Delivery]) -> None:
        began = time.perf_counter()
        try:
            await self.handle(batch)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - any error of a handler is an outcome: it is logged and counted
            if len(batch) > 1:
                log.warning("batch_failed", consumer=self.consumer.name, size=len(batch), error=repr(error))
                for delivery in batch:
                    await self._attempt([delivery])
            else:
                await self._failed(batch[0], error)
            return
        metrics.HANDLE_SECONDS.labels(consumer=self.consumer.name).observe(time.perf_counter() - began)
        metrics.HANDLED.labels(consumer=self.consumer.name, outcome="done").inc(len(batch))
        for delivery in batch:
            self._failures.pop(delivery.id, None)
            await self.bus.ack(delivery.pulled)

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        self._failures[delivery.id] += 1
        count = self._failures[delivery.id]
        log.error("handler_failed", consumer=self.consumer.name, ce_id=delivery.id, failures=count, exc_info=error)
        if isinstance(error, Poison) or count >= self.attempts:
            await self._bury(delivery.pulled, f"failed {count} times: {error!r}", None)
            self._failures.pop(delivery.id, None)
        else:
            metrics.HANDLED.labels(consumer=self.consumer.name, outcome="retry").inc()
            await self.bus.nak(delivery.pulled, delay=min(0.1 * 2**count, 10.0))

    async def _bury(self, message: Pulled, reason: str, field_name: str | None) -> None:
        """Store a dead letter with everything needed to replay it, then terminate the message."""
        log.error("dead_letter", consumer=self.consumer.name, subject=message.subject, reason=reason)
        await self._tell_of_death(message, reason, field_name)
        original = {name: value for name, value in message.headers.items() if _HEADER_NAME.fullmatch(name)}
        headers = original | {
            "Nats-Msg-Id": f"dead:{self.consumer.name}:{message.stored_at.timestamp()}:{message.stream_sequence}",
            "anime-reason": " ".join(reason.split())[:1000],
            "anime-subject": message.subject,
            "anime-deliveries": str(message.deliveries),
        }
        await self.bus.store(self.consumer.dead_subject, headers, message.data)
        await self.bus.term(message, reason)
        metrics.HANDLED.labels(consumer=self.consumer.name, outcome="dead").inc()

    async def _tell_of_death(self, message: Pulled, reason: str, field_name: str | None) -> None:
        if self.on_dead is None:
            return
        try:
            await self.on_dead(message, reason, field_name)
        except Unavailable:
            raise
        except Exception:
            log.exception("on_dead_failed", consumer=self.consumer.name, subject=message.subject)
