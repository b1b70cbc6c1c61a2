"""When a decision is made, and how the ledger's messages are named."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anime_common.messages import Message, Outgoing
from anime_jobs.model import Moment

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from anime_jobs.model import Policy


def moment(policy: Policy, zone: ZoneInfo) -> Moment:
    """Now, with a draw of chance."""
    now = datetime.now(UTC)
    return Moment(now=now, today=now.astimezone(zone).date(), chance=random.random(), policy=policy)  # noqa: S311 - jitter


def outgoing(message: Message) -> Outgoing:
    """A message of the ledger with its id."""
    return Outgoing(message, message.ident())
