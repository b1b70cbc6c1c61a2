"""One working life of the worker: engine process, heartbeats and runs side by side, and an orderly end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from anime_common.failpoints import hit
from anime_generator import model
from anime_generator.model import Stage

if TYPE_CHECKING:
    from anime_generator.desk import Desk
    from anime_generator.engine_host import EngineHost
    from anime_generator.heart import Heart
    from anime_generator.reporter import Reporter
    from anime_generator.runner import Runner

log = structlog.get_logger(__name__)

STOPS = "the worker stops"
CONFIRM_SHARE = 0.3
"""Of the time there is for stopping, what is kept for the last facts."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Times in seconds: a running attempt may go on for `finish_grace`, all in all there is `stop_grace`.

    `resumable` is whether what runs goes on without us, and can be taken up by the next incarnation.
    """

    desk: Desk
    host: EngineHost
    heart: Heart
    runner: Runner
    reporter: Reporter
    finish_grace: float
    stop_grace: float
    resumable: bool = False

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then end in order; raises what any part raises."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.host.serve(), name="engine host")
            beating = parts.create_task(self.heart.beat(), name="heartbeat")
            running = parts.create_task(self.runner.run(), name="runner")
            await stop.wait()
            left = await self._finish(beating)
            running.cancel()
            beating.cancel()
        if not left:
            await self.heart.send(goodbye=True)

    async def _finish(self, beating: asyncio.Task[None]) -> bool:
        """Give back what waits, let what runs end within its grace, else give it back too; then wait for the facts.

        What goes on without us is left instead, without goodbye: true when there is such.
        """
        left = False
        self.desk.apply(model.drain(self.desk.worker, STOPS, datetime.now(UTC)))
        grace = min(self.finish_grace, self.stop_grace * (1 - CONFIRM_SHARE))
        try:
            async with asyncio.timeout(grace):
                while self.desk.worker.in_stage(Stage.RUNNING, Stage.SAVING):
                    await self.desk.news()
        except TimeoutError:
            unfinished = [each.id for each in self.desk.worker.in_stage(Stage.RUNNING, Stage.SAVING)]
            left = self.resumable and bool(unfinished)
            if left:
                beating.cancel()  # a heartbeat that does not list them would say that they are lost
                self.desk.apply((model.leave(self.desk.worker), ()))
                log.info("attempts_left", attempts=len(unfinished), reason=STOPS)
            else:
                log.info("attempts_released", attempts=len(unfinished), reason=STOPS)
                self.desk.apply(model.release(self.desk.worker, unfinished, STOPS, datetime.now(UTC)))
        await self.host.close()
        if not await self.reporter.settle(self.stop_grace * CONFIRM_SHARE):
            log.warning("facts_unconfirmed", attempts=len(self.desk.worker.attempts))
            self.reporter.give_up()
        await hit("generator.before_goodbye")
        return left
