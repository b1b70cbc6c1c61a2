"""The bus: a thin layer on nats-py. Nothing but this module, `pull` and `rpc` imports `nats`.

Everything learned about NATS the hard way lives here: publishing that says whether a message is known to be stored,
live copies and direct reads of streams, and an ordered close.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.nuid import NUID

from anime_common import metrics
from anime_common.clock import heeding
from anime_common.messages import Message, Outgoing, ce_headers
from anime_common.outcomes import NotStored, TooLarge, Unavailable, Unconfirmed
from anime_common.pull import Pull, Pulled
from anime_common.tracing import current_traceparent

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from anime_common.settings import ServiceSettings
    from anime_common.topology import User

log = structlog.get_logger(__name__)

RECONNECT_WAIT = 0.25
PUBLISH_TIMEOUT = 2.0
MESSAGE_TOO_LARGE = 10054
"""The API's error code for a message larger than its stream takes."""
SAY_AGAIN = 10.0
"""While the server is away, the same error is logged once in so many seconds."""

_DENIAL = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Published:
    """Where a message was stored. `duplicate` when the stream already held its id."""

    stream: str
    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A message of core NATS (telemetry, control, live copies)."""

    subject: str
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A message read directly from a stream."""

    stream: str
    sequence: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamState:
    """When a stream was created (its identity), the sequences it holds, and by how much its slowest replica lags."""

    created: str
    first: int
    last: int
    lag: int = 0


Listener = Callable[[Received], Awaitable[None]]


