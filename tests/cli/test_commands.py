"""The commands: what they ask for, what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from anime_cli.errors import ExitStatus
from anime_common.contracts.files import FilePage, FileView
from anime_common.contracts.jobs import Catalogue, JobPage, QueueState, Workers
from anime_common.contracts.projects import DeletedProject, Project, ProjectPage
from anime_common.contracts.vocabulary import JobState, Output
from anime_common.examples import FILE, PROMPT, example
from tests.cli.conftest import Anime
from tests.cli.fake_gateway import CODE, JOB, URL, FakeGateway, problem, sse, view

DONE = view(JobState.COMPLETED, percent=100.0)
FAILED = view(JobState.FAILED) | {
    "error": {"code": "oom", "message": "the card has too little memory", "retryable": True}
}


def ended(job: dict[str, object]) -> httpx.Response:
    return sse(("snapshot", {"jobs": [job]}, "1"))


class TestGenerate:
    def test_asks_for_what_was_said_and_nothing_else(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", httpx.Response(201, json=view()))
        said = "--project sunrise --model sprite --width 512 --height 768 --steps 24 --guidance 6.5 --count 2 --seed 7"
        more = ("--sampler", "dpm++ 2m karras", "--negative", "lowres", "--priority", "batch", "--optimize")
        result = anime("generate", PROMPT, *said.split(), *more, "--keep-partial")
        assert result.exit_code == 0
        assert gateway.bodies("POST /jobs") == [
            {
                "prompt": PROMPT,
                "project": "sunrise",
                "model": "sprite",
                "width": 512,
                "height": 768,
                "steps": 24,
                "guidance": 6.5,
                "count": 2,
                "seed": 7,
                "sampler": "dpm++ 2m karras",
                "negative_prompt": "lowres",
                "priority": "batch",
                "optimize": True,
                "keep_partial": True,
            }
        ]
        assert result.stdout.splitlines()[0].startswith(f"job {CODE} is queued")
        anime("generate", PROMPT)
        assert gateway.bodies("POST /jobs")[1] == {"prompt": PROMPT}

    def test_times_without_an_offset_are_local(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", httpx.Response(201, json=view()))
        anime("generate", PROMPT, "--not-before", "2026-03-01T22:00")
        anime("generate", PROMPT, "--not-before", "tonight")
        local, unknown = (body["not_before"] for body in gateway.bodies("POST /jobs"))
        assert local.startswith("2026-03-01T22:00:00")
        assert len(local) > len("2026-03-01T22:00:00")
        assert unknown == "tonight"

    def test_for_programs(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", httpx.Response(201, json=view()))
        assert json.loads(anime("generate", PROMPT, "--json").stdout)["code"] == CODE

    def test_one_that_the_ledger_has_not_answered_for(self, anime: Anime, gateway: FakeGateway) -> None:
        promise = {"command_id": JOB, "job_id": JOB, "job_url": "", "detail": "stored, and not answered in time"}
        gateway.on("POST /jobs", httpx.Response(202, json=promise))
        result = anime("generate", PROMPT)
        assert result.exit_code == 0
        assert f"job {JOB}: stored, and not answered in time" in result.stdout

    def test_every_mistake_is_named(self, anime: Anime, gateway: FakeGateway) -> None:
        mistakes = [
            {"field": "steps", "code": "less_than_equal", "detail": "Input should be less than or equal to 150"},
            {"field": "width", "code": "greater_than_equal", "detail": "Input should be greater than or equal to 64"},
        ]
        refusal = problem(422, "invalid", "steps: …", field="steps", errors=mistakes)
        gateway.on("POST /jobs", refusal)
        result = anime("generate", PROMPT, "--steps", "900", "--width", "7")
        assert result.exit_code == ExitStatus.USAGE
        assert result.stdout == ""
        assert result.stderr.splitlines() == [
            "anime: steps: Input should be less than or equal to 150",
            "anime: width: Input should be greater than or equal to 64",
        ]
        as_json = json.loads(anime("generate", PROMPT, "--steps", "900", "--json").stderr)
        assert (as_json["code"], as_json["field"], as_json["exit_status"]) == ("invalid", "steps", 2)

    def test_repeats_under_one_key_until_it_is_known_to_be_stored(self, anime: Anime, gateway: FakeGateway) -> None:
        unknown = problem(504, "outcome_unknown", "not confirmed")
        gateway.on("POST /jobs", unknown, httpx.ReadTimeout("slow"), httpx.Response(200, json=view()))
        assert anime("generate", PROMPT).exit_code == 0
        assert len({request.headers["idempotency-key"] for request in gateway.asked}) == 1
        assert len(gateway.asked) == 3

    def test_comes_back_when_it_is_told_to(self, anime: Anime, gateway: FakeGateway) -> None:
        later = httpx.Response(429, headers={"Retry-After": "0"}, json={"code": "rate_limited", "detail": "too many"})
        gateway.on("POST /jobs", later, later, httpx.Response(201, json=view()))
        assert anime("generate", PROMPT).exit_code == 0
        assert len(gateway.asked) == 3

    @pytest.mark.parametrize("after", ["3600", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
    def test_does_not_wait_for_ever(self, anime: Anime, gateway: FakeGateway, after: str) -> None:
        later = httpx.Response(429, headers={"Retry-After": after}, json={"code": "rate_limited", "detail": "too many"})
        gateway.on("POST /jobs", later)
        assert "too many" in anime("generate", PROMPT).stderr
        assert len(gateway.asked) == 1

    @pytest.mark.parametrize(("status", "code"), [(401, "token_required"), (403, "insufficient_scope")])
    def test_says_that_it_may_not(self, anime: Anime, gateway: FakeGateway, status: int, code: str) -> None:
        gateway.on("POST /jobs", problem(status, code, "send a token"))
        result = anime("generate", PROMPT)
        assert result.exit_code == ExitStatus.DENIED
        assert "send a token" in result.stderr

    def test_gives_up_when_it_stays_unknown(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", problem(504, "outcome_unknown", "not confirmed"))
        assert anime("generate", PROMPT).exit_code == ExitStatus.UNREACHABLE

    def test_watched_to_its_end(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", httpx.Response(201, json=view()))
        gateway.on(f"GET /jobs/{CODE}/events", ended(DONE | {"outputs": outputs()}))
        result = anime("generate", PROMPT, "--watch")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == f"picture: {URL}/api/anime/files/{FILE}/content"

    def test_watched_to_a_bad_end(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("POST /jobs", httpx.Response(201, json=view())).on(f"GET /jobs/{CODE}/events", ended(FAILED))
        result = anime("generate", PROMPT, "--watch")
        assert result.exit_code == ExitStatus.FAILED
        assert result.stderr.splitlines() == [
            f"anime: job {CODE} failed: the card has too little memory",
            f"anime: trying again may help: `anime retry {CODE}`",
        ]


def outputs() -> list[object]:
    return [example(Output).model_dump(mode="json")]


class TestJobs:
    def test_a_list(self, anime: Anime, gateway: FakeGateway) -> None:
        page = example(JobPage).model_dump(mode="json") | {"items": [DONE, FAILED], "next": "abc"}
        gateway.on("GET /jobs", httpx.Response(200, json=page))
        result = anime("jobs", "--state", "completed", "--state", "failed", "--project", "sunrise", "--limit", "2")
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == [CODE, CODE]
        assert "--cursor abc" in result.stdout
        asked = gateway.asked[0].url.params
        assert asked.get_list("state") == ["completed", "failed"]
        assert (asked["project"], asked["limit"], "client" in asked) == ("sunrise", "2", False)

    def test_one(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on(f"GET /jobs/{CODE}", httpx.Response(200, json=FAILED))
        shown = anime("jobs", CODE).stdout
        assert JOB in shown
        assert "oom: the card has too little memory" in shown
        assert json.loads(anime("jobs", CODE, "--json").stdout)["id"] == JOB

    @pytest.mark.parametrize("name", ["", ".", ".."])
    def test_a_name_that_no_job_can_have_asks_nobody(self, anime: Anime, gateway: FakeGateway, name: str) -> None:
        assert anime("jobs", name).exit_code == ExitStatus.NOT_FOUND
        assert gateway.asked == []

    def test_path_tricks_stay_one_segment(self, anime: Anime, gateway: FakeGateway) -> None:
        anime("jobs", "../projects?x=1#y")
        assert gateway.asked[0].url.raw_path == b"/api/anime/jobs/..%2Fprojects%3Fx%3D1%23y"

    @pytest.mark.parametrize(
        ("refusal", "status"),
        [
            (problem(404, "not_found", "there is no job"), ExitStatus.NOT_FOUND),
            (problem(410, "refused", "it was refused"), ExitStatus.NOT_FOUND),
            (problem(409, "ended", "the job has ended"), ExitStatus.CONFLICT),
            (problem(403, "priority_not_allowed", "no"), ExitStatus.DENIED),
            (problem(503, "unavailable", "the service is away"), ExitStatus.UNREACHABLE),
            (problem(500, "internal", "a bug"), ExitStatus.FAILED),
            (httpx.Response(502, text="<html>bad gateway</html>"), ExitStatus.UNREACHABLE),
            (httpx.Response(200, json={"some": "thing"}), ExitStatus.FAILED),
            (httpx.ConnectError("refused"), ExitStatus.UNREACHABLE),
        ],
    )
    @pytest.mark.parametrize("verb", ["cancel", "retry"])
    def test_exit_statuses(
        self, anime: Anime, gateway: FakeGateway, verb: str, refusal: httpx.Response | Exception, status: ExitStatus
    ) -> None:
        gateway.on(f"POST /jobs/{CODE}/{verb}", refusal)
        result = anime(verb, CODE)
        assert result.exit_code == status
        assert result.stderr.startswith("anime: ")

    def test_a_cancel_that_waits_for_the_step(self, anime: Anime, gateway: FakeGateway) -> None:
        running = view(JobState.RUNNING) | {"cancel_requested": True}
        gateway.on(f"POST /jobs/{CODE}/cancel", httpx.Response(200, json=running))
        assert anime("cancel", CODE).stdout == f"job {CODE} stops after the running step\n"

    def test_watching_for_programs(self, anime: Anime, gateway: FakeGateway) -> None:
        events = sse(("snapshot", {"jobs": [view()]}, "1"), ("job", {"type": "completed", "job": DONE}, "2"))
        gateway.on(f"GET /jobs/{CODE}/events", events)
        lines = [json.loads(line) for line in anime("watch", CODE, "--json").stdout.splitlines()]
        assert [line["progress"]["state"] for line in lines[:-1]] == ["queued", "completed"]
        assert lines[-1]["job"]["code"] == CODE

    def test_usage(self, anime: Anime, gateway: FakeGateway) -> None:
        for wrong in (("jobs", "--state", "sleeping"), ("watch",), ("jobs", "--limit", "0"), ("nonsense",)):
            assert anime(*wrong).exit_code == ExitStatus.USAGE


class TestRetryMany:
    def test_by_error_code(self, anime: Anime, gateway: FakeGateway) -> None:
        answer = {"found": 3, "retried": 3, "codes": {"out_of_memory": 3}, "more": True}
        gateway.on("POST /retries", httpx.Response(200, json=answer))
        result = anime("retry", "--error", "out_of_memory", "--project", "sunrise")
        assert result.stdout == "out_of_memory: 3\n3 failed jobs are run again, and there are more: say it again\n"
        assert gateway.bodies("POST /retries") == [{"code": "out_of_memory", "project": "sunrise", "dry_run": False}]
        assert anime("retry", "--since", "2026-03-01T22:00:00Z", "--dry-run").stdout.endswith(
            "3 failed jobs, and there are more: say it again\n"
        )
        assert gateway.bodies("POST /retries")[-1]["dry_run"] is True

    def test_one_job_is_named_alone(self, anime: Anime, gateway: FakeGateway) -> None:
        result = anime("retry", "k3v9x2mq", "--error", "out_of_memory")
        assert (result.exit_code, gateway.asked) == (ExitStatus.USAGE, [])


class TestProjects:
    PROJECT = example(Project).model_dump(mode="json")

    def test_list_create_show_update(self, anime: Anime, gateway: FakeGateway) -> None:
        one = httpx.Response(200, json=self.PROJECT)
        gateway.on("GET /projects", httpx.Response(200, json=example(ProjectPage).model_dump(mode="json")))
        gateway.on("POST /projects", httpx.Response(201, json=self.PROJECT))
        gateway.on("GET /projects/sunrise", one).on("PATCH /projects/sunrise", one)
        assert "sunrise" in anime("projects", "list").stdout
        assert anime("projects", "create", "Sunrise", "--slug", "sunrise").exit_code == 0
        assert gateway.bodies("POST /projects") == [{"name": "Sunrise", "slug": "sunrise"}]
        assert "Sunrise" in anime("projects", "show", "sunrise").stdout
        anime("projects", "update", "sunrise", "--state", "archived", "--description", "")
        assert gateway.bodies("PATCH /projects/sunrise") == [{"state": "archived", "description": ""}]

    def test_a_style_is_given_and_taken_away(self, anime: Anime, gateway: FakeGateway) -> None:
        one = httpx.Response(200, json=self.PROJECT)
        gateway.on("POST /projects", httpx.Response(201, json=self.PROJECT)).on("PATCH /projects/sunrise", one)
        said = "--model counterfeit --preset fast --lora ink:0.5 --lora soft --prefix anime --size 512x768"
        assert anime("projects", "create", "Sunrise", "--rating", "explicit", *said.split()).exit_code == 0
        (made,) = gateway.bodies("POST /projects")
        assert made == {
            "name": "Sunrise",
            "rating": "explicit",
            "style": {
                "model": "counterfeit",
                "preset": "fast",
                "prompt_prefix": "anime",
                "loras": [{"key": "ink", "weight": 0.5}, {"key": "soft"}],
                "width": 512,
                "height": 768,
            },
        }
        anime(
            "projects", "update", "sunrise", "--unset", "model", "--unset", "size", "--unset", "cover", "--negative", ""
        )
        (changed,) = gateway.bodies("PATCH /projects/sunrise")
        gone = dict.fromkeys(("model", "preset", "width", "height"))
        assert changed == {"style": {"negative_prompt": "", **gone}, "cover": None}
        anime("projects", "update", "sunrise", "--suffix", "x", "--if-version", "4")
        assert gateway.asked[-1].headers["If-Match"] == '"4"'
        wrong = anime("projects", "create", "Sunrise", "--size", "large")
        assert (wrong.exit_code, "WIDTHxHEIGHT" in wrong.stderr) == (ExitStatus.USAGE, True)

    def test_what_is_shown_of_one(self, anime: Anime, gateway: FakeGateway) -> None:
        gateway.on("GET /projects/sunrise", httpx.Response(200, json=self.PROJECT | {"files": 7, "bytes": 2048}))
        shown = anime("projects", "show", "sunrise").stdout
        for text in ("11 completed, 1 failed", "7, 2.0 KiB", "anime screencap", "512×768", "general"):
            assert text in shown

    def test_one_with_work_in_it_is_archived_unless_forced(self, anime: Anime, gateway: FakeGateway) -> None:
        gone = example(DeletedProject).model_dump(mode="json") | {"jobs": 3}
        kept, dead = gone | {"deleted": False, "trashed": 0}, gone | {"deleted": True, "trashed": 12}
        gateway.on("DELETE /projects/sunrise", httpx.Response(200, json=kept), httpx.Response(200, json=dead))
        result = anime("projects", "delete", "sunrise")
        assert result.stdout == "project sunrise is archived, not deleted: there is work in it (3 jobs)\n"
        assert anime("projects", "delete", "sunrise", "--force").exit_code == ExitStatus.USAGE, "nobody to ask"
        assert len(gateway.asked) == 1
        result = anime("projects", "delete", "sunrise", "--force", "--yes")
        assert result.stdout == "project sunrise is deleted, with 3 jobs; 12 files go to the trash\n"
        assert gateway.asked[-1].url.params["force"] == "true"


class TestFiles:
    def test_list_show_get(self, anime: Anime, gateway: FakeGateway, tmp_path: Path) -> None:
        file = example(FileView).model_dump(mode="json")
        gateway.on("GET /files", httpx.Response(200, json=example(FilePage).model_dump(mode="json")))
        gateway.on(f"GET /files/{FILE}", httpx.Response(200, json=file))
        gateway.on(f"GET /files/{FILE}/content", httpx.Response(200, content=b"\x89PNG"))
        assert FILE in anime("files", "list", "classroom", "--favourite").stdout
        assert dict(gateway.asked[0].url.params) == {"q": "classroom", "favourite": "true", "limit": "20"}
        assert "408.7 KiB" in anime("files", "show", FILE).stdout
        assert anime("files", "get", FILE, "--output", str(tmp_path / "a.png")).exit_code == 0
        assert (tmp_path / "a.png").read_bytes() == b"\x89PNG"
        assert anime("files", "get", FILE, "-o", str(tmp_path / "no" / "a.png")).exit_code == ExitStatus.USAGE
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.png"]

    def test_an_id_that_is_none(self, anime: Anime, gateway: FakeGateway) -> None:
        assert anime("files", "show", "xyz").exit_code == ExitStatus.USAGE


def test_the_state_of_the_whole(anime: Anime, gateway: FakeGateway) -> None:
    for path, model in (("queue", QueueState), ("models", Catalogue), ("generators", Workers)):
        gateway.on(f"GET /{path}", httpx.Response(200, json=example(model).model_dump(mode="json")))
        assert anime(path).exit_code == 0
        assert json.loads(anime(path, "--json").stdout)
    assert "sampling 46 %" in anime("generators").stdout


def test_without_a_gateway_it_says_how_to_start_one(anime: Anime) -> None:
    result = anime("jobs", "--url", "http://127.0.0.1:9")
    assert result.exit_code == ExitStatus.UNREACHABLE
    assert "anime up" in result.stderr


def test_version_help_and_completion(anime: Anime) -> None:
    assert anime("--version").stdout.startswith("anime ")
    said = anime("--help").stdout
    assert "Exit status" in said
    assert "--install-completion" in said


def test_a_picture_that_cannot_be_made_again_is_an_error_of_one_line(anime: Anime, tmp_path: Path) -> None:
    found = anime("regenerate", str(tmp_path / "absent.png"))
    assert (found.exit_code, found.output) == (ExitStatus.NOT_FOUND, f"anime: there is no file {tmp_path}/absent.png\n")
    found = anime("regenerate", str(tmp_path), "--json")
    assert found.exit_code == ExitStatus.USAGE
    assert "is no PNG that can be read" in json.loads(found.output)["detail"]
