"""Applies the topology to a server. Only the active instance of `jobs` does this: at start, after a reconnect, and
periodically, so that a broker that lost its disk is rebuilt without anyone's help.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from anime_common.bus import ApiError, Bus
from anime_common.topology import CONSUMERS, LIVE_PREFIX, STREAMS, Consumer, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014


async def apply(bus: Bus, *, replicas: int = 1, ack_wait: float | None = None) -> list[str]:
    """Create or update every stream and consumer; returns what was made or changed. Raises Unavailable or ApiError.

    `ack_wait` overrides, in seconds, after what time the messages of a reader that died are delivered again.
    """
    changed = [stream.name for stream in STREAMS if await _apply_stream(bus, stream, replicas)]
    changed += [consumer.name for consumer in CONSUMERS if await ensure_consumer(bus, consumer, ack_wait=ack_wait)]
    if changed:
        log.info("topology_applied", changed=changed)
    return changed


async def _apply_stream(bus: Bus, stream: Stream, replicas: int) -> bool:
    wanted = stream_config(stream, replicas)
    try:
        info = await bus.api(f"STREAM.INFO.{stream.name}")
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        await bus.api(f"STREAM.CREATE.{stream.name}", wanted)
        return True
    if _differs(wanted, info["config"]):
        await bus.api(f"STREAM.UPDATE.{stream.name}", {**info["config"], **wanted})
        return True
    return False


async def ensure_consumer(bus: Bus, consumer: Consumer, *, ack_wait: float | None = None) -> bool:
    """Create or update one durable consumer; returns whether anything changed. For `ack_wait` see `apply`."""
    wanted = consumer_config(consumer if ack_wait is None else replace(consumer, ack_wait=ack_wait))
    try:
        info = await bus.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise
    else:
        if not _differs(wanted, info["config"]):
            return False
    verb = f"CONSUMER.DURABLE.CREATE.{consumer.stream}.{consumer.name}"
    await bus.api(verb, {"stream_name": consumer.stream, "config": wanted})
    return True


async def delete_consumer(bus: Bus, stream: str, name: str) -> None:
    """Remove a durable consumer; nothing happens when there is none."""
    try:
        await bus.api(f"CONSUMER.DELETE.{stream}.{name}")
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise


def stream_config(stream: Stream, replicas: int = 1) -> dict[str, Any]:
    """The server's configuration of a stream (durations in nanoseconds)."""
    config: dict[str, Any] = {
        "name": stream.name,
        "description": stream.purpose,
        "subjects": list(stream.subjects),
        "retention": "workqueue" if stream.work_queue else "limits",
        "storage": "file",
        "discard": "new" if stream.discard_new else "old",
        "max_age": int(stream.max_age * 1e9),
        "max_bytes": stream.max_bytes,
        "max_msg_size": stream.max_msg_size,
        "duplicate_window": int(stream.dedupe * 1e9),
        "allow_direct": True,
        "num_replicas": replicas,
    }
    if stream.republish:
        config["republish"] = {"src": "anime.evt.>", "dest": f"{LIVE_PREFIX}>"}
    return config


def consumer_config(consumer: Consumer) -> dict[str, Any]:
    """The server's configuration of a durable pull consumer."""
    return {
        "durable_name": consumer.name,
        "filter_subjects": list(consumer.filters),
        "ack_policy": "explicit",
        "ack_wait": int(consumer.ack_wait * 1e9),
        "max_deliver": -1,
        "max_ack_pending": consumer.max_ack_pending,
        "deliver_policy": "all",
        "replay_policy": "instant",
    }


def _differs(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return any(found.get(name) != value for name, value in wanted.items())
