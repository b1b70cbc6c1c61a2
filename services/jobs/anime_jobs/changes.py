"""One change of one job: decide, save guarded, keep the history of attempts, and name the outgoing messages."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import CancelJob
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Message, Outgoing
from anime_jobs import store
from anime_jobs.model import Dispatch, Moment, OfferFenced, Record, WorkerLost, decide

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from anime_jobs.model import Policy

OUTCOMES: dict[type, str] = {
    AttemptFinished: "finished",
    AttemptFailed: "failed",
    AttemptCancelled: "cancelled",
    AttemptReleased: "released",
    WorkerLost: "lost",
    OfferFenced: "fenced",
    CancelJob: "cancelled",
}
_OWNED = (JobState.DISPATCHED, JobState.RUNNING)


def moment(policy: Policy, zone: ZoneInfo) -> Moment:
    """Now, with a draw of chance."""
    now = datetime.now(UTC)
    return Moment(now=now, today=now.astimezone(zone).date(), chance=random.random(), policy=policy)  # noqa: S311 - jitter


async def advance(
    connection: store.Connection, record: Record, message: object, at: Moment
) -> tuple[Record, list[Outgoing]]:
    """Apply a message to a locked job inside the transaction; returns the changed job and what to send."""
    after, messages = decide(record, message, at)
    await store.save(connection, record, after)
    await _keep_attempt(connection, record, after, message, at)
    return after, [outgoing(each) for each in messages]


async def _keep_attempt(
    connection: store.Connection, before: Record, after: Record, message: object, at: Moment
) -> None:
    if isinstance(message, Dispatch):
        await store.open_attempt(connection, after)
    attempt = before.job.attempt_id
    if attempt is None or before.state not in _OWNED:
        return
    if isinstance(message, AttemptStarted):
        await store.start_attempt(connection, attempt, message.started_at)
    elif after.state not in _OWNED and (outcome := OUTCOMES.get(type(message))) is not None:
        error = after.job.error.message if after.job.error else None
        ended = message.finished_at if isinstance(message, AttemptFinished) else at.now
        await store.end_attempt(connection, attempt, outcome, ended, None if outcome == "finished" else error)


def outgoing(message: Message) -> Outgoing:
    """A message of the ledger with its id."""
    return Outgoing(message, message.ident())
