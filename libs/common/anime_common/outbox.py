"""Inbox and outbox: state change, inbox row and outgoing messages in one transaction, published by one relay.

Each schema that uses them holds two tables (see any service's first migration):
`inbox(ce_id text primary key, received_at)` and
`outbox(id bigint identity, aggregate, subject, headers, body, created_at)`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry.trace import SpanKind

from anime_common import db, failpoints, metrics, topology
from anime_common.clock import happens
from anime_common.messages import Message, Outgoing, ce_headers
from anime_common.outcomes import Poison, Unavailable
from anime_common.tracing import current_traceparent, span

if TYPE_CHECKING:
    import asyncpg

    from anime_common.bus import Bus
    from anime_common.consume import Delivery

log = structlog.get_logger(__name__)

INBOX_DAYS = 31
"""Longer than any stream keeps a message, so that none is handled twice."""


@asynccontextmanager
async def transaction(pool: asyncpg.Pool[Any]) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[Any]]:
    """One transaction on a pooled connection; raises Unavailable when the database is away."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            yield connection
    except Exception as error:
        if db.is_unavailable(error):
            raise Unavailable(f"the database is away: {error!r}") from error
        raise


Connection = Any
"""An asyncpg connection, pooled or not."""

Handler = Callable[[Any, "Delivery"], Awaitable[Sequence[Outgoing]]]
"""Takes what the inbox works with (the connection, unless told otherwise) and a message; returns what to send."""


@dataclass(slots=True)
class Inbox:
    """Handles batches of one schema: every message once, its effects and its outgoing messages in one commit.

    `handlers` by message class; a class without one is acked and forgotten. `committed` is called after each commit.
    `work` makes what the handlers of a batch work with, in place of the connection: it is entered first in the
    transaction, to lock what the batch will change in a fixed order, and left after the last handler, to write it.
    """

    pool: asyncpg.Pool[Any]
    service: str
    handlers: Mapping[type[Message], Handler]
    committed: Callable[[], None]
    work: Callable[[Connection, Sequence[Delivery]], AbstractAsyncContextManager[Any]] | None = None

    async def handle(self, batch: Sequence[Delivery]) -> None:
        """Handle a batch; raises Unavailable when the database is away, or the handler's error: nothing is changed."""
        known = [delivery for delivery in batch if type(delivery.message) in self.handlers]
        if not known:
            return
        async with transaction(self.pool) as connection:
            rows = await self._rows(connection, known)
            await insert(connection, rows)
            await failpoints.hit(f"{self.service}.before_commit")
        await failpoints.hit(f"{self.service}.after_commit")
        if rows:
            self.committed()

    async def _rows(self, connection: Connection, known: Sequence[Delivery]) -> list[Row]:
        """Run the handlers of what was not seen before; returns what they send."""
        rows: list[Row] = []
        async with self.work(connection, known) if self.work else nullcontext(connection) as work:
            fresh = await first_seen(connection, [delivery.id for delivery in known])
            for delivery in known:
                if delivery.id not in fresh:
                    continue
                fresh.discard(delivery.id)
                handler = self.handlers[type(delivery.message)]
                name = type(delivery.message).wire
                with span(name, traceparent=delivery.envelope.traceparent, kind=SpanKind.CONSUMER):
                    rows += rows_of(await handler(work, delivery), self.service)
        return rows


async def first_seen(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Record ids in the inbox; returns those that were not there."""
    rows = await connection.fetch(
        "INSERT INTO inbox (ce_id) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING ce_id", list(ids)
    )
    return {row["ce_id"] for row in rows}


MAX_MESSAGE = min(stream.max_msg_size for stream in topology.STREAMS)
"""Bytes of headers and body that every stream takes."""

Row = tuple[str, str, str, bytes]
"""What the outbox keeps of a message: aggregate, subject, headers as JSON, body."""


def rows_of(outgoing: Sequence[Outgoing], source: str) -> list[Row]:
    """The outbox rows of messages, under the running trace.

    Raises Poison for a message that no stream would ever take: it would hold up its aggregate for ever.
    """
    now, traceparent = datetime.now(UTC), current_traceparent()
    rows = [
        (
            out.subject.rsplit(".", 1)[-1],
            out.subject,
            json.dumps(ce_headers(out, source=source, now=now, traceparent=traceparent)),
            out.message.body(),
        )
        for out in outgoing
    ]
    for _, subject, headers, body in rows:
        if len(headers) + len(body) > MAX_MESSAGE:
            raise Poison(f"a message for {subject} would have {len(body)} bytes: the most is {MAX_MESSAGE}")
    return rows


async def insert(connection: Connection, rows: Sequence[Row]) -> None:
    """Put rows into the outbox of the transaction's schema, in order."""
    if rows:
        await connection.execute(
            "INSERT INTO outbox (aggregate, subject, headers, body)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])",
            *(list(column) for column in zip(*rows, strict=True)),
        )


async def add(connection: Connection, outgoing: Sequence[Outgoing], source: str) -> None:
    """Put messages into the outbox of the transaction's schema, in order."""
    await insert(connection, rows_of(outgoing, source))


@dataclass(slots=True)
class Relay:
    """Publishes the outbox in order; meant to run in the one process that leads (see `leader`).

    Messages of one aggregate (the last token of the subject) keep their order: after a failed one the later ones wait.
    """

    bus: Bus
    service: str
    poll: float = 0.25
    batch: int = 512
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There may be something to publish."""
        self._wake.set()

    async def run(self, connection: Connection) -> None:
        """Publish for ever on the leader's connection; raises when that connection is lost."""
        prune_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            rows = await connection.fetch("SELECT * FROM outbox ORDER BY id LIMIT $1", self.batch)
            metrics.OUTBOX_PENDING.set(len(rows))
            done = await self._publish(rows)
            if done:
                await failpoints.hit(f"{self.service}.relay.before_delete")
                async with connection.transaction():
                    # A lost delete costs a repeat, which the message id makes harmless.
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", done)
            if loop.time() > prune_at:
                prune_at = loop.time() + 3600
                await connection.execute(
                    "DELETE FROM inbox WHERE received_at < now() - make_interval(days => $1)", INBOX_DAYS
                )
            if len(done) < len(rows) or not rows:
                await happens(self._wake, within=self.poll)

    async def _publish(self, rows: Sequence[Any]) -> list[int]:
        """Publish in waves with at most one message of an aggregate each; returns the ids known to be stored."""
        done: list[int] = []
        stuck: set[str] = set()
        left = list(rows)
        while left and self.bus.connected:
            wave: dict[str, Any] = {}
            later: list[Any] = []
            for row in left:
                key = row["aggregate"]
                if key in stuck:
                    continue
                if key in wave:
                    later.append(row)
                else:
                    wave[key] = row
            answers = await asyncio.gather(*map(self._store, wave.values()), return_exceptions=True)
            for row, answer in zip(wave.values(), answers, strict=True):
                if isinstance(answer, Unavailable):
                    stuck.add(row["aggregate"])
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    done.append(row["id"])
            left = later
        if stuck:
            log.warning("relay_waits", service=self.service, aggregates=len(stuck))
        return done

    async def _store(self, row: Any) -> None:
        await self.bus.store(row["subject"], json.loads(row["headers"]), row["body"])
