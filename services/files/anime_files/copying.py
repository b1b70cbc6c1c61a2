"""Brings one staged file into the library: copied, verified, looked at, with its thumbnail."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

from anime_common.artifacts import Artifacts, Corrupt, Missing, staging_key
from anime_common.contracts.jobs import JobFiling
from anime_common.contracts.vocabulary import StagedOutput
from anime_files import metrics, model, pictures
from anime_files.model import Verdict
from anime_files.store import Reserved


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of the files of one filing: the verdict, and the key of each file's thumbnail if it has one."""

    verdict: Verdict
    thumbnails: dict[UUID, str]


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies from staging to reserved keys, at most `slots` files at once. Doing so twice does no harm."""

    artifacts: Artifacts
    slots: asyncio.Semaphore
    max_pixels: int
    thumbnail_pixels: int

    async def copy_all(self, filing: JobFiling, reserved: list[Reserved]) -> Copied:
        """Copy every output of an attempt; raises Unavailable when the store is away."""
        targets = {each.index: each for each in reserved}
        found = await asyncio.gather(
            *(self._copy(filing, staged, targets[staged.index]) for staged in filing.staged), return_exceptions=True
        )
        thumbnails: dict[UUID, str] = {}
        verdict = model.FILED
        for staged, result in zip(filing.staged, found, strict=True):
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Verdict):
                verdict = verdict if not verdict.filed else result
            elif result is not None:
                thumbnails[targets[staged.index].id] = result
        return Copied(verdict, thumbnails if verdict.filed else {})

    async def _copy(self, filing: JobFiling, staged: StagedOutput, target: Reserved) -> str | Verdict | None:
        """The key of the thumbnail (None: it has none), or why the file is refused."""
        kind = model.file_type(staged.media_type)
        async with self.slots:
            began = time.perf_counter()
            source = staging_key(filing.job.id, filing.attempt_id, staged.index, staged.media_type)
            try:
                size = await self.artifacts.copy(source, target.key, staged.sha256)
                if size != staged.size:
                    reason = f"{source} has {size} bytes, not {staged.size}"
                    return model.failed("staging_corrupt", reason, retryable=True)
                thumbnail = await self._look(staged, target)
            except Missing:
                return model.failed("staging_missing", f"{source} is not there", retryable=True)
            except Corrupt as error:
                return model.failed("staging_corrupt", str(error), retryable=True)
            except pictures.NotAPicture as error:
                return model.failed("not_a_picture", f"{source} cannot be filed: {error}", retryable=False)
            metrics.FILE_SECONDS.labels(type=kind).observe(time.perf_counter() - began)
            return thumbnail

    async def _look(self, staged: StagedOutput, target: Reserved) -> str | None:
        if model.file_type(staged.media_type) == "video":
            # Clips have no thumbnail: drawing one would need a video decoder.
            head = b"".join([part async for part in self.artifacts.stream(target.key, 0, min(12, staged.size))])
            if not pictures.is_mp4(head):
                raise pictures.NotAPicture("it is no MP4 file")
            return None
        data = await self.artifacts.get(target.key)
        small = await asyncio.to_thread(
            pictures.look,
            data,
            media_type=staged.media_type,
            size=(staged.width, staged.height),
            max_pixels=self.max_pixels,
            longest=self.thumbnail_pixels,
        )
        if small is None:
            return target.key
        key = model.thumbnail_key(target.id)
        await self.artifacts.put(key, small)
        return key
