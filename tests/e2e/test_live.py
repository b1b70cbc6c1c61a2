"""The live view: one contract in polling, SSE and WebSocket; honest progress; cancel; idempotency."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from httpx_sse import aconnect_sse
from websockets.asyncio.client import connect

from anime_common import topology
from anime_common.messages import uuid7
from tests.stacks import ENDED, Product, data
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

CONTRACT = {
    "job_id", "state", "phase", "step", "steps", "percent", "eta_seconds", "position", "attempt_id", "preview_url",
    "message",
}  # fmt: skip


async def test_polling_sse_and_websocket_tell_the_same(noop: Product) -> None:
    url = f"{noop.stack.url.replace('http', 'ws')}/api/anime/ws"
    async with connect(url, origin=None) as socket:
        job = await noop.submit("noop: step_ms=30", steps=10)
        await socket.send(json.dumps({"action": "subscribe", "job_id": job["id"]}))
        events = await noop.events(f"/jobs/{job['id']}/events")
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            while not any(each.get("data", {}).get("type") == "completed" for each in told):
                told.append(json.loads(await socket.recv()))
    progress = [data(event) for event in events if event.event == "progress"]
    assert progress
    assert all(set(each) <= CONTRACT and each["job_id"] == job["id"] for each in progress)
    heard = [each["data"] for each in told if each.get("event") == "progress"]
    assert heard
    assert all(set(each) <= CONTRACT for each in heard)
    assert {each["steps"] for each in (*progress, *heard) if each.get("steps")} == {10}
    polled = await noop.job(job["id"])
    last = next(data(event) for event in reversed(events) if event.event == "job")["job"]
    assert {k: v for k, v in polled.items() if k != "progress"} == {k: v for k, v in last.items() if k != "progress"}
    assert polled["progress"]["percent"] == last["progress"]["percent"] == 100


async def test_no_client_sees_a_step_that_was_not_made(noop: Product, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    job = await noop.submit(f"noop: hold_at=4 hold={gate}", steps=8)
    await noop.until(job["id"], "running")

    async def at_three() -> bool:
        return bool((await noop.job(job["id"]))["progress"].get("step") == 3)

    await eventually(at_three, within=20)
    held = 100.0
    async with aconnect_sse(noop.http, "GET", f"/jobs/{job['id']}/events") as source:
        async for event in source.aiter_sse():
            if event.event == "snapshot":
                assert data(event)["jobs"][0]["progress"]["step"] == 3
                held = data(event)["jobs"][0]["progress"]["percent"]
                break
    assert held < 60
    assert (await noop.job(job["id"]))["progress"]["step"] == 3
    gate.unlink()
    done = await noop.until(job["id"], "completed")
    assert done["progress"]["percent"] == 100


async def test_cancel_stops_a_running_job_between_steps(noop: Product) -> None:
    job = await noop.submit("noop: step_ms=100", steps=100)
    await noop.until(job["id"], "running")
    answer = await noop.http.post(f"/jobs/{job['code']}/cancel")
    assert answer.status_code == 200, answer.text
    ended = await noop.until(job["id"], "cancelled", within=10)
    assert ended["outputs"] == []
    other = await noop.submit("after")
    await noop.until(other["id"], "completed")


async def test_cancel_keeps_finished_pictures_if_asked(noop: Product) -> None:
    job = await noop.submit("noop: step_ms=60", steps=10, count=12, keep_partial=True)

    async def some_done() -> bool:
        progress = (await noop.job(job["id"]))["progress"]
        return bool(progress["percent"] > 60)

    await eventually(some_done, within=30)
    await noop.http.post(f"/jobs/{job['id']}/cancel")
    ended = await noop.until(job["id"], "cancelled", within=15)
    assert 0 < len(ended["outputs"]) < 12
    for index in range(len(ended["outputs"])):
        noop.picture(ended, index)


async def test_a_failed_job_says_why_and_can_be_retried(noop: Product) -> None:
    job = await noop.submit("noop: fail=permanent")
    failed = await noop.until(job["id"], "failed")
    assert failed["error"]["code"] == "bad_settings"
    again = await noop.http.post(f"/jobs/{job['id']}/retry")
    assert again.status_code == 200, again.text
    await noop.until(job["id"], "failed")
    flaky = await noop.submit("noop: fail=retryable attempts=1")
    done = await noop.until(flaky["id"], "completed")
    assert (done["attempt"], done["failures"]) == (2, 1)


async def test_an_engine_that_crashes_or_hangs_is_replaced(noop: Product) -> None:
    crashing = await noop.submit("noop: crash_at=3 attempts=1", steps=5)
    done = await noop.until(crashing["id"], "completed")
    assert done["attempt"] == 2


async def test_the_same_key_is_the_same_job(noop: Product) -> None:
    headers = {"Idempotency-Key": f"key-{uuid7()}"}
    one = await noop.http.post("/jobs", json={"prompt": "a"}, headers=headers)
    two = await noop.http.post("/jobs", json={"prompt": "a"}, headers=headers)
    assert (one.status_code, two.status_code) == (201, 200)
    assert one.json()["id"] == two.json()["id"]
    other = await noop.http.post("/jobs", json={"prompt": "b"}, headers=headers)
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_conflict"


async def test_waiting_for_the_end_in_the_request(noop: Product) -> None:
    answer = await noop.http.post("/jobs", json={"prompt": "quick"}, headers={"Prefer": "wait=20"})
    assert answer.status_code == 201
    assert answer.json()["state"] == "completed"


async def test_the_queue_tells_places_and_reasons(noop: Product) -> None:
    blocker = await noop.submit("noop: step_ms=50", steps=60)
    await noop.until(blocker["id"], "running")
    later = await noop.submit("later", not_before="2099-01-01T00:00:00Z")
    queue = (await noop.http.get("/queue")).json()
    entry = next(each for each in queue["entries"] if each["job_id"] == later["id"])
    assert entry["message"].startswith("not before 2099")
    for job in (blocker, later):
        await noop.http.post(f"/jobs/{job['id']}/cancel")
        await noop.until(job["id"], "cancelled")


async def test_a_stream_resumes_where_it_was_left(noop: Product) -> None:
    first = await noop.submit("one")
    events = await noop.events(f"/jobs/{first['id']}/events")
    told = [event for event in events if event.event == "job"]
    await noop.until(first["id"], "completed")
    again = await noop.events(f"/jobs/{first['id']}/events", last_id=told[0].id)
    replayed = [data(event)["job"]["version"] for event in again if event.event == "job"]
    assert replayed == [data(event)["job"]["version"] for event in told[1:]]


async def test_the_system_describes_itself(noop: Product) -> None:
    health = (await noop.http.get("/health")).json()
    assert health["status"] == "ok", health
    models = (await noop.http.get("/models")).json()["items"]
    assert [each["model"]["key"] for each in models] == ["noop"]
    workers = (await noop.http.get("/generators")).json()["items"]
    assert [each["worker"] for each in workers] == ["local"]
    stats = (await noop.http.get("/stats")).json()
    assert stats["jobs"]["counts"]["completed"] >= 0
    page = await noop.http.get(noop.stack.url + "/")
    assert page.status_code == 200
    assert "<html" in page.text


async def test_all_adds_up(noop: Product) -> None:
    async def quiet() -> bool:
        items = (await noop.http.get("/jobs", params={"limit": 200})).json()["items"]
        return all(job["state"] in ENDED for job in items)

    await eventually(quiet, within=30)
    await noop.audit()


async def test_one_trace_follows_the_job_across_the_bus(noop: Product) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "Prefer": "wait=20"}
    answer = await noop.http.post("/jobs", json={"prompt": "traced"}, headers=headers)
    assert answer.json()["state"] == "completed"
    async with noop.bus(topology.GATEWAY) as bus:
        about = f"anime.evt.*.*.{answer.json()['id']}"
        stored = [
            *await bus.read(topology.LEDGER, 1, match=about),
            *await bus.read(topology.FACTS, 1, match=about),
        ]
    kinds = {each.subject.split(".")[3] for each in stored}
    assert kinds >= {"accepted", "started", "finished", "filing", "filed", "completed"}
    traces = {each.subject.split(".")[3]: each.headers.get("traceparent", "none").split("-")[1:2] for each in stored}
    assert set(map(tuple, traces.values())) == {(trace,)}, traces


async def test_a_job_that_cannot_be_done_spoils_none_that_ran_with_it(noop: Product, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    ahead = [await noop.submit(f"noop: hold_at=1 hold={gate}") for _ in range(2)]
    await noop.until(ahead[0]["id"], "running")
    bad = await noop.submit("noop: fail=permanent fail_at=2")
    others = [await noop.submit("noop:") for _ in range(3)]
    gate.unlink()
    failed = await noop.until(bad["id"], "failed")
    assert failed["error"]["code"] == "bad_settings"
    ended = [await noop.until(job["id"], "completed") for job in others]
    assert any(job["attempt"] > 1 for job in ended), "they were to run with it"
    assert all(job["failures"] == 0 for job in ended)
