"""Sends commands to the ledger and waits for their answers.

A command is stored by the broker before it counts as sent; its answer is an event that names the command's id. Whoever
is not answered in time gets the promise that it will be carried out; whoever cannot know whether the broker stored it
is told exactly that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from anime_common import failpoints
from anime_common.bus import Bus, Stored
from anime_common.contracts.jobs import CommandDone, CommandRefused
from anime_common.messages import Message, Outgoing, uuid7
from anime_common.outcomes import NotStored, Refused, Unavailable
from anime_gateway import metrics
from anime_gateway.feed import ANSWERS, readable

log = structlog.get_logger(__name__)

CLIENT = "gateway"
PAUSE = 0.1
BUS_AWAY = "the message bus is away, and nothing was sent: try again soon"
NOT_STORED = "the message bus took no command now, and nothing will come of this one: try again soon"


class CommandRefusal(Refused):
    """The ledger refused a command; `job_id` is the job's, if it has one."""

    def __init__(self, answer: CommandRefused) -> None:
        super().__init__(answer.status, answer.code, answer.message, answer.field)
        self.job_id = answer.job_id


class OutcomeUnknown(Refused):
    """The broker did not confirm a command: it may be stored or not. Asking again with the same ids is safe."""

    def __init__(self, job: str) -> None:
        text = "the message bus did not confirm the command in time; look whether it took effect, or send it again"
        super().__init__(504, "outcome_unknown", text)
        self.job = job


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that is stored; `answer` is absent when the ledger has not answered in time."""

    id: UUID
    answer: CommandDone | None


@dataclass(slots=True)
class _Attempt:
    """Whether the broker may have stored a command, and whether it refused to, when asked last."""

    unsure: bool = False
    refused: bool = False

    def failure(self, job: str) -> Refused:
        """What to tell whoever sent it."""
        if self.unsure:
            return OutcomeUnknown(job)
        return Refused(503, "not_stored", NOT_STORED) if self.refused else Refused(503, "unavailable", BUS_AWAY)


class Commands:
    """The commands under way. `wait` is for answers, `publish_wait` for the broker's confirmation; seconds."""

    def __init__(self, bus: Bus, *, wait: float, publish_wait: float) -> None:
        self._bus = bus
        self._wait = wait
        self._publish_wait = publish_wait
        self._waiting: dict[str, asyncio.Future[CommandDone | CommandRefused]] = {}

    def overhear(self, stored: Stored) -> None:
        """Take in an event: it may be the answer somebody waits for."""
        if not stored.subject.startswith(ANSWERS):
            return
        waiting = self._waiting.get(stored.subject.rsplit(".", 1)[-1])
        if waiting is None or waiting.done():
            return
        answer = readable(stored)
        if isinstance(answer, (CommandDone, CommandRefused)):
            waiting.set_result(answer)

    async def send(self, command: Message, job: str, *, wait: float = 0.0) -> Sent:
        """Send a command about `job`; raises Refused as it failed. Waits longer if `wait` is more."""
        ident = uuid7()
        answered: asyncio.Future[CommandDone | CommandRefused] = asyncio.get_running_loop().create_future()
        self._waiting[str(ident)] = answered
        out = Outgoing(command, str(ident), (("client", CLIENT),))
        name = command.wire.removeprefix("jobs.")
        try:
            await failpoints.hit(f"gateway.{name}.before_publish")
            attempt = _Attempt()
            if not await self._stored(out, answered, attempt):
                metrics.COMMANDS.labels(command=name, outcome="unknown" if attempt.unsure else "unsent").inc()
                raise attempt.failure(job)
            await failpoints.hit(f"gateway.{name}.after_publish")
            await asyncio.wait({answered}, timeout=max(self._wait, wait))
        finally:
            del self._waiting[str(ident)]
        answer = answered.result() if answered.done() else None
        if isinstance(answer, CommandRefused):
            metrics.COMMANDS.labels(command=name, outcome="refused").inc()
            raise CommandRefusal(answer)
        metrics.COMMANDS.labels(command=name, outcome="done" if answer else "pending").inc()
        return Sent(ident, answer)

    async def _stored(
        self, out: Outgoing, answered: asyncio.Future[CommandDone | CommandRefused], attempt: _Attempt
    ) -> bool:
        """Publish until the broker confirms, or the answer shows that it has; False when neither comes in time."""
        publishing = asyncio.create_task(self._publish(out, attempt))
        try:
            either: set[asyncio.Future[Any]] = {publishing, answered}
            done, _ = await asyncio.wait(either, timeout=self._publish_wait, return_when=asyncio.FIRST_COMPLETED)
            if publishing in done:
                publishing.result()
            return bool(done)
        finally:
            publishing.cancel()

    async def _publish(self, out: Outgoing, attempt: _Attempt) -> None:
        while True:
            # Whoever gives up in the middle of this cannot know; one clear refusal says nothing of earlier tries.
            before, attempt.unsure = attempt.unsure, True
            try:
                await self._bus.publish(out)
            except NotStored as error:
                attempt.unsure, attempt.refused = before, self._bus.connected
                log.warning("publish_repeated", command=out.id, error=str(error))
            except Unavailable as error:
                log.warning("publish_repeated", command=out.id, error=str(error))
            else:
                return
            await asyncio.sleep(PAUSE)
