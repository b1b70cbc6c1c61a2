"""Following a job: resumes where a stream broke off, falls back on polling, and knows when to give up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from anime_cli import watching
from anime_cli.api import Api, Problem
from anime_cli.errors import CliError, ExitStatus
from anime_cli.watching import Follower
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState, Phase
from tests.cli.fake_gateway import CODE, JOB, URL, FakeGateway, problem, sse, view

EVENTS = f"GET /jobs/{CODE}/events"
READ = f"GET /jobs/{CODE}"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL", 0.0)
    monkeypatch.setattr(watching, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(watching, "LONGEST_PAUSE", 0.0)


@pytest.fixture
def fake() -> FakeGateway:
    return FakeGateway()


@pytest_asyncio.fixture
async def api(fake: FakeGateway) -> AsyncIterator[Api]:
    async with httpx.AsyncClient(base_url=URL, transport=fake.transport) as client:
        yield Api(client, URL)


def snapshot(state: JobState, **progress: Any) -> tuple[str, Any, str]:
    return "snapshot", {"jobs": [view(state, **progress)], "truncated": False, "queue": None}, f"snapshot-{state}"


def change(state: JobState, **progress: Any) -> tuple[str, Any, str]:
    return "job", {"type": "updated", "job": view(state, **progress)}, f"job-{state}"


def step(number: int) -> tuple[str, Any, None]:
    data = {"job_id": JOB, "state": "running", "phase": "sampling", "step": number, "steps": 4, "percent": number * 20}
    return "progress", data, None


async def followed(follower: Follower) -> list[JobView]:
    return [view async for view in follower.views()]


async def test_every_change_to_the_end(api: Api, fake: FakeGateway) -> None:
    fake.on(
        EVENTS,
        sse(
            snapshot(JobState.QUEUED, position=2),
            ("queue", {}, None),
            change(JobState.RUNNING),
            step(1),
            step(2),
            ("file", {}, "f"),
            change(JobState.COMPLETED, percent=100.0),
        ),
    )
    seen = await followed(Follower(api, CODE))
    assert [(one.state, one.progress.percent) for one in seen] == [
        (JobState.QUEUED, 0.0),
        (JobState.RUNNING, 0.0),
        (JobState.RUNNING, 20.0),
        (JobState.RUNNING, 40.0),
        (JobState.COMPLETED, 100.0),
    ]
    assert seen[2].progress.phase is Phase.SAMPLING
    assert len(fake.asked) == 1


async def test_goes_on_where_the_stream_broke_off(api: Api, fake: FakeGateway) -> None:
    fake.on(
        EVENTS,
        sse(snapshot(JobState.QUEUED), change(JobState.RUNNING), step(1), breaks=True),
        httpx.ConnectError("the gateway restarts"),
        sse(step(3), change(JobState.COMPLETED)),
    )
    seen = await followed(Follower(api, CODE))
    assert [one.state for one in seen][-1] is JobState.COMPLETED
    assert [request.headers.get("last-event-id") for request in fake.asked] == [None, "job-running", "job-running"]


async def test_a_stream_that_ends_early_is_asked_for_again(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, sse(snapshot(JobState.QUEUED)), sse(change(JobState.CANCELLED)))
    assert [one.state for one in await followed(Follower(api, CODE))] == [JobState.QUEUED, JobState.CANCELLED]


async def test_after_a_reset_nothing_old_is_asked_for(api: Api, fake: FakeGateway) -> None:
    fake.on(
        EVENTS,
        sse(change(JobState.RUNNING), ("reset", {"reason": "too_old", "detail": ""}, None), breaks=True),
        sse(snapshot(JobState.COMPLETED)),
    )
    await followed(Follower(api, CODE))
    assert "last-event-id" not in fake.asked[1].headers


async def test_a_job_whose_end_was_told_is_read_once_more(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, sse(snapshot(JobState.RUNNING), breaks=True), httpx.Response(204))
    fake.on(READ, httpx.Response(200, json=view(JobState.FAILED)))
    assert [one.state for one in await followed(Follower(api, CODE))] == [JobState.RUNNING, JobState.FAILED]


async def test_polls_where_streams_do_not_get_through(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, httpx.Response(200, text="<html>some proxy</html>", headers={"content-type": "text/html"}))
    states = (JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED)
    fake.on(READ, *(httpx.Response(200, json=view(state)) for state in states))
    assert [one.state for one in await followed(Follower(api, CODE))] == list(states)


async def test_polls_after_streams_have_failed_again_and_again(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, httpx.ReadTimeout("nothing comes"))
    fake.on(READ, httpx.Response(200, json=view(JobState.COMPLETED)))
    assert [one.state for one in await followed(Follower(api, CODE))] == [JobState.COMPLETED]
    assert len(fake.asked) == watching.STREAM_TRIES + 1


async def test_waits_for_a_promised_job_that_the_ledger_does_not_know_yet(api: Api, fake: FakeGateway) -> None:
    unknown = problem(404, "not_found", "there is no job")
    fake.on(EVENTS, unknown, unknown, sse(snapshot(JobState.COMPLETED)))
    assert len(await followed(Follower(api, CODE, promised=True))) == 1


async def test_a_promised_job_may_be_refused_later(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, problem(410, "unknown_model", "no worker has this model", field="model"))
    with pytest.raises(Problem, match="no worker has this model") as caught:
        await followed(Follower(api, CODE, promised=True))
    assert caught.value.status is ExitStatus.NOT_FOUND


async def test_a_job_that_is_not_there(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, problem(404, "not_found", "there is no job"))
    with pytest.raises(Problem):
        await followed(Follower(api, CODE))
    assert len(fake.asked) == 1


async def test_gives_up_on_a_gateway_that_stays_away(api: Api, fake: FakeGateway) -> None:
    fake.on(EVENTS, httpx.ConnectError("refused")).on(READ, httpx.ConnectError("refused"))
    with pytest.raises(CliError, match=r"the gateway does not answer at http://gateway\.test") as caught:
        await followed(Follower(api, CODE, patience=0.05))
    assert caught.value.status is ExitStatus.UNREACHABLE


async def test_waits_out_a_part_of_the_system_that_is_away(api: Api, fake: FakeGateway) -> None:
    away = problem(503, "unavailable", "the service 'jobs' is not running")
    fake.on(EVENTS, away, away, sse(snapshot(JobState.COMPLETED)))
    assert len(await followed(Follower(api, CODE))) == 1
