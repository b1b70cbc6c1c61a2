"""Live progress of one attempt on the bus, never faster than ten messages a second."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anime_common.contracts.generator import JobProgress
from anime_generator.progress import Pacer

if TYPE_CHECKING:
    from anime_common.bus import Bus
    from anime_common.contracts.vocabulary import AttemptProgress
    from anime_generator.desk import Desk
    from anime_generator.progress import Tracker
    from anime_generator.reporter import Spawn


class Feed:
    """Publishes what a tracker shows. What is too soon is not lost: the latest goes out as soon as it may."""

    def __init__(self, bus: Bus, desk: Desk, tracker: Tracker, spawn: Spawn) -> None:
        self._bus = bus
        self._desk = desk
        self._spawn = spawn
        self._pacer = Pacer()
        self._late: asyncio.TimerHandle | None = None
        self._ended = False
        self._sent: AttemptProgress | None = None
        self.tracker = tracker

    async def tell(self) -> None:
        """Publish the progress now, or shortly; a change of phase may use what is kept for that."""
        if not self._desk.holds(self.tracker.attempt_id):
            return  # it was taken from us: whoever has it now tells of it
        if self._late is not None and self._sent is not None and self._sent.phase is self.tracker.phase:
            return  # the latest goes out soon
        progress = self.tracker.view()
        self._desk.note(progress)
        if progress == self._sent:
            return
        urgent = self._sent is None or progress.phase is not self._sent.phase
        loop = asyncio.get_running_loop()
        if self._pacer.admit(loop.time(), urgent=urgent):
            self._forget_late()
            await self._send(progress)
        elif self._late is None and not self._ended:
            self._late = loop.call_later(self._pacer.wait(loop.time()), self._send_late)

    async def preview(self, jpeg: bytes) -> None:
        """Publish a preview picture."""
        self.tracker.preview = True
        await self._bus.tell_bytes(f"anime.tel.preview.{self.tracker.job_id}.{self.tracker.attempt_id}", jpeg)

    def end(self) -> None:
        """Nothing more is to be told."""
        self._ended = True
        self._forget_late()

    async def _send(self, progress: AttemptProgress) -> None:
        self._sent = progress
        await self._bus.tell(JobProgress.model_validate(progress.model_dump()))

    def _send_late(self) -> None:
        self._late = None
        self._spawn(self.tell(), f"progress {self.tracker.attempt_id}")

    def _forget_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
