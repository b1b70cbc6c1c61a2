"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


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
