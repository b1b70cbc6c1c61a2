"""Brings one prompt to its end on a ComfyUI server, whatever happens to the connection on the way.

What is heard on the WebSocket drives progress; how the prompt ended is asked over HTTP. It is asked when the server
says the end, when the socket is silent, gone or late, and after every doubt: a prompt is sent only when queue and
history have just said that the server does not know it, and one that was sent is never sent again before they did.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import structlog

from anime_generator.comfyui import faults
from anime_generator.comfyui.graph import Graph, nodes_of
from anime_generator.comfyui.records import Outcome, Prompt, Where
from anime_generator.comfyui.server import Closed, Refused, Server, Socket, Unreachable
from anime_generator.comfyui.tracking import Cost, SaidEnd, Told, Tracker
from anime_generator.engines.protocol import Cancelled, EngineError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long the socket may be silent before the server is asked, between two questions, without any
    answer, and without any sign that a prompt that runs gets on (`unseen`: while there is no socket, which alone
    tells). `tick` is how often a cancel is looked for.
    """

    silence: float = 3.0
    between: float = 1.0
    unreachable: float = 120.0
    stalled: float = 900.0
    unseen: float = 3600.0
    tick: float = 0.2


@dataclass(frozen=True, slots=True)
class Done:
    """A prompt that succeeded, and what its nodes cost."""

    prompt: Prompt
    costs: tuple[Cost, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run: an id of our own, a workflow, and what the server shall keep with it."""

    prompt_id: str
    graph: Graph
    extra: Mapping[str, Any]


class Conversation:
    """One prompt on one server. `tell` gets what is heard of it, `wanted` says whether it is still wanted, `looked`
    is called whenever the server was asked for it, with the number of prompts ahead of it while it waits.
    """

    def __init__(
        self,
        server: Server,
        order: Order,
        patience: Patience,
        tell: Callable[[Told], None],
        wanted: Callable[[], bool],
        looked: Callable[[int | None], None],
    ) -> None:
        self._server = server
        self._order = order
        self._patience = patience
        self._tell = tell
        self._wanted = wanted
        self._looked = looked
        self._nodes = nodes_of(order.graph)
        self._tracker = Tracker(order.prompt_id, self._nodes)
        self._socket: Socket | None = None
        self._client_id = ""
        self._opened = 0.0
        self._answered = self._asked = self._heard = self._advanced = time.monotonic()
        self._known = self._stopping = False

    def run(self) -> Done:
        """Run it, or go on with it where it runs already; raises EngineError, or Cancelled once it is stopped."""
        try:
            prompt = self._look()
            if prompt.where is Where.NOWHERE:
                if not self._wanted():
                    raise Cancelled
                self._open()
                prompt = self._submit()
            else:
                self._adopt(prompt)
            return self._done(self._follow(prompt))
        finally:
            self._close()

    def costs(self) -> tuple[Cost, ...]:
        """What its nodes have cost until now, however it goes on."""
        return self._tracker.costs(time.monotonic())

    def _adopt(self, prompt: Prompt) -> None:
        """It was sent in an earlier life of ours, whose socket is closed by now: hear on under the id of that."""
        client_id = prompt.extra.get("client_id")
        self._client_id = client_id if isinstance(client_id, str) else ""
        self._opened = -math.inf

    def _follow(self, prompt: Prompt) -> Prompt:
        """The prompt once it has ended."""
        lost = 0
        while prompt.where is not Where.ENDED:
            if prompt.where is Where.RUNNING:
                self._tracker.left_queue()
            lost = lost + 1 if prompt.where is Where.NOWHERE else 0
            if lost > 1:
                raise EngineError(faults.LOST, self._lost())
            if prompt.where is Where.PENDING:
                self._advanced = time.monotonic()
            if not self._wanted():
                self._stop(prompt)
                if prompt.where is Where.NOWHERE:
                    raise Cancelled
            self._reopen()
            self._listen(hurry=prompt.where is Where.NOWHERE)
            self._complain_if_stalled()
            prompt = self._look()
        return prompt

    def _listen(self, *, hurry: bool) -> None:
        """Hear messages until the server has to be asked."""
        while not self._due(hurry=hurry):
            if self._socket is None:
                time.sleep(self._patience.tick)
                continue
            try:
                message = self._socket.receive(self._patience.tick)
            except Closed as error:
                log.warning("comfyui_socket_lost", prompt_id=self._order.prompt_id, reason=str(error))
                self._close()
                return
            if message is None:
                continue
            now = self._heard = time.monotonic()
            before = self._tracker.advanced
            for told in self._tracker.hear(message, now):
                if isinstance(told, SaidEnd):
                    return
                self._tell(told)
            if self._tracker.advanced != before:
                self._advanced = now

    def _due(self, *, hurry: bool) -> bool:
        now, unwanted = time.monotonic(), not self._wanted()
        if unwanted and not self._stopping:
            return True
        if now - self._asked < self._patience.between:
            return False
        return hurry or self._socket is None or unwanted or now - self._heard >= self._patience.silence

    def _look(self) -> Prompt:
        """Where the prompt is; asked until there is an answer, however long the server is away within reason."""
        while True:
            try:
                prompt = self._server.find(self._order.prompt_id)
            except (Unreachable, Refused) as error:
                self._away(error)
                continue
            self._answered = self._asked = time.monotonic()
            if self._heard < self._answered - self._patience.silence:
                self._heard = self._answered  # the next question comes after as long a silence again
            self._known |= prompt.where is not Where.NOWHERE
            self._looked(prompt.ahead if prompt.where is Where.PENDING else None)
            return prompt

    def _submit(self) -> Prompt:
        """Send it; when it is not known whether it arrived, ask, and only then send again."""
        while True:
            try:
                order = self._order
                answer = self._server.submit(order.prompt_id, order.graph, self._client_id, order.extra)
            except Refused as refused:
                if refused.status in {401, 403}:
                    raise faults.locked_out(refused.status) from refused
                raise faults.refused(refused.answer, refused.status, self._nodes) from refused
            except Unreachable as error:
                self._away(error)
                for _ in range(2):
                    if (prompt := self._look()).where is not Where.NOWHERE:
                        return prompt
                    time.sleep(self._patience.between)
                if not self._wanted():
                    raise Cancelled from error
                continue
            self._known = True
            if (fault := faults.dropped(answer, self._nodes)) is not None:
                self._discard()
                raise fault
            self._heard = self._advanced = time.monotonic()
            return Prompt(Where.PENDING)

    def _discard(self) -> None:
        """Stop a prompt that the server took although it will not put out all that was asked for. One that cannot be
        stopped is left to it after a while: nobody waits for what it makes.
        """
        prompt, until = self._look(), time.monotonic() + self._patience.stalled
        while prompt.where in {Where.PENDING, Where.RUNNING} and time.monotonic() < until:
            self._stop(prompt)
            time.sleep(self._patience.between)
            prompt = self._look()

    def _stop(self, prompt: Prompt) -> None:
        """Ask for this prompt to be stopped, once; never for what else the server does."""
        self._stopping = True
        try:
            if prompt.where is Where.PENDING:
                self._server.delete(self._order.prompt_id)
            elif prompt.where is Where.RUNNING:
                self._server.interrupt(self._order.prompt_id)
        except (Unreachable, Refused) as error:
            log.warning("comfyui_stop_failed", prompt_id=self._order.prompt_id, reason=str(error))

    def _done(self, prompt: Prompt) -> Done:
        now = time.monotonic()
        if not self._wanted():
            raise Cancelled
        if prompt.outcome is Outcome.INTERRUPTED:
            text = "the prompt was interrupted at the ComfyUI server"
            raise EngineError(faults.INTERRUPTED, text)
        if prompt.outcome is Outcome.ERROR:
            raise faults.failed(prompt.error, self._nodes)
        return Done(prompt, self._tracker.costs(now, prompt.cached))

    def _away(self, error: Exception) -> None:
        """The server did not answer: wait a little, or give up when it has not for too long, or does not let us in."""
        if isinstance(error, Refused) and error.status in {401, 403}:
            raise faults.locked_out(error.status) from error
        self._looked(None)
        silent = time.monotonic() - self._answered
        if silent > self._patience.unreachable:
            text = f"the ComfyUI server has not answered for {silent:.0f} s: {faults.clean(str(error))}"
            raise EngineError(faults.UNREACHABLE, text) from error
        if not self._wanted() and not self._known:
            raise Cancelled from error
        time.sleep(self._patience.between)

    def _complain_if_stalled(self) -> None:
        still = time.monotonic() - self._advanced
        if still <= (self._patience.unseen if self._socket is None else self._patience.stalled):
            return
        node = self._tracker.node
        where = f"node {node.id} {node.title!r}" if node is not None else "no node"
        text = f"the ComfyUI server answers, but the prompt has not got on for {still:.0f} s, at {where}"
        self._stop(Prompt(Where.RUNNING))
        raise EngineError(faults.STALLED, text)

    def _lost(self) -> str:
        if self._tracker.running:
            return "the ComfyUI server does not know the prompt any more: it was started anew, or its history cleared"
        return "the ComfyUI server does not know the prompt any more: it was started anew, or taken from its queue"

    def _open(self) -> None:
        """Open the socket before the prompt is sent; without one, it is asked for all the way."""
        self._client_id = self._client_id or uuid4().hex
        self._opened = time.monotonic()
        try:
            self._socket = self._server.listen(self._client_id)
        except Unreachable as error:
            log.warning("comfyui_socket_refused", prompt_id=self._order.prompt_id, reason=str(error))

    def _reopen(self) -> None:
        """Open the socket anew, under the id that the prompt was sent with. The old one is closed on our side; should
        the server close it later, it forgets the new one too: then that is silent, and the server is asked instead.
        """
        if self._client_id and self._socket is None and time.monotonic() - self._opened > self._patience.silence:
            self._open()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
