"""Jobs over HTTP, with the ledger on the other side of a real bus."""

import asyncio
import signal
from uuid import UUID, uuid4

from anime_cli.nats_server import NatsServer
from anime_common import topology
from anime_common.contracts.jobs import PrioritizeJob, SubmitJob
from anime_common.contracts.vocabulary import JobState
from anime_common.outcomes import Refused
from tests.buses import connected
from tests.gateway.conftest import Door, OpenDoor
from tests.gateway.ledger import Ledger
from tests.waiting import eventually

PROMPT = {"prompt": "1girl, blue hair"}


async def test_a_submitted_job_is_stored_and_answered(door: Door, ledger: Ledger) -> None:
    response = await door.client.post("/jobs", json=PROMPT | {"steps": 7})
    assert response.status_code == 201
    job = response.json()
    assert response.headers["location"] == f"/api/anime/jobs/{job['id']}"
    assert UUID(job["id"]).version == 7
    assert (job["state"], job["client"], job["request"]["steps"]) == ("queued", "gateway", 7)
    assert job["progress"]["job_id"] == job["id"]
    assert (job["progress"]["percent"], job["progress"]["phase"]) == (0, None)
    assert UUID(job["id"]) in ledger.jobs
    for name in (job["id"], job["code"]):
        assert (await door.client.get(f"/jobs/{name}")).json()["id"] == job["id"]


