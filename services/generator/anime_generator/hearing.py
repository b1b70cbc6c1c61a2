"""The reports of one run, on their way from the engine process to whoever ordered it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from anime_generator import wire


@dataclass(frozen=True, slots=True)
class Heard:
    """A report about a run, with its blob."""

    report: wire.Began | wire.Stepped | wire.Preview | wire.Painted | wire.Ended
    blob: bytes = b""


class Hearing:
    """A run as the service hears it: every attempt gets exactly one `wire.Ended`; None in the queue is the last."""

    def __init__(self, number: int, attempts: set[UUID]) -> None:
        self.number = number
        self.open = attempts
        self.lone = len(attempts) == 1
        self.sent = False
        self.queue: asyncio.Queue[Heard | None] = asyncio.Queue()

    def hear(self, heard: Heard) -> None:
        """The engine process told something."""
        if isinstance(heard.report, wire.Ended):
            self.open.discard(heard.report.attempt_id)
        self.queue.put_nowait(heard)

    def finish(self) -> None:
        """The engine process says that the run is over."""
        if self.open:
            self.fail("engine_error", "the engine process forgot attempts")
        self.queue.put_nowait(None)

    def fail(self, code: str, message: str) -> None:
        """End every attempt that has no end yet, as one that may be tried again."""
        for attempt_id in tuple(self.open):
            ended = wire.Ended(
                run=self.number,
                attempt_id=attempt_id,
                outcome="failed",
                code=code,
                message=message,
                lone=self.lone,
            )
            self.hear(Heard(ended))
        self.queue.put_nowait(None)
