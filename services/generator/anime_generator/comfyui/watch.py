"""Follows one ComfyUI server from the service: what it has, whether it answers, what waits in its queue, what is ours.

What is drawn, and the memory of its card, is the business of the engine process; this goes on while that is busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from uuid import UUID

import structlog

from anime_common.clock import happens
from anime_generator.comfyui import marks, records, shelf
from anime_generator.comfyui.faults import clean
from anime_generator.comfyui.manifest import Workflow, load_workflows
from anime_generator.comfyui.marks import Mark, Ours
from anime_generator.comfyui.server import Refused, Server, TooLarge, Unreachable
from anime_generator.comfyui.servers import ServersError, read_server
from anime_generator.comfyui.shelf import CHECKPOINTS, LORAS, UPSCALE_MODELS, Found
from anime_generator.registry import Registry

log = structlog.get_logger(__name__)

ANSWERS_WITHIN = 5.0
"""Seconds that an answer may take."""
PATIENCE = 2
"""Looks in a row without an answer after which its models are withdrawn."""
HISTORY = 400
"""Ended prompts that are looked through for ours when we start."""
ORPHANED = 2
"""Looks in a row at which a prompt of ours that nobody holds is seen before it is stopped."""


class Watch:
    """One server as the worker that drives it announces it; holds what `LiveRegistry` holds for other workers."""

    def __init__(self, file: Path, name: str, held: Callable[[], Container[UUID]]) -> None:
        """`held` are the attempts that the worker holds now. Raises ServersError."""
        self._file = file
        self._name = name
        self._held = held
        self._servers, self.remote = read_server(file, name)
        self._server = Server(self.remote.url, self.remote.headers, ANSWERS_WITHIN)
        self._stamp: tuple[object, ...] = ()
        self._texts: dict[tuple[str, str], Mapping[str, str]] = {}
        self._stock = shelf.NOTHING
        self._silent = 0
        self._problem = "the ComfyUI server has not been asked yet"
        self._mistakes: tuple[str, ...] = ()
        self._orphans: dict[str, int] = {}
        self.backlog: int | None = None

    @property
    def current(self) -> Registry:
        """What can be drawn now: nothing while the server is away."""
        return self._stock.registry

    def engine(self, model: str) -> str:
        """The engine of a model, which is the one that there is."""
        return shelf.ENGINE if model else ""

    def warnings(self) -> tuple[str, ...]:
        """What heartbeats tell of."""
        away = (f"{self.remote.url}: {self._problem}",) if self._problem else ()
        return (*away, *self._mistakes, *self._stock.warnings)

    def resume(self) -> tuple[Mark, ...]:
        """What an earlier life of this worker left on the server; nothing when it does not answer."""
        try:
            queue = self._server.queue()
            found = marks.ours(self._name, queue, self._server.history(HISTORY))
        except (Unreachable, Refused, TooLarge) as error:
            log.warning("comfyui_not_resumed", server=self.remote.url, reason=str(error))
            return ()
        return marks.resumable(found, time.time())

    async def follow(self, interval: float, changed: Callable[[], None], stop: asyncio.Event) -> None:
        """Look at the server every `interval` seconds until `stop`; `changed` hears of what heartbeats tell of."""
        while True:
            if await asyncio.to_thread(self.look):
                changed()
            if await happens(stop, within=interval):
                self._server.close()
                return

    def look(self) -> bool:
        """Look once; whether anything is otherwise than before. Runs outside of the event loop."""
        before = (self._stock, self._problem, self._mistakes, self.backlog)
        try:
            self._look()
        except Unreachable as error:
            self._away(f"does not answer: {clean(str(error))}")
        except Refused as refused:
            hint = ": are its headers right?" if refused.status in {401, 403} else ""
            self._away(f"answers with HTTP {refused.status}{hint}", at_once=True)
        except TooLarge as error:
            self._away(f"answers with {error}", at_once=True)
        return (self._stock, self._problem, self._mistakes, self.backlog) != before

    def _look(self) -> None:
        queue = self._server.queue()
        mine = marks.ours(self._name, queue, {})
        self.backlog = records.waiting(queue) - len(mine)
        self._stop_orphans(mine)
        self._restock()
        if self._problem:
            log.info("comfyui_answers", server=self.remote.url, models=sorted(self.current.models))
        self._silent, self._problem = 0, ""

    def _restock(self) -> None:
        """Ask for what it has; its node classes, of which it tells in megabytes, only when that has changed."""
        files = tuple(self._server.models(folder) for folder in (CHECKPOINTS, LORAS, UPSCALE_MODELS))
        stamp = (files, _stamp(self._file), _folder_stamp(self.remote.workflows))
        if stamp == self._stamp and not self._problem:
            return
        workflows = self._reread()
        checkpoints, loras, upscalers = files
        for folder, names in ((CHECKPOINTS, checkpoints), (LORAS, loras)):
            for name in names:
                # Kept one by one: an answer that fails among hundreds must not have all of them asked for again.
                if (folder, name) not in self._texts:
                    self._texts[folder, name] = self._server.texts(folder, name)
        found = Found(checkpoints, loras, upscalers, self._texts, self._server.object_info())
        fresh = shelf.stock(self._servers, found, workflows, inline=self.remote.inline)
        if fresh != self._stock:
            log.info("comfyui_stock", server=self.remote.url, models=sorted(fresh.registry.models))
        self._stock, self._stamp = fresh, stamp

    def _reread(self) -> dict[str, Workflow]:
        """The owner's file and workflows as they are now; as shipped, or as before, where they cannot be used."""
        mistakes: list[str] = []
        try:
            servers, remote = read_server(self._file, self._name)
        except ServersError as error:
            mistakes += [f"{self._file.name} is not in force as it stands: {each}" for each in error.problems]
        else:
            if remote != self.remote:
                mistakes.append(
                    f"{self._file.name}: what has changed of servers.{self._name} is taken at the next start"
                )
            self._servers = servers
        workflows, wrong = load_workflows(self.remote.workflows)
        mistakes += [f"the workflow {each.name} is left out: {'; '.join(each.problems)}" for each in wrong]
        for each in set(mistakes) - set(self._mistakes):
            log.error("comfyui_refused", problem=each)
        self._mistakes = tuple(mistakes)
        return workflows

    def _stop_orphans(self, mine: tuple[Ours, ...]) -> None:
        """Stop prompts of ours that belong to no attempt in hand: what was given up while we were away, say."""
        held = self._held()
        orphans = [each for each in mine if each.mark.job.attempt_id not in held]
        self._orphans = {each.prompt_id: self._orphans.get(each.prompt_id, 0) + 1 for each in orphans}
        for each in orphans:
            if self._orphans[each.prompt_id] >= ORPHANED:
                log.warning("comfyui_orphan", prompt_id=each.prompt_id, running=each.running)
                (self._server.interrupt if each.running else self._server.delete)(each.prompt_id)

    def _away(self, problem: str, *, at_once: bool = False) -> None:
        self._silent += 1
        if at_once or self._silent >= PATIENCE:
            if self._stock != shelf.NOTHING:
                log.warning("comfyui_away", server=self.remote.url, reason=problem)
            self._stock, self.backlog = shelf.NOTHING, None
        self._problem = f"the ComfyUI server {problem}"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _folder_stamp(folder: Path | None) -> tuple[object, ...]:
    if folder is None:
        return ()
    return tuple((path.name, *_stamp(path)) for path in sorted(folder.glob("*")) if path.suffix in {".json", ".toml"})
