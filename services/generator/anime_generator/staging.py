"""Finished files on their way into staging, where the files service will find them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from anime_common.artifacts import Artifacts, staging_key
from anime_common.contracts.vocabulary import StagedOutput
from anime_common.outcomes import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from anime_common.contracts.generator import OfferedJob
    from anime_generator import wire

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class StagingFailed(Exception):
    """A picture could not be stored for too long."""


class NotOurs(Exception):
    """The attempt was taken from us meanwhile: its pictures are of no use."""


@dataclass(frozen=True, slots=True)
class Staging:
    """Stores pictures, waiting for an artifact store that is away for at most `patience` seconds."""

    artifacts: Artifacts
    patience: float

    async def store(
        self, job: OfferedJob, picture: wire.Painted, data: bytes, ours: Callable[[], bool]
    ) -> StagedOutput:
        """Store one picture durably; raises StagingFailed, or NotOurs once `ours()` is false."""
        key = staging_key(job.job_id, job.attempt_id, picture.index, picture.media_type)
        give_up = time.monotonic() + self.patience
        pause = FIRST_PAUSE
        while True:
            if not ours():
                raise NotOurs
            try:
                await self.artifacts.put(key, data)
                break
            except (Unavailable, OSError) as error:
                if time.monotonic() + pause > give_up:
                    raise StagingFailed(f"the picture could not be stored for {self.patience:g} s: {error}") from error
                log.warning("staging_waits", key=key, error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        return StagedOutput(
            index=picture.index,
            seed=picture.seed,
            sha256=await asyncio.to_thread(_sha256, data),
            size=len(data),
            media_type=picture.media_type,
            width=picture.width,
            height=picture.height,
            duration=picture.duration,
            frames=picture.frames,
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
