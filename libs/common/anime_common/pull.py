"""Short pulls on a durable consumer that survive a server restart.

nats-py does not ask again across a reconnect, and a cancelled fetch leaves its pull on the server, where the next
message dies in it. So each pull is short and our own, is ended by the server, and nothing that arrived is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import nats.errors

from anime_common.clock import heeding
from anime_common.outcomes import Unavailable

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from anime_common.bus import Bus

SLACK = 0.5
"""How much longer than the server we wait for the end of a pull, in seconds."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A message delivered to a durable consumer; one of `ack`, `nak`, `term` of the bus ends it."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    reply: str

    @property
    def deliveries(self) -> int:
        """How many times JetStream has delivered it, this time included."""
        return int(self._tokens[0])

    @property
    def stream_sequence(self) -> int:
        """Its sequence in the stream."""
        return int(self._tokens[1])

    @property
    def stored_at(self) -> datetime:
        """When the stream stored it."""
        return datetime.fromtimestamp(int(self._tokens[3]) / 1e9, UTC)

    @property
    def _tokens(self) -> list[str]:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>; servers of
        # others may use the newer form with <domain>.<account hash> before the stream.
        tokens = self.reply.split(".")
        return tokens[4:] if len(tokens) == 9 else tokens[6:]


class Pull:
    """Pulls on one durable consumer, one at a time; made by `Bus.pull`."""

    def __init__(self, bus: Bus, subscription: Subscription, inbox: str, subject: str) -> None:
        self._bus = bus
        self._subscription = subscription
        self._inbox = inbox
        self._subject = subject
        self._number = 0
        self._open = 0
        self._until = 0.0
        self._refused = ""
        self._unhook = bus.on_reconnect(self._forget)

    async def fetch(self, batch: int, expires: float) -> list[Pulled]:
        """Messages as soon as there are any, at most `batch`; empty after `expires` seconds without one.

        Raises Unavailable when the consumer does not exist, may not be pulled from, or the server is away.
        """
        loop = asyncio.get_running_loop()
        if self._open <= 0 or loop.time() > self._until:
            await self._ask(batch, expires)
        found: list[Pulled] = []
        while not found and self._open > 0:
            try:
                self._take(await heeding(self._subscription.next_msg(max(self._until - loop.time(), 0.01))), found)
            except (TimeoutError, nats.errors.TimeoutError) as error:
                self._open = 0
                raise Unavailable(f"cannot pull: {self._bus.why_silent(self._subject, error)}") from error
            except (nats.errors.Error, OSError) as error:
                self._open = 0
                raise Unavailable(f"cannot pull: {error!r}") from error
        while found and len(found) < batch and self._subscription.pending_msgs > 0:
            self._take(await heeding(self._subscription.next_msg(SLACK)), found)
        if self._refused and not found:
            raise Unavailable(f"{self._subject}: {self._refused}")
        return found

    async def rest(self) -> list[Pulled]:
        """Wait for the running pull to end and return what it still delivered."""
        loop = asyncio.get_running_loop()
        found: list[Pulled] = []
        while self._subscription.pending_msgs > 0 or (
            self._open > 0 and loop.time() < self._until and self._bus.connected
        ):
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                self._take(await heeding(self._subscription.next_msg(max(self._until - loop.time(), 0.01))), found)
        return found

    async def close(self) -> None:
        """Stop hearing."""
        self._unhook()
        with contextlib.suppress(nats.errors.Error):
            await self._subscription.unsubscribe()

    def _forget(self) -> None:
        """The running pull died with its connection: ask again."""
        self._open = 0

    async def _ask(self, batch: int, expires: float) -> None:
        if not self._bus.connected:
            raise Unavailable("the bus is away")
        self._number += 1
        self._refused = ""
        body = json.dumps({"batch": batch, "expires": int(expires * 1e9)}).encode()
        try:
            await self._bus.client.publish(self._subject, body, reply=self._reply)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"cannot pull: {error!r}") from error
        self._open = batch
        self._until = asyncio.get_running_loop().time() + expires + SLACK

    @property
    def _reply(self) -> str:
        # A number of its own, so that the late end of an earlier pull does not end the running one.
        return f"{self._inbox}.{self._number}"

    def _take(self, msg: Msg, found: list[Pulled]) -> None:
        if msg.reply:
            self._open -= 1
            found.append(Pulled(msg.subject, msg.headers or {}, msg.data, msg.reply))
        elif msg.subject == self._reply:
            self._open = 0
            headers = msg.headers or {}
            status = headers.get("Status")
            if status == "503":
                self._refused = "there is no such consumer"
            elif status not in {"404", "408"}:  # nothing came in time
                self._refused = f"{status} {headers.get('Description', '')}".strip()
