"""What a client is told first: the jobs as the ledger has them, and from where later events follow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common import rpc
from anime_common.contracts.jobs import GET_JOB, LIST_JOBS, JobQuery, JobQuestion, JobView
from anime_common.contracts.vocabulary import JobState
from anime_gateway.frames import Frame, encode
from anime_gateway.hub import Hub, shortened
from anime_gateway.public import SnapshotData

if TYPE_CHECKING:
    from anime_gateway.cursor import Cursor

ACTIVE = tuple(state for state in JobState if not state.ended)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot, and which frames it makes needless.

    The ledger was asked after frame `floor`: what came before is in the answer. Progress up to frame `composed` is in
    it too. Of a job, events up to the (epoch, version) in `versions` are in it, even those that come later.
    """

    frame: Frame
    floor: int
    composed: int
    versions: dict[UUID, tuple[int, int]]

    def covers(self, frame: Frame) -> bool:
        """Whether the snapshot already says what a frame says."""
        if frame.serial <= self.floor or (frame.key is not None and frame.serial <= self.composed):
            return True
        seen = self.versions.get(frame.view.id) if frame.view is not None else None
        if seen is None or frame.view is None:
            return False
        return (frame.view.epoch, frame.view.version) <= seen


class Snapshots:
    """Takes snapshots; those who want one of everything at the same time share one question to the ledger."""

    def __init__(self, hub: Hub, rpc_wait: float) -> None:
        self._hub = hub
        self._rpc_wait = rpc_wait
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[Snapshot] | None = None

    async def of_everything(self) -> Snapshot:
        """Every job that has not ended, by a question asked after this call; raises Refused."""
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn(), name="snapshot")
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> Snapshot:
        async with self._one_at_a_time:
            self._next = None  # whoever comes from here on needs a later question
            floor, cursor = self._hub.serial, self._hub.cursor
            query = JobQuery(state=ACTIVE, limit=200)
            page = await rpc.call(self._hub.bus, LIST_JOBS, query, timeout=self._rpc_wait)
            return self._compose(page.items, floor, cursor, truncated=page.next is not None)

    async def of_job(self, job_id: UUID) -> Snapshot:
        """One job; raises Refused."""
        floor, cursor = self._hub.serial, self._hub.cursor
        view = await rpc.call(self._hub.bus, GET_JOB, JobQuestion(job=str(job_id)), timeout=self._rpc_wait)
        return self._compose((view,), floor, cursor, only=view)

    def _compose(
        self,
        found: tuple[JobView, ...],
        floor: int,
        cursor: Cursor,
        *,
        truncated: bool = False,
        only: JobView | None = None,
    ) -> Snapshot:
        views = tuple(self._hub.attempts.view(view) for view in found)
        queue = shortened(self._hub.queue) if only is None and self._hub.queue is not None else None
        data = SnapshotData(jobs=views, truncated=truncated, queue=queue)
        frame = Frame("snapshot", encode(data), serial=floor, cursor=cursor, view=only)
        versions = {view.id: (view.epoch, view.version) for view in views}
        return Snapshot(frame, floor, self._hub.serial, versions)
