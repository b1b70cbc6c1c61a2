"""Who sends and who reads each message, derived from the permissions and consumers of the topology."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anime_common import contracts
from anime_common.messages import Message
from anime_common.rpc_contract import Rpc
from anime_common.topology import ADMIN, LIVE_PREFIX, STREAMS, USERS, User

PEOPLE: tuple[User, ...] = tuple(user for user in USERS.values() if user is not ADMIN)
"""All users but the owner's command line, which may speak for anybody."""


def rpcs() -> Iterator[Rpc[Any, Any]]:
    """Every question, by owner and name."""
    for owner in contracts.__all__:
        for value in vars(getattr(contracts, owner)).values():
            if isinstance(value, Rpc):
                yield value


def senders(message: type[Message]) -> tuple[User, ...]:
    """The users that may publish a message."""
    return tuple(user for user in PEOPLE if any(overlap(granted, message.subject) for granted in user.publish))


def readers(message: type[Message]) -> tuple[User, ...]:
    """The users that consume a message, or hear it or its live copy."""
    subjects = [message.subject]
    if (live := live_subject(message.subject)) is not None:
        subjects.append(live)
    return tuple(
        user
        for user in PEOPLE
        if any(overlap(granted, subject) for granted in user.subscribe for subject in subjects)
        or any(overlap(wanted, message.subject) for consumer in user.consumers for wanted in consumer.filters)
    )


def askers(rpc: Rpc[Any, Any]) -> tuple[User, ...]:
    """The users that may ask a question."""
    return tuple(user for user in PEOPLE if any(overlap(granted, rpc.subject) for granted in user.publish))


def answerers(rpc: Rpc[Any, Any]) -> tuple[User, ...]:
    """The users that may answer a question."""
    return tuple(user for user in PEOPLE if any(overlap(granted, rpc.subject) for granted in user.subscribe))


def live_subject(subject: str) -> str | None:
    """Where live copies of a stored event appear; None when its stream makes none."""
    for stream in STREAMS:
        if stream.republish and any(overlap(pattern, subject) for pattern in stream.subjects):
            return LIVE_PREFIX + subject.removeprefix("anime.evt.")
    return None


def overlap(pattern: str, subject: str) -> bool:
    """Whether some subject fits both; tokens may be `*`, `{name}` or a last `>` on either side."""
    ours, theirs = pattern.split("."), subject.split(".")
    for one, other in zip(ours, theirs, strict=False):
        if ">" in {one, other}:
            return True
        if not (_free(one) or _free(other) or one == other):
            return False
    return len(ours) == len(theirs)


def _free(token: str) -> bool:
    return token == "*" or token.startswith("{")  # noqa: S105 - a token of a subject
