"""The queue and the history of a painter, and the one worker that empties the former into the latter."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.comfyui.painter_manners import Manners
from tests.comfyui.painter_runs import Job, Result, Run
from tests.comfyui.painter_wire import EVERYBODY, Wire


class Queue:
    """Prompts by their numbers. May be added to from any thread; `freed` are the bodies of `/free`.

    `emptied` counts how often it dropped what nodes had left, which it does between two prompts.
    """

    def __init__(self, folder: Path, manners: Manners, wire: Wire) -> None:
        self.manners = manners
        self.pending: list[Job] = []
        self.running: Job | None = None
        self.history: dict[str, Any] = {}
        self.freed: list[dict[str, Any]] = []
        self.emptied = 0
        self._folder, self._wire = folder, wire
        self._numbers = 0
        self._cache: dict[str, Result] = {}
        self._to_empty = False

    def number(self, body: Mapping[str, Any]) -> float:
        """The number of the next prompt, which is used up though the prompt may be refused."""
        if "number" in body:
            return float(body["number"])
        self._numbers += 1
        return 1 - self._numbers if body.get("front") else self._numbers - 1

    def put(self, body: Mapping[str, Any], outputs: list[str], number: float | None = None) -> Job:
        """Take a prompt."""
        extra = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        job = Job(
            self.number(body) if number is None else number,
            str(body.get("prompt_id", uuid4())),
            dict(body["prompt"]),
            extra,
            extra.get("client_id"),
            outputs,
        )
        insort(self.pending, job, key=attrgetter("number"))
        self._announce()
        return job

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """Take prompts out that wait; the last one is announced twice."""
        for prompt_id in prompt_ids:
            for job in [each for each in self.pending if each.prompt_id == prompt_id][:1]:
                if len(self.pending) == 1:
                    self._announce()
                self.pending.remove(job)
                self._announce()

    def clear(self) -> None:
        """Take all out that wait."""
        self.pending.clear()
        self._announce()

    def interrupt(self, prompt_id: str | None) -> None:
        """Stop what runs, if it is this prompt or none is named; others are not affected."""
        if self.running is not None and prompt_id in {None, self.running.prompt_id}:
            self.running.interrupted = True

    def free(self, body: dict[str, Any]) -> None:
        """Drop what nodes have left, as soon as nothing runs."""
        self.freed.append(body)
        self._to_empty |= bool(body.get("free_memory"))

    def status(self) -> dict[str, Any]:
        """How many prompts wait or run."""
        return {"exec_info": {"queue_remaining": len(self.pending) + (self.running is not None)}}

    async def work(self, classes: Callable[[], dict[str, Any]]) -> None:
        """Run prompts for ever."""
        while True:
            if self._to_empty:
                self._cache.clear()
                self._to_empty = False
                self.emptied += 1
            if not self.pending:
                await asyncio.sleep(0.002)
                continue
            self.running = job = self.pending.pop(0)
            self._announce()
            await self._work(job, classes())

    async def _work(self, job: Job, known: dict[str, Any]) -> None:
        run = Run(job, self._folder, self.manners, self._wire, self._cache)
        success = await run.go(known)
        if self.manners.history_late:
            await asyncio.sleep(self.manners.history_late)
        status = {"status_str": "success" if success else "error", "completed": success, "messages": job.messages}
        meta = {
            name: {"node_id": name, "display_node": name, "parent_node": None, "real_node_id": name}
            for name in run.outputs
        }
        self.history.pop(job.prompt_id, None)
        self.history[job.prompt_id] = {"prompt": job.entry(), "outputs": run.outputs, "status": status, "meta": meta}
        self.running = None
        self._announce()
        if job.client_id is not None:
            self._wire.tell(job.client_id, "executing", {"node": None, "prompt_id": job.prompt_id})

    def _announce(self) -> None:
        self._wire.tell(EVERYBODY, "status", {"status": self.status()})
