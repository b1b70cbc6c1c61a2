"""Waiting, but not for ever, and not past a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def happens(event: asyncio.Event, *, within: float) -> bool:
    """Wait until the event is set, at most `within` seconds; whether it was.

    Not `asyncio.wait_for`, which on Python 3.11 can swallow a cancellation that coincides with the event.
    """
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def heeding(waiting: Awaitable[T]) -> T:
    """Await what may lose a cancellation that comes together with its answer: then raises CancelledError after all.

    So does everything that nats-py waits for, by `asyncio.wait_for`, before Python 3.12 (CPython issue 86296): a task
    that asks over and over would miss the one request to end and go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        return await waiting
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