async def test_a_key_makes_one_job_however_often_it_is_sent(door: Door, ledger: Ledger) -> None:
    headers = {"Idempotency-Key": "monday's cover #3"}
    first = await door.client.post("/jobs", json=PROMPT, headers=headers)
    again = await door.client.post("/jobs", json=PROMPT, headers=headers)
    other = await door.client.post("/jobs", json=PROMPT | {"seed": 1}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["id"] == again.json()["id"]
    assert other.json()["code"] == "idempotency_conflict"
    assert len(ledger.jobs) == 1


async def test_concurrent_repeats_of_a_key_make_one_job(door: Door, ledger: Ledger) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    answers = await asyncio.gather(*(door.client.post("/jobs", json=PROMPT, headers=headers) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len(ledger.jobs) == 1


async def test_the_ledgers_refusal_reaches_the_person(door: Door, ledger: Ledger) -> None:
    ledger.refusal = Refused(422, "unknown_project", "there is no project 'x'", "project")
    response = await door.client.post("/jobs", json=PROMPT | {"project": "x"})
    assert response.status_code == 422
    problem = response.json()
    assert (problem["code"], problem["field"]) == ("unknown_project", "project")
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_deaf_ledger_costs_a_202_and_no_job(door: Door, ledger: Ledger) -> None:
    await ledger.deafen()
    response = await door.client.post("/jobs", json=PROMPT)
    assert response.status_code == 202
    pending = response.json()
    assert response.headers["location"] == pending["job_url"] == f"/api/anime/jobs/{pending['job_id']}"
    assert (await door.client.get(f"/jobs/{pending['job_id']}")).status_code == 404
    ledger.hear()

    async def known() -> bool:
        return (await door.client.get(f"/jobs/{pending['job_id']}")).status_code == 200

    await eventually(known)


async def test_a_broker_that_is_away_is_said_to_be_away(door: Door, nats: NatsServer) -> None:
    await nats.stop()

    await eventually(lambda: not door.gateway.bus.connected)
    response = await door.client.post("/jobs", json=PROMPT)
    assert response.status_code == 503
    assert response.json()["code"] == "unavailable"
    assert response.headers["retry-after"]
    assert (await door.client.get("/jobs")).status_code == 503
    await nats.start()

    async def accepted() -> bool:
        return (await door.client.post("/jobs", json=PROMPT)).status_code in {201, 202}

    await eventually(accepted)


async def test_an_unconfirmed_command_says_that_its_outcome_is_unknown(door: Door, nats: NatsServer) -> None:
    nats.child.signal(signal.SIGSTOP)
    try:
        response = await door.client.post("/jobs", json=PROMPT)
    finally:
        nats.child.signal(signal.SIGCONT)
    assert response.status_code == 504
    problem = response.json()
    assert problem["code"] == "outcome_unknown"
    assert response.headers["location"] == f"/api/anime/jobs/{problem['job_id']}"


async def test_a_command_that_a_full_stream_refused_is_not_stored(door: Door, ledger: Ledger, nats: NatsServer) -> None:
    await ledger.deafen()
    async with connected(nats, topology.ADMIN) as admin:
        config = (await admin.api(f"STREAM.INFO.{topology.COMMANDS}"))["config"]
        await admin.api(f"STREAM.UPDATE.{topology.COMMANDS}", config | {"max_msgs": 1})
        first = await door.client.post("/jobs", json=PROMPT)
        assert first.status_code == 202
        response = await door.client.post("/jobs", json=PROMPT)
        assert (response.status_code, response.json()["code"]) == (503, "not_stored")
        assert response.headers["retry-after"]
        ledger.hear()

        async def stored() -> bool:
            return (await door.client.post("/jobs", json=PROMPT)).status_code in {201, 202}

        await eventually(stored)


async def test_cancel_retry_and_change_name_the_job_by_id_or_code(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    changed = await door.client.patch(f"/jobs/{job.code}", json={"priority": "interactive", "paused": True})
    assert (changed.status_code, changed.json()["priority"], changed.json()["paused"]) == (200, "interactive", True)
    cancelled = await door.client.post(f"/jobs/{job.id}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    retried = await door.client.post(f"/jobs/{job.code}/retry", json={})
    assert (retried.status_code, retried.json()["state"]) == (200, "queued")
    missing = await door.client.post("/jobs/zzzzzzzz/cancel")
    assert (missing.status_code, missing.json()["code"], missing.json()["field"]) == (404, "not_found", "job")


async def test_null_takes_the_earliest_start_away(door: Door, ledger: Ledger) -> None:
    job = await ledger.add()
    await door.client.patch(f"/jobs/{job.id}", json={"not_before": "2030-01-01T00:00:00Z"})
    response = await door.client.patch(f"/jobs/{job.id}", json={"not_before": None})
    assert response.json()["not_before"] is None
    last = ledger.commands[-1]
    assert isinstance(last, PrioritizeJob)
    assert last.clear_not_before


async def test_prefer_wait_answers_with_the_end_of_the_job(door: Door, ledger: Ledger) -> None:
    submitting = asyncio.create_task(door.client.post("/jobs", json=PROMPT, headers={"Prefer": "wait=30"}))

    await eventually(lambda: bool(ledger.jobs))
    job = next(iter(ledger.jobs))
    await ledger.move(job, JobState.DISPATCHED)
    await ledger.move(job, JobState.RUNNING)
    await ledger.move(job, JobState.COMPLETED)
    response = await submitting
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "wait=30"
    assert (response.json()["state"], response.json()["progress"]["percent"]) == ("completed", 100)


async def test_prefer_wait_gives_up_in_time_with_the_job_as_it_is(open_door: OpenDoor, ledger: Ledger) -> None:
    door = await open_door(gateway_prefer_wait=0.3)
    response = await door.client.post("/jobs", json=PROMPT, headers={"Prefer": "respond-async, wait=100"})
    assert (response.status_code, response.json()["state"]) == (201, "queued")
    assert response.headers["preference-applied"] == "wait=0.3"


async def test_jobs_are_listed_with_filters(door: Door, ledger: Ledger) -> None:
    first, second = await ledger.add(), await ledger.run()
    page = (await door.client.get("/jobs")).json()
    assert [job["id"] for job in page["items"]] == [str(second.id), str(first.id)]
    assert page["next"] is None
    running = (await door.client.get("/jobs", params={"state": ["running", "filing"]})).json()
    assert [job["id"] for job in running["items"]] == [str(second.id)]


async def test_polling_shows_the_newest_progress(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    await eventually(lambda: len(door.gateway.hub.attempts) == 1)
    await ledger.tell(job, 40, eta_seconds=3.5)

    async def shown() -> bool:
        progress = (await door.client.get(f"/jobs/{job.id}")).json()["progress"]
        return (progress["percent"], progress["step"], progress["steps"], progress["eta_seconds"]) == (40, 4, 10, 3.5)

    await eventually(shown)


async def test_the_preview_of_the_running_attempt_is_served(door: Door, ledger: Ledger) -> None:
    job = await ledger.run()
    assert (await door.client.get(f"/jobs/{job.id}/preview")).status_code == 404
    await eventually(lambda: len(door.gateway.hub.attempts) == 1)
    await ledger.worker.tell_bytes(f"anime.tel.preview.{job.id}.{job.attempt_id}", b"\xff\xd8jpeg")
    await ledger.tell(job, 20, preview=True)

    async def shown() -> bool:
        return (await door.client.get(f"/jobs/{job.id}")).json()["progress"]["preview_url"] is not None

    await eventually(shown)
    url = (await door.client.get(f"/jobs/{job.id}")).json()["progress"]["preview_url"]
    picture = await door.client.get(url.removeprefix("/api/anime"))
    assert (picture.status_code, picture.content, picture.headers["content-type"]) == (
        200,
        b"\xff\xd8jpeg",
        "image/jpeg",
    )
    assert picture.headers["cache-control"] == "no-store"


async def test_the_command_carries_the_request_as_it_was_written(door: Door, ledger: Ledger) -> None:
    await door.client.post("/jobs", json=PROMPT | {"negative_prompt": "", "guidance": 7, "count": 2})
    command = ledger.commands[-1]
    assert isinstance(command, SubmitJob)
    assert command.request.model_dump(exclude_unset=True)["prompt"] == PROMPT["prompt"]
    assert (command.request.negative_prompt, command.request.guidance, command.request.count) == ("", 7.0, 2)
