"""The queue of one client: order, coalescing, bounds."""

import asyncio
from uuid import UUID

import pytest

from anime_common.contracts.vocabulary import JobState
from anime_common.messages import uuid7
from anime_gateway import progress
from anime_gateway.cursor import Cursor, Mark
from anime_gateway.frames import Frame
from anime_gateway.mailbox import Closed, Mailbox
from tests import builders

START = Cursor(Mark("00000000", 1), Mark("11111111", 1))


def event(job_id: UUID, serial: int = 0) -> Frame:
    job = builders.job(id=job_id, state=JobState.RUNNING)
    view = progress.with_progress(job, progress.of_job(job))
    return Frame("job", b"{}", serial=serial, cursor=START, job_id=job_id, view=view)


def told(job_id: UUID, percent: int) -> Frame:
    return Frame("progress", b"%d" % percent, serial=percent, job_id=job_id, key=job_id)


@pytest.fixture
def box() -> Mailbox:
    return Mailbox(None, limit=10)


async def test_events_come_in_order_and_all_of_them(box: Mailbox) -> None:
    frames = [event(uuid7(), serial) for serial in range(5)]
    for frame in frames:
        box.put(frame)
    assert await box.take(1.0) == frames


async def test_of_progress_only_the_newest_of_each_job_is_kept(box: Mailbox) -> None:
    one, other = uuid7(), uuid7()
    for percent in (1, 2, 3):
        box.put(told(one, percent))
    box.put(told(other, 9))
    assert [frame.data for frame in await box.take(1.0)] == [b"3", b"9"]


async def test_new_progress_never_overtakes_an_event_before_it(box: Mailbox) -> None:
    job = uuid7()
    box.put(told(job, 1))
    box.put(event(uuid7()))
    box.put(told(job, 2))
    assert [frame.event for frame in await box.take(1.0)] == ["job", "progress"]


async def test_an_event_of_a_job_makes_its_waiting_progress_needless(box: Mailbox) -> None:
    job = uuid7()
    box.put(told(job, 80))
    box.put(event(job))
    assert [frame.event for frame in await box.take(1.0)] == ["job"]


async def test_a_client_that_takes_nothing_is_stuck_and_its_writer_is_told(box: Mailbox) -> None:
    calls: list[str] = []
    box.on_close = lambda: calls.append("closed")
    for _ in range(11):
        box.put(event(uuid7()))
    assert (box.closed, len(box), calls) == (Closed.STUCK, 0, ["closed"])
    box.put(event(uuid7()))
    assert len(box) == 0


async def test_any_amount_of_progress_of_few_jobs_does_not_make_a_client_stuck(box: Mailbox) -> None:
    job = uuid7()
    for percent in range(1000):
        box.put(told(job, percent))
    assert box.closed is None


async def test_a_slow_client_gets_what_waits_in_small_batches() -> None:
    box, frames = Mailbox(None, limit=1000), [event(uuid7(), serial) for serial in range(200)]
    for frame in frames:
        box.put(frame)
    taken = [await box.take(1.0) for _ in range(4)]
    assert [frame for batch in taken for frame in batch] == frames
    assert max(map(len, taken)) == 64


async def test_taking_waits_for_the_next_frame(box: Mailbox) -> None:
    taking = asyncio.create_task(box.take(5.0))
    await asyncio.sleep(0)
    frame = event(uuid7())
    box.put(frame)
    assert await taking == [frame]


async def test_silence_is_an_empty_batch(box: Mailbox) -> None:
    assert await box.take(0.01) == []
    assert box.closed is None


async def test_closing_wakes_who_waits(box: Mailbox) -> None:
    taking = asyncio.create_task(box.take(5.0))
    await asyncio.sleep(0)
    box.close(Closed.STOPPING)
    assert await taking == []
    assert box.closed is Closed.STOPPING


async def test_a_reset_forgets_what_waits(box: Mailbox) -> None:
    box.put(event(uuid7()))
    box.restart(START, "ANIME_LEDGER was replaced")
    assert await box.take(1.0) == []
    assert (box.reset, box.start) == ("ANIME_LEDGER was replaced", START)
