"""Event streams: what people see, in which order, and when a stream ends."""

from __future__ import annotations

import asyncio
from uuid import UUID

from anime_common import topology
from anime_common.contracts.files import Filed
from anime_common.contracts.generator import AttemptStarted
from anime_common.contracts.jobs import QueueEntry, QueueState
from anime_common.contracts.vocabulary import JobState, Priority
from anime_common.messages import Outgoing, uuid7
from tests import builders
from tests.gateway.conftest import Connect, Door, Event, OpenDoor
from tests.gateway.ledger import Ledger, now
from tests.waiting import eventually

PROMPT = {"prompt": "1girl, blue hair"}


def names(events: list[Event]) -> list[str]:
    """What happened, in short."""
    return [
        f"{event.event}:{event.data['type']}" if event.event in {"job", "file"} else event.event for event in events
    ]


def is_end(event: Event) -> bool:
    return event.event == "job" and event.data["job"]["state"] in {"completed", "failed", "cancelled"}


async def test_a_stream_begins_with_a_snapshot_and_goes_on_with_every_event(door: Door, ledger: Ledger) -> None:
    running, ended = await ledger.run(), await ledger.add(state=JobState.COMPLETED)
    async with door.events() as stream:
        snapshot = await stream.next()
        assert snapshot is not None
        assert snapshot.event == "snapshot"
        assert [job["id"] for job in snapshot.data["jobs"]] == [str(running.id)]
        assert str(ended.id) not in str(snapshot.data)
        job = (await door.client.post("/jobs", json=PROMPT)).json()
        for state in (JobState.DISPATCHED, JobState.RUNNING, JobState.FILING, JobState.COMPLETED):
            await ledger.move(UUID(job["id"]), state)
        events = await stream.until(is_end)
    assert names(events) == ["job:accepted", "job:dispatched", "job:started", "job:filing", "job:completed"]
    assert {event.data["job"]["id"] for event in events} == {job["id"]}
    assert [event.data["job"]["progress"]["percent"] for event in events] == [0, 0, 0, 99, 100]
    ids = [event.id for event in events]
    assert all(ids)
    assert len(set(ids)) == len(ids)


async def test_only_what_is_for_people_is_shown(door: Door, ledger: Ledger, connect: Connect) -> None:
    files, job = await connect(topology.FILES), await ledger.run()
    assert job.attempt_id is not None
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        fact = AttemptStarted(
            job_id=job.id,
            attempt_id=job.attempt_id,
            epoch=1,
            worker="w1",
            incarnation=uuid7(),
            engine="noop",
            started_at=now(),
        )
        await ledger.worker.publish(Outgoing(fact, "a worker's fact"))
        await door.client.patch(f"/jobs/{job.id}", json={"priority": "batch"})
        filed = Filed(job_id=job.id, attempt_id=job.attempt_id, epoch=1, outputs=(builders.output(),))
        await files.publish(Outgoing(filed, "filed"))
        events = await stream.until(lambda event: event.event == "file")
    assert names(events) == ["job:updated", "file:filed"]
    assert events[1].data["job_id"] == str(job.id)
    assert events[1].data["outputs"][0]["key"] == builders.output().key


