"""One active instance of a duty: whoever holds a PostgreSQL advisory lock on a dedicated connection does the work.

Never a pooled connection: a pool releases advisory locks when a connection is given back. The work uses the same
connection, so a process that lost its lock cannot write; a frozen holder loses it by the server-side idle time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from anime_common import db, metrics
from anime_common.clock import happens
from anime_common.outcomes import Unavailable

log = structlog.get_logger(__name__)

Work = Callable[[Any], Awaitable[None]]


@dataclass(slots=True)
class Leader:
    """Runs `work(connection)` while this process holds the lock `name`; tries again for ever. Times in seconds.

    `work` must query at least every `idle_timeout / 2`: a silent connection is taken for a frozen process.
    """

    name: str
    connect: Callable[[], Awaitable[asyncpg.Connection[Any]]]
    stop: asyncio.Event
    retry: float = 0.5
    idle_timeout: float = 10.0
    leading: bool = False

    async def run(self, work: Work) -> None:
        """Until stopped: get the lock, do the work, start over when the connection or the lock is lost."""
        warned = False
        while not self.stop.is_set():
            try:
                await self._lead(work)
                warned = False
            except (Exception, Unavailable) as error:
                if not (isinstance(error, Unavailable) or db.is_unavailable(error)):
                    raise
                if not warned:
                    log.warning("leader_lost", lock=self.name, error=repr(error))
                warned = True
            finally:
                self.leading = False
                metrics.LEADING.labels(lock=self.name).set(0)
            await happens(self.stop, within=self.retry)

    async def _lead(self, work: Work) -> None:
        connection = await self.connect()
        try:
            await connection.execute(f"SET idle_session_timeout = {int(self.idle_timeout * 1000)}")
            while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", self.name):
                await happens(self.stop, within=self.retry)
                if self.stop.is_set():
                    return
            log.info("leading", lock=self.name)
            self.leading = True
            metrics.LEADING.labels(lock=self.name).set(1)
            working = asyncio.ensure_future(work(connection))
            stopping = asyncio.ensure_future(self.stop.wait())
            try:
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working
        finally:
            connection.terminate()
