"""Waiting for a thing, with a deadline: tests never sleep for a fixed time and hope."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(
    happened: Callable[[], bool | Awaitable[bool]], *, within: float = 10.0, every: float = 0.01
) -> None:
    """Return as soon as `happened()` is true; fails when it is not within so many seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = happened()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"did not happen within {within:g} s"
        await asyncio.sleep(every)