async def test_progress_is_that_of_the_current_attempt(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    async with door.events(f"/jobs/{job.id}/events") as stream:
        await stream.until(lambda event: event.event == "snapshot")
        first = await ledger.move(job.id, JobState.DISPATCHED)
        first = await ledger.move(job.id, JobState.RUNNING)
        await stream.until(lambda event: event.event == "job" and event.data["type"] == "started")
        await ledger.tell(first, 60)
        assert (await stream.until(lambda event: event.event == "progress"))[-1].data["percent"] == 60
        await ledger.move(job.id, JobState.QUEUED, attempt_id=None)
        second = await ledger.move(job.id, JobState.DISPATCHED)
        second = await ledger.move(job.id, JobState.RUNNING)
        await stream.until(lambda event: event.event == "job" and event.data["job"]["version"] == second.version)
        await ledger.tell(first, 70)
        await ledger.tell(second, 10, phase="encoding", step=None, steps=None)
        shown = (await stream.until(lambda event: event.event == "progress"))[-1]
    assert shown.id is None
    assert shown.data == {
        "job_id": str(job.id),
        "state": "running",
        "phase": "encoding",
        "step": None,
        "steps": None,
        "percent": 10,
        "eta_seconds": None,
        "position": None,
        "attempt_id": str(second.attempt_id),
        "preview_url": None,
        "message": None,
    }


async def test_a_page_opened_late_is_right_at_once(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    await eventually(lambda: len(door.gateway.hub.attempts) == 1)
    await ledger.tell(job, 40)
    await eventually(lambda: bool(list(door.gateway.hub.attempts.running())))
    async with door.events() as stream:
        snapshot = await stream.next()
    assert snapshot is not None
    assert snapshot.data["jobs"][0]["progress"]["percent"] == 40


async def test_a_gateway_started_late_shows_attempts_that_run_already(open_door: OpenDoor, ledger: Ledger) -> None:
    job = await ledger.run()
    door = await open_door()
    await eventually(lambda: len(door.gateway.hub.attempts) == 1)
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        await ledger.tell(job, 40)
        events = await stream.until(lambda event: event.event == "progress")
    assert events[-1].data["percent"] == 40


async def test_what_the_snapshot_says_already_is_not_said_again(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    dispatched = await ledger.move(job.id, JobState.DISPATCHED, publish=False)
    running = await ledger.move(job.id, JobState.RUNNING, publish=False)
    async with door.events() as stream:
        snapshot = await stream.next()
        assert snapshot is not None
        assert snapshot.data["jobs"][0]["state"] == "running"
        await ledger.publish(ledger.event(dispatched))
        await ledger.publish(ledger.event(running))
        await ledger.move(job.id, JobState.FILING)
        events = await stream.until(lambda event: event.event == "job")
    assert names(events) == ["job:filing"]


async def test_the_stream_of_a_job_ends_with_the_job_and_then_there_is_nothing_more(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    async with door.events(f"/jobs/{job.code}/events") as stream:
        first = await stream.next()
        assert first is not None
        other = await ledger.add()
        await ledger.move(job.id, JobState.COMPLETED)
        events = await stream.rest()
    assert names(events) == ["job:completed"]
    assert str(other.id) not in str(events)
    again = await door.client.get(f"/jobs/{job.id}/events", headers={"Last-Event-ID": events[-1].id or ""})
    assert (again.status_code, again.content) == (204, b"")
    query = await door.client.get(f"/jobs/{job.id}/events", params={"last_event_id": events[-1].id})
    assert query.status_code == 204
    async with door.events(f"/jobs/{job.id}/events", first.id) as stream:
        missed = await stream.rest()
    assert names(missed) == ["job:completed"]
    assert missed[-1].id == events[-1].id


async def test_who_comes_after_the_end_gets_it_once(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    await ledger.move(job.id, JobState.FAILED)
    async with door.events(f"/jobs/{job.id}/events") as stream:
        events = await stream.rest()
    assert names(events) == ["snapshot"]
    assert events[0].data["jobs"][0]["state"] == "failed"
    again = await door.client.get(f"/jobs/{job.id}/events", headers={"Last-Event-ID": events[0].id or ""})
    assert again.status_code == 204


async def test_a_job_that_was_retried_is_followed_again(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    await ledger.move(job.id, JobState.FAILED)
    async with door.events(f"/jobs/{job.id}/events") as stream:
        end = (await stream.rest())[-1]
    await ledger.move(job.id, JobState.QUEUED)
    async with door.events(f"/jobs/{job.id}/events", end.id) as stream:
        await ledger.move(job.id, JobState.CANCELLED)
        events = await stream.rest()
    assert names(events) == ["job:queued", "job:cancelled"]


async def test_an_end_that_is_not_published_yet_is_told_from_the_ledger(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    async with door.events(f"/jobs/{job.id}/events") as stream:
        first = await stream.next()
    assert first is not None
    await ledger.move(job.id, JobState.COMPLETED, publish=False)
    async with door.events(f"/jobs/{job.id}/events", first.id) as stream:
        events = await stream.rest()
    assert events[-1].data["jobs"][0]["state"] == "completed"


async def test_the_stream_of_a_job_that_is_not_there(door: Door) -> None:
    response = await door.client.get("/jobs/zzzzzzzz/events")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_queue_is_told_when_it_changes_and_places_to_who_waits(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()

    def queue(position: int) -> QueueState:
        entry = QueueEntry(
            job_id=job.id,
            code=job.code,
            position=position,
            eta_seconds=9.5,
            state=JobState.QUEUED,
            priority=Priority.NORMAL,
            project="default",
        )
        return QueueState(at=now(), entries=(entry,), waiting=1, counts={JobState.QUEUED: 1}, workers=1)

    async with door.events() as everything, door.events(f"/jobs/{job.id}/events") as own:
        await everything.until(lambda event: event.event == "snapshot")
        await own.until(lambda event: event.event == "snapshot")
        for position in (3, 3, 2):
            await ledger.bus.tell(queue(position))
        places = await own.until(lambda event: event.data["position"] == 2)
        queues = await everything.until(lambda event: event.data["entries"][0]["position"] == 2)
    assert {place.event for place in places} == {"progress"}
    assert places[-1].data["eta_seconds"] == 9.5
    assert {each.event for each in queues} == {"queue"}
    assert len(queues) <= 2


async def test_a_silent_stream_says_that_it_lives(open_door: OpenDoor) -> None:
    door = await open_door(gateway_heartbeat=0.05)
    async with door.client.stream("GET", "/events") as response:
        headers, comments = response.headers, 0
        async with asyncio.timeout(10):
            async for line in response.aiter_lines():
                comments += line == ":"
                if comments == 4:
                    break
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


async def test_a_snapshot_is_waited_for_when_the_ledger_is_away(
    open_door: OpenDoor, ledger: Ledger, connect: Connect
) -> None:
    door = await open_door(gateway_rpc_wait=0.2)
    await ledger.deafen()
    await ledger.bus.close()
    async with door.events() as stream:
        ledger.bus = await connect(topology.JOBS)
        await ledger.start()
        job = await ledger.add()
        events = await stream.until(lambda event: event.event in {"snapshot", "job"})
    assert str(job.id) in str(events[-1].data)


async def test_the_gateway_ends_its_streams_when_it_stops(door: Door) -> None:
    async with door.events() as stream:
        await stream.until(lambda event: event.event == "snapshot")
        door.runtime.stop.set()
        assert await stream.rest() == []
    assert (await door.client.get("/events")).status_code == 503


async def test_there_are_only_so_many_streams(open_door: OpenDoor) -> None:
    door = await open_door(gateway_streams=1)
    async with door.events() as stream:
        await stream.next()
        response = await door.client.get("/events")
        assert (response.status_code, response.json()["code"]) == (503, "too_many_streams")
    await eventually(lambda: len(door.gateway.hub) == 0)
    async with door.events():
        pass


async def test_many_who_come_at_once_share_the_question_to_the_ledger(door: Door, ledger: Ledger) -> None:
    before = ledger.asked

    async def first() -> str:
        async with door.events() as stream:
            event = await stream.next()
            assert event is not None
            return event.event

    async with asyncio.timeout(10):
        assert set(await asyncio.gather(*(first() for _ in range(40)))) == {"snapshot"}
    assert ledger.asked - before < 40