class Bus:
    """One connection to NATS as one user. Made by `connect`, ended by `close`."""

    def __init__(self, client: Client, user: User) -> None:
        self._client = client
        self.user = user
        self.source = user.name
        self._on_reconnect: list[Callable[[], None]] = []
        self._nuid = NUID()
        self._denied: set[str] = set()
        self._said = ("", 0.0)
        self._since: float | None = None

    @classmethod
    async def connect(cls, settings: ServiceSettings, user: User) -> Bus:
        """Connect, waiting for the server as long as it takes; afterwards reconnect for ever."""
        bus = cls(Client(), user)
        await bus._client.connect(
            settings.nats_url,
            name=f"anime-{user.name}",
            user=settings.nats_user or user.name,
            password=settings.nats_secret(),
            inbox_prefix=user.inbox.encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # it is slept on: fractions are fine
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=8 << 20,
            error_cb=bus._error,
            disconnected_cb=bus._disconnected,
            reconnected_cb=bus._on_reconnected,
        )
        bus._since = asyncio.get_running_loop().time()
        metrics.BUS_CONNECTED.set(1)
        return bus

    @property
    def connected(self) -> bool:
        """Whether the connection is up now."""
        return self._since is not None and self._client.is_connected

    @property
    def connected_since(self) -> float:
        """When the connection came up, in the event loop's time; infinity while it is down."""
        return self._since if self._since is not None and self._client.is_connected else float("inf")

    @property
    def client(self) -> Client:
        """The nats-py client, for `rpc` alone."""
        return self._client

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; returns how to stop that."""
        self._on_reconnect.append(callback)
        return lambda: self._on_reconnect.remove(callback)

    async def _error(self, error: Exception) -> None:
        text = str(error) or repr(error)
        if (denial := _DENIAL.search(text)) is not None:
            # The only place where a denial shows its reason; to the one who waits it looks like a time-out.
            self._denied.add(denial[2].lower())
        now = asyncio.get_running_loop().time()
        if self._client.is_connected or text != self._said[0] or now > self._said[1]:
            self._said = (text, now + SAY_AGAIN)
            log.warning("bus_error", user=self.user.name, error=text)

    def why_silent(self, subject: str, error: BaseException | None = None) -> str:
        """Why nothing came back for `subject`: denied by the server, or else `error`."""
        if subject.lower() in self._denied:
            self._denied.discard(subject.lower())
            return f"the user {self.user.name!r} has no permission for {subject}"
        return repr(error)

    async def _disconnected(self) -> None:
        self._since = None
        metrics.BUS_CONNECTED.set(0)
        log.warning("bus_disconnected", user=self.user.name)

    async def _on_reconnected(self) -> None:
        self._since = asyncio.get_running_loop().time()
        metrics.BUS_CONNECTED.set(1)
        log.info("bus_reconnected", user=self.user.name)
        for callback in tuple(self._on_reconnect):
            callback()

    async def publish(self, out: Outgoing, *, timeout: float = PUBLISH_TIMEOUT) -> Published:
        """Store a message.

        Raises NotStored when it certainly is not (TooLarge: and never will be), Unconfirmed when it may be: repeat it
        with the same id.
        """
        headers = ce_headers(out, source=self.source, now=datetime.now(UTC), traceparent=current_traceparent())
        return await self.store(out.subject, headers, out.message.body(), timeout=timeout)

    async def store(
        self, subject: str, headers: Mapping[str, str], body: bytes, *, timeout: float = PUBLISH_TIMEOUT
    ) -> Published:
        """Store a message whose headers are made already; raises as `publish` does."""
        # What nats-py buffers while disconnected may be sent long after we gave up on it: better not to begin.
        if not self.connected:
            raise NotStored("the bus is away")
        try:
            asking = self._client.request(subject, body, timeout=timeout, headers=dict(headers))
            answer = await heeding(asking)
        except nats.errors.MaxPayloadError as error:
            text = f"{len(body)} bytes and headers are more than the {self._client.max_payload} that the server takes"
            raise TooLarge(f"{subject} was not stored: {text}") from error
        except nats.errors.NoRespondersError as error:
            raise NotStored(f"{subject} was not stored: no stream takes it") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if subject.lower() in self._denied:
                raise NotStored(f"{subject} was not stored: {self.why_silent(subject)}") from error
            raise Unconfirmed(f"{subject} is not known to be stored: {error!r}") from error
        ack = json.loads(answer.data)
        if "error" in ack:
            refused = TooLarge if ack["error"].get("err_code") == MESSAGE_TOO_LARGE else NotStored
            raise refused(f"{subject} was not stored: {ack['error'].get('description')}")
        metrics.PUBLISHED.labels(stream=ack["stream"]).inc()
        return Published(ack["stream"], ack["seq"], ack.get("duplicate", False))

    async def tell(self, message: Message, **extra: str) -> None:
        """Publish telemetry or control over core NATS: lost when nobody listens, dropped while disconnected."""
        await self.tell_bytes(message.subject_for(**extra), message.body())

    async def tell_bytes(self, subject: str, data: bytes) -> None:
        """Publish bytes over core NATS, with the same weak promise as `tell`."""
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError):
                await self._client.publish(subject, data)

    async def listen(self, subject: str, listener: Listener) -> Callable[[], Awaitable[None]]:
        """Hear a subject of core NATS; messages are handed over one after another. Returns how to stop."""

        async def on_message(msg: Msg) -> None:
            try:
                await listener(Received(msg.subject, msg.headers or {}, msg.data))
            except Exception:
                log.exception("listener_failed", subject=msg.subject)

        subscription = await self._client.subscribe(subject, cb=on_message, pending_bytes_limit=64 << 20)
        await self.flush()
        if subject.lower() in self._denied:
            raise Unavailable(self.why_silent(subject))
        return subscription.unsubscribe

    async def flush(self) -> None:
        """Return when the server has read all that was sent before."""
        try:
            # nats-py's ping overtakes what is still buffered: only the second one comes after it.
            await heeding(self._client.flush(timeout=2))
            await heeding(self._client.flush(timeout=2))
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("bus_flush_failed", error=repr(error))

    async def api(self, verb: str, body: Mapping[str, Any] | None = None, *, timeout: float = 5.0) -> dict[str, Any]:
        """Ask the JetStream API; raises Unavailable, or ApiError with the server's code."""
        if not self.connected:
            raise Unavailable("the bus is away")
        asking = json.dumps(body or {}).encode()
        try:
            answer = await heeding(self._client.request(f"$JS.API.{verb}", asking, timeout=timeout))
        except (nats.errors.Error, OSError, TimeoutError) as error:
            why = self.why_silent(f"$JS.API.{verb}", error)
            raise Unavailable(f"JetStream did not answer {verb}: {why}") from error
        found: dict[str, Any] = json.loads(answer.data)
        if "error" in found:
            raise ApiError(verb, found["error"])
        return found

    async def stream_state(self, stream: str) -> StreamState:
        """Identity and bounds of a stream, by its leader."""
        info = await self.api(f"STREAM.INFO.{stream}")
        replicas = (info.get("cluster") or {}).get("replicas") or ()
        lag = max((replica.get("lag", 0) for replica in replicas), default=0)
        return StreamState(info["created"], info["state"]["first_seq"], info["state"]["last_seq"], lag)

    async def read(
        self, stream: str, start: int, *, batch: int = 256, match: str = ">", timeout: float = 5.0
    ) -> list[Stored]:
        """Up to `batch` stored messages from sequence `start` on, in order, by batched direct get.

        Fewer do not mean the end (the server bounds the bytes of a batch): an empty answer does, of the replica that
        was asked. Of a replicated stream the newest messages may be missing there for a moment.
        """
        subject = f"$JS.API.DIRECT.GET.{stream}"
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        found: list[Stored] = []
        try:
            request = {"seq": start, "batch": batch, "next_by_subj": match}
            await self._client.publish(subject, json.dumps(request).encode(), reply=inbox)
            while True:
                msg = await heeding(subscription.next_msg(timeout))
                headers = msg.headers or {}
                if "Nats-Sequence" not in headers:
                    # 204 ends a batch, 404 says that there is nothing from there on; 503 that nobody serves the stream.
                    if headers.get("Status") in {"204", "404"}:
                        return found
                    raise Unavailable(f"stream {stream} could not be read: {dict(headers)}")
                found.append(
                    Stored(
                        headers["Nats-Stream"],
                        int(headers["Nats-Sequence"]),
                        headers["Nats-Subject"],
                        headers,
                        msg.data,
                    )
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"stream {stream} could not be read: {self.why_silent(subject, error)}") from error
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def pull(self, stream: str, consumer: str) -> Pull:
        """Open pulls on a durable consumer."""
        inbox = f"{self.user.inbox}.{self._nuid.next().decode()}"
        subscription = await self._client.subscribe(f"{inbox}.*", pending_bytes_limit=64 << 20)
        return Pull(self, subscription, inbox, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")

    async def ack(self, message: Pulled) -> None:
        """Done with a message."""
        await self._settle(message, b"+ACK")

    async def nak(self, message: Pulled, delay: float = 0.0) -> None:
        """Deliver a message again, after `delay` seconds."""
        await self._settle(message, b'-NAK {"delay": %d}' % int(delay * 1e9))

    async def term(self, message: Pulled, reason: str) -> None:
        """Never deliver a message again."""
        await self._settle(message, b"+TERM " + reason.encode()[:256])

    async def _settle(self, message: Pulled, verdict: bytes) -> None:
        # Lost verdicts cost a redelivery, which the inbox makes harmless.
        with contextlib.suppress(nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError):
            await self._client.publish(message.reply, verdict)

    async def close(self) -> None:
        """Send what is buffered and close. Not `drain`, which can hang for its whole time-out."""
        if self._client.is_connected:
            await self.flush()
        try:
            await self._client.close()
        except OSError as error:
            log.warning("bus_closed_unsent", user=self.user.name, error=repr(error))


class ApiError(Exception):
    """The JetStream API refused; `code` is its error code (https://docs.nats.io/reference/reference-protocols/nats_api_reference)."""

    def __init__(self, verb: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"{verb}: {error.get('description')} ({error.get('err_code')})")
        self.code = int(error.get("err_code", 0))
