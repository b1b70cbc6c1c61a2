"""Follows a job to its end: by server-sent events that resume where they broke off, else by polling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError
from pydantic import TypeAdapter

from anime_cli.api import BASE, Api, Problem, problem_of, unreachable
from anime_cli.errors import CliError, ExitStatus
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import Progress
from anime_common.messages import Model

SILENCE = 40.0
"""The gateway says something every 15 s: after so many seconds the connection is taken for dead."""

STREAM_TRIES = 3
POLL = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class _Snapshot(Model):
    jobs: tuple[JobView, ...]


class _Change(Model):
    job: JobView


_PROGRESS: TypeAdapter[Progress] = TypeAdapter(Progress)


@dataclass(slots=True)
class Follower:
    """One job as it changes. `promised` says that the ledger may not know it yet. Times in seconds.

    After `patience` without any answer of the gateway it gives up.
    """

    api: Api
    job: str
    promised: bool = False
    patience: float = 120.0
    view: JobView | None = None
    _last_id: str | None = None
    _streams_failed: int = 0
    _pause: float = FIRST_PAUSE
    _heard: float = field(default_factory=time.monotonic)

    async def views(self) -> AsyncGenerator[JobView, None]:
        """The job after every change, the last one ended; raises CliError."""
        while self.view is None or not self.view.state.ended:
            try:
                if self._streams_failed < STREAM_TRIES:
                    async with aclosing(self._stream()) as views:
                        async for view in views:
                            yield view
                else:
                    yield await self._polled()
                    await asyncio.sleep(POLL)
            except SSEError:
                # Something between us and the gateway does not let streams through.
                self._streams_failed = STREAM_TRIES
            except (httpx.TransportError, CliError) as error:
                self._streams_failed += 1
                await self._wait_out(error)

    async def _stream(self) -> AsyncGenerator[JobView, None]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        timeout = httpx.Timeout(10.0, read=SILENCE)
        path = f"{BASE}/jobs/{self.job}/events"
        async with self.api.client.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                raise await problem_of(answer)
            if answer.status_code == 204:
                # The end was told already, to somebody who asked with the same id.
                yield await self._polled()
                return
            async for event in EventSource(answer).aiter_sse():
                self._answered()
                self._last_id = event.id or self._last_id
                if (view := self._applied(event)) is not None:
                    yield view

    async def _polled(self) -> JobView:
        self.view = await self.api.get(f"/jobs/{self.job}", JobView)
        self._answered(stream=False)
        return self.view

    def _applied(self, event: ServerSentEvent) -> JobView | None:
        """The job after an event; None when that says nothing of it."""
        match event.event:
            case "snapshot":
                found = _Snapshot.model_validate_json(event.data, extra="ignore").jobs
                self.view = found[0] if found else self.view
            case "job":
                self.view = _Change.model_validate_json(event.data, extra="ignore").job
            case "progress" if self.view is not None:
                progress = _PROGRESS.validate_json(event.data, extra="ignore")
                self.view = self.view.model_copy(update={"progress": progress})
            case "reset":
                self._last_id = None
                return None
            case _:
                return None
        return self.view

    def _answered(self, *, stream: bool = True) -> None:
        self._heard, self._pause, self.promised = time.monotonic(), FIRST_PAUSE, False
        if stream:
            self._streams_failed = 0

    async def _wait_out(self, error: httpx.TransportError | CliError) -> None:
        """Pause after an error that may pass; raises one that does not, or that has lasted too long."""
        passing = isinstance(error, httpx.TransportError) or error.status is ExitStatus.UNREACHABLE
        if isinstance(error, Problem) and self.promised and error.code == "not_found":
            self._heard = time.monotonic()
            passing = True
        if not passing or time.monotonic() - self._heard > self.patience:
            raise error if isinstance(error, CliError) else unreachable(self.api.url, error) from error
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
