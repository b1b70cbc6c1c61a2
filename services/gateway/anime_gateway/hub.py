"""One hearing of the bus for all clients: events and telemetry come in once and are fanned out in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from anime_common import rpc
from anime_common.bus import Bus, Received, Stored
from anime_common.clock import happens
from anime_common.contracts.generator import JobProgress
from anime_common.contracts.jobs import LIST_JOBS, Job, JobEvent, JobQuery, JobView, QueueEntry, QueueState
from anime_common.outcomes import Refused
from anime_gateway import metrics, progress
from anime_gateway.attempts import WITH_A_WORKER, Attempts, Known
from anime_gateway.feed import ANSWERS, EVENTS_PREFIX, Feed, readable
from anime_gateway.frames import Frame, encode, frame_of
from anime_gateway.mailbox import Closed, Mailbox

if TYPE_CHECKING:
    from anime_gateway.cursor import Cursor

log = structlog.get_logger(__name__)

LEARN_RETRY = 1.0
READY_WAIT = 5.0
QUEUE_SHOWN = 50
SHOWN_EVENTS = (f"{EVENTS_PREFIX}jobs.", f"{EVENTS_PREFIX}files.")


class Hub:
    """Hears events and telemetry and hands frames to the mailboxes of everybody who follows.

    `overhear` gets every event as soon as it comes; `limit` is the most subscriptions at a time.
    """

    def __init__(self, bus: Bus, *, overhear: Callable[[Stored], None], check_every: float, limit: int) -> None:
        self.bus = bus
        self.attempts = Attempts()
        self.feed = Feed(bus, self._deliver, self._reset, overhear, check_every)
        self.queue: QueueState | None = None
        self.stopping = False
        self._limit = limit
        self._boxes: set[Mailbox] = set()
        self._everything: set[Mailbox] = set()
        self._by_job: defaultdict[UUID, set[Mailbox]] = defaultdict(set)
        self._places: dict[UUID, QueueEntry] = {}
        self.serial = 0
        self._learn_again = asyncio.Event()

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return len(self._boxes)

    async def run(self, stop: asyncio.Event) -> None:
        """Hear and fan out until stopped; then end every subscription."""
        silence = await self.bus.listen("anime.tel.>", self._on_telemetry)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.feed.run(stop), name="feed")
            learning = tasks.create_task(self._learn_always(), name="learning")
            await stop.wait()
            self.stopping = True
            for box in list(self._boxes):
                box.close(Closed.STOPPING)
            learning.cancel()
            await silence()

    async def check(self) -> str | None:
        """Whether the feed stands: for health."""
        return None if self.feed.ready.is_set() else "the event streams do not exist yet"

    @property
    def cursor(self) -> Cursor:
        """The merge point: everything up to it was fanned out."""
        return self.feed.cursor

    async def attach(self, box: Mailbox) -> None:
        """Give a mailbox everything from now on; raises Refused when the feed is not there, or at the limit."""
        if not await happens(self.feed.ready, within=READY_WAIT):
            raise Refused(503, "unavailable", "the event streams do not exist yet; try again soon")
        if self.stopping:
            raise Refused(503, "unavailable", "the gateway is stopping; try again soon")
        if len(self._boxes) >= self._limit:
            raise Refused(503, "too_many_streams", f"there are {self._limit} open streams already; close some")
        box.start = self.cursor
        self._boxes.add(box)
        (self._everything if box.job_id is None else self._by_job[box.job_id]).add(box)

    def detach(self, box: Mailbox) -> None:
        """Give a mailbox nothing more."""
        self._boxes.discard(box)
        if box.job_id is None:
            self._everything.discard(box)
        elif (boxes := self._by_job.get(box.job_id)) is not None:
            boxes.discard(box)
            if not boxes:
                del self._by_job[box.job_id]

    def compose(self, job: Job) -> JobView:
        """A job from an event or an answer, with what is known of its attempt and place."""
        return self.attempts.compose(job, self._places.get(job.id))

    def state(self, job_id: UUID | None) -> list[Frame]:
        """The progress of all running jobs and the queue, or of one job: for who has just caught up."""
        running = [known for known in self.attempts.running() if job_id in {None, known.job.id}]
        frames = [self._progress(known) for known in running]
        if job_id is None and self.queue is not None:
            frames.append(self._queue_frame(self.queue))
        if job_id is not None and (place := self._places.get(job_id)) is not None:
            frames.append(self._place(place))
        return frames

    def _deliver(self, stored: Stored) -> None:
        """Turn an event of a stream into a frame for those who follow; answers to commands are not for them."""
        if stored.subject.startswith(ANSWERS) or not stored.subject.startswith(SHOWN_EVENTS):
            return
        message = readable(stored)
        if message is None:
            return
        if isinstance(message, JobEvent):
            self.attempts.see(message.job)
        if not self._boxes:
            return
        frame = frame_of(message, self.cursor, self._next(), self.compose)
        if frame is not None:
            self._fan_out(frame)

    def _reset(self, reason: str) -> None:
        self.attempts.clear()
        self._learn_again.set()
        for box in self._boxes:
            box.restart(self.cursor, reason)

    def _fan_out(self, frame: Frame) -> None:
        boxes = self._everything
        if frame.job_id is not None and (watching := self._by_job.get(frame.job_id)):
            boxes = boxes | watching
        for box in list(boxes):
            box.put(frame)
        metrics.FRAMES.labels(event=frame.event).inc(len(boxes))

    async def _on_telemetry(self, received: Received) -> None:
        tokens = received.subject.split(".")
        if tokens[2] == "job":
            known = self.attempts.tell(JobProgress.parse(received.data))
            if known is not None and self._boxes:
                self._fan_out(self._progress(known))
        elif tokens[2] == "preview":
            self.attempts.show(UUID(tokens[3]), UUID(tokens[4]), received.data)
        elif tokens[2] == "queue":
            self._on_queue(QueueState.parse(received.data))

    def _on_queue(self, queue: QueueState) -> None:
        before, places = self.queue, self._places
        self.queue = queue
        self._places = {entry.job_id: entry for entry in queue.entries}
        if before is None or before.model_copy(update={"at": queue.at}) != queue:
            frame = self._queue_frame(queue)
            for box in list(self._everything):
                box.put(frame)
        for job_id, boxes in list(self._by_job.items()):
            place = self._places.get(job_id)
            if place is not None and place != places.get(job_id):
                frame = self._place(place)
                for box in list(boxes):
                    box.put(frame)

    def _next(self) -> int:
        self.serial += 1
        return self.serial

    def _progress(self, known: Known) -> Frame:
        shown = progress.of_job(known.job, known.told, None, self.attempts.preview_url(known.job.id))
        return Frame("progress", encode(shown), serial=self._next(), job_id=known.job.id, key=known.job.id)

    def _place(self, place: QueueEntry) -> Frame:
        data = encode(progress.of_place(place))
        return Frame("progress", data, serial=self._next(), job_id=place.job_id, key=place.job_id)

    def _queue_frame(self, queue: QueueState) -> Frame:
        return Frame("queue", encode(shortened(queue)), serial=self._next(), key="queue")

    async def _learn_always(self) -> None:
        """Learn which attempts run, at start and after each reset, however long the ledger is away."""
        await self.feed.ready.wait()
        while not self.stopping:
            self._learn_again.clear()
            while not (await self._learn() or self.stopping):
                await asyncio.sleep(LEARN_RETRY)
            await self._learn_again.wait()

    async def _learn(self) -> bool:
        self.attempts.begin_learning()
        views: list[JobView] = []
        query = JobQuery(state=tuple(sorted(WITH_A_WORKER)), limit=200)
        try:
            while True:
                page = await rpc.call(self.bus, LIST_JOBS, query)
                views += page.items
                if page.next is None:
                    break
                query = query.model_copy(update={"cursor": page.next})
        except Refused as error:
            log.info("ledger_not_asked_yet", error=error.message)
            return False
        self.attempts.learn(views)
        for known in self.attempts.running():
            self._fan_out(self._progress(known))
        return True


def shortened(queue: QueueState) -> QueueState:
    """The queue with its first places only: `GET /queue` has them all."""
    kept: Iterable[QueueEntry] = queue.entries[:QUEUE_SHOWN]
    return queue.model_copy(update={"entries": tuple(kept)})
