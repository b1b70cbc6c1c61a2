"""The `anime` command against the whole product, as a person or a script runs it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from anime_cli.errors import ExitStatus
from tests.stacks import PROGRAMS, ROOT, Product, Ran, ended
from tests.waiting import eventually

ANIME = str(PROGRAMS / "anime")
pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


async def test_a_picture_from_the_command_line(noop: Product) -> None:
    status, out, err = await noop.anime("generate", "1girl, [red] hair", "--count", "2", "--seed", "5", "--watch")
    assert status == ExitStatus.OK, err
    places = [Path(line.removeprefix("picture: ")) for line in out.splitlines() if line.startswith("picture: ")]
    assert len(places) == 2
    assert all(place.is_file() and place.is_relative_to(noop.artifacts) for place in places)
    code = out.split()[0]
    status, out, _ = await noop.anime("jobs", code, "--json")
    job = json.loads(out)
    assert (job["state"], job["settings"]["seed"], job["request"]["prompt"]) == ("completed", 5, "1girl, [red] hair")
    status, out, _ = await noop.anime("jobs", code)
    assert str(places[0]) in out
    assert (await noop.anime("cancel", code))[0] == ExitStatus.CONFLICT
    assert (await noop.anime("retry", code))[0] == ExitStatus.CONFLICT


async def test_a_failed_job_fails_the_command(noop: Product) -> None:
    status, _, err = await noop.anime("generate", "noop: fail=permanent", "--watch")
    assert status == ExitStatus.FAILED, err
    assert "Traceback" not in err


async def test_every_attempt_at_a_failed_job_is_shown(noop: Product) -> None:
    job = await noop.submit("noop: fail=permanent fail_at=3")
    await noop.until(job["id"], "failed")
    status, out, _ = await noop.anime("attempts", job["code"], "--json")
    (attempt,) = json.loads(out)["items"]
    assert status == ExitStatus.OK
    assert (attempt["number"], attempt["outcome"], attempt["code"]) == (1, "failed", "bad_settings")
    assert attempt["reached"]["phase"] == "sampling"
    status, out, _ = await noop.anime("attempts", job["code"])
    assert status == ExitStatus.OK
    assert "bad_settings" in out
    assert (await noop.anime("attempts", "zzzzzzzz"))[0] == ExitStatus.NOT_FOUND


async def test_watching_ends_with_the_job_and_leaves_it_alone(noop: Product) -> None:
    job = await noop.submit("noop: step_ms=200", steps=150)
    watching = await noop.start(ANIME, "watch", job["code"], "--json")
    assert watching.stdout is not None
    first = json.loads(await asyncio.wait_for(watching.stdout.readline(), 30))
    assert first["progress"]["job_id"] == job["id"]
    watching.send_signal(signal.SIGINT)
    status, _, err = await ended(watching)
    assert status == ExitStatus.INTERRUPTED
    assert f"job {job['code']} goes on" in err
    assert (await noop.job(job["id"]))["state"] not in {"cancelled", "failed"}
    status, _, err = await noop.anime("cancel", job["code"])
    assert status == ExitStatus.OK, err
    status, _, err = await noop.anime("watch", job["code"])
    assert status == ExitStatus.FAILED
    assert "was cancelled" in err


async def test_watching_goes_on_when_the_gateway_restarts(noop: Product) -> None:
    job = await noop.submit("1girl, patient", steps=150, count=2)
    watching = await noop.start(ANIME, "watch", job["code"], "--json")
    assert watching.stdout is not None
    await asyncio.wait_for(watching.stdout.readline(), 30)
    await noop.stack.restart("gateway")
    status, out, err = await ended(watching)
    assert status == ExitStatus.OK, err
    assert json.loads(out.splitlines()[-1])["job"]["id"] == job["id"]


async def test_projects_files_and_the_state_of_the_whole(noop: Product) -> None:
    status, _, err = await noop.anime("projects", "create", "Night Market", "--slug", "night-market")
    assert status == ExitStatus.OK, err
    assert (await noop.anime("projects", "create", "Again", "--slug", "night-market"))[0] == ExitStatus.CONFLICT
    assert (await noop.anime("generate", "1girl, lanterns", "-P", "night-market", "--watch"))[0] == ExitStatus.OK
    status, out, _ = await noop.anime("files", "list", "--project", "night-market", "--json")
    (file,) = json.loads(out)["items"]
    target = noop.home / "copy.png"
    assert (await noop.anime("files", "get", file["id"], "-o", str(target)))[0] == ExitStatus.OK
    assert target.read_bytes() == (noop.artifacts / file["key"]).read_bytes()
    for command in ("queue", "models", "generators"):
        status, out, err = await noop.anime(command, "--json")
        assert status == ExitStatus.OK, err
        assert json.loads(out)


async def test_a_stretch_of_time_as_a_table(noop: Product) -> None:
    assert (await noop.anime("generate", "1girl, clock", "--watch"))[0] == ExitStatus.OK
    status, out, err = await noop.anime("stats", "--window", "1h", "--json")
    assert status == ExitStatus.OK, err
    found = json.loads(out)
    assert found["completed"] >= 1
    assert [each["model"] for each in found["models"]] == ["noop"]
    assert found["models"][0]["within_target"] > 0
    status, out, _ = await noop.anime("stats", "-w", "1h")
    assert status == ExitStatus.OK
    for said in ("the last 1h:", "completed", "within 30 s", "noop", "waited, median", "tried again: ", "echo: "):
        assert said in out


async def test_waiting_jobs_are_rescheduled(noop: Product) -> None:
    assert (await noop.anime("projects", "create", "Order"))[0] == ExitStatus.OK
    assert (await noop.anime("projects", "update", "order", "--pause"))[0] == ExitStatus.OK
    first, second = [await noop.submit("1girl", project="order") for _ in range(2)]

    async def order() -> list[str]:
        status, out, err = await noop.anime("queue", "--json")
        assert status == ExitStatus.OK, err
        return [entry["code"] for entry in json.loads(out)["entries"] if entry["project"] == "order"]

    assert await order() == [first["code"], second["code"]]
    status, out, err = await noop.anime("reschedule", second["code"], "--before", first["code"], "--resume")
    assert status == ExitStatus.OK, err
    assert f"job {second['code']} is queued, normal, place " in out
    assert "its project is paused" in out
    assert await order() == [second["code"], first["code"]]
    status, out, _ = await noop.anime("reschedule", first["code"], "--priority", "batch", "--pause", "--json")
    assert (json.loads(out)["priority"], json.loads(out)["paused"]) == ("batch", True)
    status, _, err = await noop.anime("reschedule", first["code"], "--after", second["code"])
    assert status == ExitStatus.CONFLICT
    assert "give both the same priority" in err
    for wrong in (("--front", "--back"), ("--any-time", "--not-before", "2026-01-01T00:00:00Z")):
        assert (await noop.anime("reschedule", first["code"], *wrong))[0] == ExitStatus.USAGE
    assert (await noop.anime("reschedule", first["code"]))[0] == ExitStatus.USAGE
    for job in (first, second):
        assert (await noop.anime("cancel", job["code"]))[0] == ExitStatus.OK


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("generate", "1girl", "--steps", "900"), ExitStatus.USAGE, "steps: "),
        (("generate", "1girl", "--width", "2000"), ExitStatus.USAGE, "width: "),
        (("generate", "  "), ExitStatus.USAGE, "prompt: "),
        (("generate", "1girl", "--model", "nowhere"), ExitStatus.USAGE, "model: "),
        (("generate", "1girl", "--project", "nowhere"), ExitStatus.USAGE, "project: "),
        (("generate", "x" * 4001), ExitStatus.USAGE, "prompt: "),
        (("jobs", "zzzzzzzz"), ExitStatus.NOT_FOUND, "zzzzzzzz"),
        (("watch", "zzzzzzzz"), ExitStatus.NOT_FOUND, "zzzzzzzz"),
        (("cancel", "zzzzzzzz"), ExitStatus.NOT_FOUND, "zzzzzzzz"),
        (("projects", "show", "nowhere"), ExitStatus.NOT_FOUND, "nowhere"),
        (("jobs", "--url", "http://127.0.0.1:9"), ExitStatus.UNREACHABLE, "http://127.0.0.1:9"),
    ],
)
async def test_mistakes_name_the_field(
    noop: Product, arguments: tuple[str, ...], status: ExitStatus, said: str
) -> None:
    found, out, err = await noop.anime(*arguments)
    assert (found, out) == (status, ""), err
    assert said in err
    assert "Traceback" not in err


async def test_the_doctor_finds_nothing_wrong(noop: Product) -> None:
    status, out, _ = await noop.anime("doctor", "--json")
    found = json.loads(out)
    assert status == ExitStatus.OK, [one for one in found["findings"] if one["verdict"] == "wrong"]
    about = {one["about"] for one in found["findings"]}
    assert {"gateway", "generator", "nats", "postgres", "artifacts", "dead letters", "service jobs"} <= about


async def test_the_doctor_sees_what_is_down(noop: Product) -> None:
    await noop.stack.halt("files")
    try:
        status, out, _ = await noop.anime("doctor", "--json")
    finally:
        await noop.stack.resume("files")
    wrong = {one["about"] for one in json.loads(out)["findings"] if one["verdict"] == "wrong"}
    assert status == ExitStatus.FAILED
    assert {"service files", "health: files"} <= wrong


class TestExample:
    async def run(self, product: Product, prompt: str, settings: dict[str, object]) -> Ran:
        command = (
            sys.executable,
            str(ROOT / "examples" / "publish_a_job.py"),
            prompt,
            "--settings",
            json.dumps(settings),
        )
        places = ("--url", product.nats.url, "--password-file", str(product.nats.password_file("tower")))
        return await product.run(*command, *places)

    async def test_makes_a_picture(self, noop: Product) -> None:
        status, out, err = await self.run(noop, "1girl, from another service", {"seed": 7})
        assert status == 0, err
        lines = out.splitlines()
        assert lines[1].endswith(" queued")
        assert lines[-2].endswith(" completed")
        assert (noop.artifacts / lines[-1].removeprefix("picture: ")).is_file()
        code = lines[1].split()[0]
        assert (await noop.job(code))["client"] == "tower"

    @pytest.mark.parametrize(
        ("settings", "said"),
        [({"steps": 900}, "steps"), ({"priority": "interactive"}, "priority"), ({"model": "nowhere"}, "model")],
    )
    async def test_says_why_it_was_refused(self, noop: Product, settings: dict[str, object], said: str) -> None:
        status, _, err = await self.run(noop, "1girl", settings)
        assert status == 1
        assert "refused" in err
        assert said in err

    async def test_its_message_is_the_published_one(self) -> None:
        schema = json.loads((ROOT / "docs" / "schemas" / "anime.jobs.submit.v1.json").read_text())
        body = {"job_id": "8b1d3c1e-55a2-4b8e-9d4f-0a6c1e7f2b90", "request": {"prompt": "1girl", "seed": 7}}
        Draft202012Validator(schema).validate(body)


async def test_the_demo_uses_the_stack_that_runs(noop: Product) -> None:
    status, out, err = await noop.anime("demo", "--seed", "3", "--", "-dashes and 'quotes'")
    assert status == ExitStatus.OK, err
    picture = Path(out.splitlines()[-1].removeprefix("picture: "))
    assert picture.is_file()
    await eventually(lambda: "gateway" in noop.stack.pids)
