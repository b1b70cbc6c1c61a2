"""The page `docs/topology.md`: streams, consumers, messages, questions and users as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from anime_common import traffic
from anime_common.markdown import code, codes, section, summary, table
from anime_common.messages import REGISTRY, Message
from anime_common.topology import CONSUMERS, DAY, DISPATCH, STREAMS, USERS, Consumer, Stream, User, stream_of

INTRODUCTION = """\
# Topology of the bus

Made from `anime_common.topology` and the contracts by `make generated`: do not edit.

Only `jobs` creates streams and consumers: its active instance applies this table at start, after every reconnect, and
periodically. Consumers are durable pull consumers with explicit acks and `max_deliver: -1`; what becomes of a message
is decided by `anime_common.consume` alone. A user may do what its table grants, and nothing else.
"""


def page() -> str:
    """The whole page."""
    sections = [
        INTRODUCTION,
        section("Streams", ("stream", "subjects", "holds", "keeps", "limits"), map(_stream, STREAMS)),
        section(
            "Consumers",
            ("stream", "consumer", "service", "filters", "ack wait", "unacked at most", "dead letters"),
            map(_consumer, (*CONSUMERS, _any_worker())),
        ),
        section(
            "Messages",
            ("type", "subject", "stream", "sent by", "read by", "means"),
            (_message(REGISTRY[name]) for name in sorted(REGISTRY)),
        ),
        section(
            "Questions",
            ("subject", "question", "answer", "asked by", "answered by"),
            (
                (
                    code(rpc.subject),
                    rpc.question.__name__,
                    rpc.answer.__name__,
                    _names(traffic.askers(rpc)),
                    _names(traffic.answerers(rpc)),
                )
                for rpc in sorted(traffic.rpcs(), key=lambda rpc: rpc.subject)
            ),
        ),
        "## Users\n\nEach has an inbox prefix of its own, so that nobody hears the answers to another.\n",
        *(_user(user) for user in USERS.values()),
    ]
    return "\n".join(sections)


def _stream(stream: Stream) -> Sequence[str]:
    keeps = "until acked" if stream.work_queue else f"{duration(stream.max_age)}"
    full = "new messages are refused" if stream.discard_new else "the oldest go"
    limits = f"{size(stream.max_bytes)}, then {full}; a message {size(stream.max_msg_size)}"
    holds = stream.purpose + ("; republished live" if stream.republish else "")
    return code(stream.name), codes(stream.subjects), holds, keeps, limits


def _consumer(consumer: Consumer) -> Sequence[str]:
    return (
        code(consumer.stream),
        code(consumer.name),
        consumer.service,
        codes(consumer.filters),
        duration(consumer.ack_wait),
        str(consumer.max_ack_pending),
        code(consumer.dead_subject),
    )


def _any_worker() -> Consumer:
    return Consumer(DISPATCH, "worker-<worker>", "generator", ("anime.dispatch.<worker>",), letters="generator")


def _message(message: type[Message]) -> Sequence[str]:
    sample = re.sub(r"{\w+}", "x", message.subject)
    return (
        f"[`{message.ce_type()}`](schemas/{message.ce_type()}.json)",
        code(message.subject),
        code(stream_of(sample)) if message.kind.stored else "–",
        _names(traffic.senders(message)),
        _names(traffic.readers(message)),
        summary(message),
    )


def _user(user: User) -> str:
    answers = "\n\nMay answer questions that reach it." if user.answers else ""
    rows = [("publish", subject) for subject in user.may_publish()]
    rows += [("subscribe", subject) for subject in user.may_subscribe()]
    rights = table(("may", "subject"), ((verb, code(subject)) for verb, subject in rows))
    return f"### `{user.name}`\n\n{user.purpose[0].upper()}{user.purpose[1:]}.{answers}\n\n{rights}\n"


def _names(users: Iterable[User]) -> str:
    return ", ".join(user.name for user in users) or "–"


def duration(seconds: float) -> str:
    """A time in the largest unit that is whole."""
    for unit, length in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def size(count: int) -> str:
    """Bytes in the largest unit."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= length:
            return f"{count / length:g} {unit}"
    return f"{count} B"
