"""Brings one staged file into the library: copied, verified, looked at, with its thumbnail or poster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from anime_common.artifacts import Artifacts, Corrupt, Missing, staging_key
from anime_common.contracts.jobs import JobFiling
from anime_common.contracts.vocabulary import StagedOutput
from anime_files import clips, metrics, model, pictures
from anime_files.model import Look, Verdict
from anime_files.pictures import Seen
from anime_files.store import Reserved


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of the files of one filing: the verdict, and what each of them turned out to be."""

    verdict: Verdict
    looks: dict[UUID, Look]


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies from staging to reserved keys, at most `slots` files at once. Doing so twice does no harm.

    One clip or sound is looked at at a time, as a large one takes hundreds of megabytes.
    """

    artifacts: Artifacts
    slots: asyncio.Semaphore
    max_pixels: int
    thumbnail_pixels: int
    watching: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def copy_all(self, filing: JobFiling, reserved: list[Reserved]) -> Copied:
        """Copy every output of an attempt; raises Unavailable when the store is away."""
        targets = {each.index: each for each in reserved}
        found = await asyncio.gather(
            *(self._copy(filing, staged, targets[staged.index]) for staged in filing.staged), return_exceptions=True
        )
        looks: dict[UUID, Look] = {}
        verdict = model.FILED
        for staged, result in zip(filing.staged, found, strict=True):
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Verdict):
                verdict = verdict if not verdict.filed else result
            else:
                looks[targets[staged.index].id] = result
        return Copied(verdict, looks if verdict.filed else {})

    async def _copy(self, filing: JobFiling, staged: StagedOutput, target: Reserved) -> Look | Verdict:
        """What the file turned out to be, or why it is refused."""
        kind = model.file_type(staged.media_type)
        async with self.slots:
            began = time.perf_counter()
            source = staging_key(filing.job.id, filing.attempt_id, staged.index, staged.media_type)
            try:
                size = await self.artifacts.copy(source, target.key, staged.sha256)
                if size != staged.size:
                    reason = f"{source} has {size} bytes, not {staged.size}"
                    return model.failed("staging_corrupt", reason)
                look = await self._look(staged, target)
            except Missing:
                return model.failed("staging_missing", f"{source} is not there")
            except Corrupt as error:
                return model.failed("staging_corrupt", str(error))
            except pictures.NotAPicture as error:
                return model.failed("not_a_picture", f"{source} cannot be filed: {error}")
            metrics.FILE_SECONDS.labels(type=kind).observe(time.perf_counter() - began)
            return look

    async def _look(self, staged: StagedOutput, target: Reserved) -> Look:
        if model.file_type(staged.media_type) == "image":
            seen = await self._seen(pictures.look, staged, target)
        else:
            async with self.watching:
                seen = await self._seen(clips.look, staged, target)
        if seen.small is None:
            return Look(target.key if seen.own else None, seen.duration, seen.frames)
        key = model.thumbnail_key(target.id)
        await self.artifacts.put(key, seen.small)
        return Look(key, seen.duration, seen.frames)

    async def _seen(self, look: Callable[..., Seen], staged: StagedOutput, target: Reserved) -> Seen:
        return await asyncio.to_thread(
            look,
            await self.artifacts.get(target.key),
            media_type=staged.media_type,
            size=(staged.width, staged.height),
            max_pixels=self.max_pixels,
            longest=self.thumbnail_pixels,
        )
