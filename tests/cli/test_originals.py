"""Jobs that begin with a picture: `--from`, `--mask`, and what is sent of sizes, LoRAs and enlarging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_cli.errors import ExitStatus
from anime_cli.originals import fitted
from anime_common.contracts.files import FileView
from anime_common.contracts.jobs import Catalogue, CatalogueEntry, JobView
from anime_common.contracts.vocabulary import JobState, ModelInfo, Output, SizeLimits
from anime_common.examples import CODE, FILE, example
from anime_common.messages import uuid7
from tests.cli.conftest import Anime
from tests.cli.fake_gateway import FakeGateway, problem, view

PROMPT = "1girl"
PNG = b"\x89PNG\r\n\x1a\nrest"
LIMITS = SizeLimits(minimum=64, maximum=512, multiple=16)


def file(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json=example(FileView, **fields).model_dump(mode="json"))


def catalogue(*models: dict[str, Any]) -> httpx.Response:
    known = [example(ModelInfo).model_copy(update={"sizes": LIMITS} | each) for each in models]
    items = tuple(CatalogueEntry(model=model) for model in known)
    return httpx.Response(200, json=Catalogue(items=items).model_dump(mode="json"))


@pytest.fixture
def ready(gateway: FakeGateway) -> FakeGateway:
    """A gateway that takes uploads and jobs, with one file of 800 x 600 in its library."""
    gateway.on(f"GET /files/{FILE}", file(width=800, height=600))
    gateway.on(
        "POST /uploads", httpx.Response(201, json=example(FileView, width=96, height=64).model_dump(mode="json"))
    )
    gateway.on("POST /jobs", httpx.Response(201, json=view()))
    gateway.on("GET /models", catalogue({"key": "sprite", "default": True}, {"key": "large", "default": False}))
    return gateway


def sent(gateway: FakeGateway) -> dict[str, Any]:
    (body,) = gateway.bodies("POST /jobs")
    assert isinstance(body, dict)
    return body


class TestBeginning:
    def test_a_picture_of_this_machine_is_uploaded_first(
        self, anime: Anime, ready: FakeGateway, tmp_path: Path
    ) -> None:
        path = tmp_path / "sketch.png"
        path.write_bytes(PNG)
        result = anime("generate", PROMPT, "--from", str(path), "--project", "sunrise", "--strength", "0.4")
        assert result.exit_code == 0, result.output
        assert sent(ready) == {
            "prompt": PROMPT,
            "project": "sunrise",
            "init_image": FILE,
            "strength": 0.4,
            "width": 96,
            "height": 64,
        }
        upload = next(request for request in ready.asked if request.url.path.endswith("/uploads"))
        assert (upload.content, dict(upload.url.params)) == (PNG, {"name": "sketch.png", "project": "sunrise"})

    def test_a_file_of_the_library_is_used_as_it_is(self, anime: Anime, ready: FakeGateway) -> None:
        assert anime("generate", PROMPT, "--from", FILE, "--mask", FILE).exit_code == 0
        body = sent(ready)
        assert (body["init_image"], body["mask"]) == (FILE, FILE)
        assert (body["width"], body["height"]) == (512, 384)
        assert "strength" not in body
        assert not any(request.url.path.endswith("/uploads") for request in ready.asked)

    @pytest.mark.parametrize(("name", "index"), [(CODE, 0), (f"{CODE}_01", 1)])
    def test_a_picture_of_a_job_goes_by_its_code(self, anime: Anime, ready: FakeGateway, name: str, index: int) -> None:
        ids = [FILE if each == index else str(uuid7()) for each in range(2)]
        outputs = tuple(example(Output, index=each, file_id=ids[each]) for each in range(2))
        job = example(JobView, state=JobState.COMPLETED).model_copy(update={"outputs": outputs})
        ready.on(f"GET /jobs/{CODE}", httpx.Response(200, json=job.model_dump(mode="json")))
        assert anime("generate", PROMPT, "--from", name).exit_code == 0
        assert sent(ready)["init_image"] == FILE

    def test_a_job_without_that_picture(self, anime: Anime, ready: FakeGateway) -> None:
        ready.on(f"GET /jobs/{CODE}", httpx.Response(200, json=view()))
        result = anime("generate", PROMPT, "--from", f"{CODE}_07")
        assert result.exit_code == ExitStatus.NOT_FOUND
        assert f"job {CODE} is queued and has no picture 7" in result.stderr

    def test_what_is_nothing_is_said(self, anime: Anime, ready: FakeGateway) -> None:
        result = anime("generate", PROMPT, "--from", "no-such.png")
        assert result.exit_code == ExitStatus.NOT_FOUND
        assert "there is no file no-such.png" in result.stderr
        ready.on(f"GET /files/{FILE}", problem(404, "not_found", f"there is no file '{FILE}'"))
        assert anime("generate", PROMPT, "--from", FILE).exit_code == ExitStatus.NOT_FOUND
        assert ready.bodies("POST /jobs") == []

    @pytest.mark.parametrize(
        ("options", "size"),
        [
            (("--width", "256"), (256, 192)),
            (("--height", "240"), (320, 240)),
            (("--width", "100", "--height", "100"), (100, 100)),
            (("--model", "large"), (512, 384)),
            (("--model", "unheard-of"), (None, None)),
        ],
    )
    def test_sizes_that_are_not_named_follow_the_picture(
        self, anime: Anime, ready: FakeGateway, options: tuple[str, ...], size: tuple[int | None, int | None]
    ) -> None:
        assert anime("generate", PROMPT, "--from", FILE, *options).exit_code == 0
        body = sent(ready)
        assert (body.get("width"), body.get("height")) == size

    @pytest.mark.parametrize("options", [("--mask", FILE), ("--strength", "0.5"), ("--upscaler", "lanczos")])
    def test_options_that_nothing_is_about(self, anime: Anime, ready: FakeGateway, options: tuple[str, ...]) -> None:
        result = anime("generate", PROMPT, *options)
        assert result.exit_code == ExitStatus.USAGE
        assert f"{options[0]}: only together with" in result.stderr
        assert ready.asked == []


class TestEnlarging:
    @pytest.mark.parametrize(
        ("options", "fields"),
        [
            (("--hires",), {"hires": {"scale": 2.0}}),
            (("--hires", "1.5", "--strength", "0.3"), {"hires": {"scale": 1.5, "strength": 0.3}}),
            (("--hires=3", "--upscaler", "x"), {"hires": {"scale": 3.0, "upscaler": "x"}}),
            (("--upscale", "--seed", "3"), {"upscale": {"factor": 2.0}, "seed": 3}),
            (("--upscale", "4", "--upscaler", "x"), {"upscale": {"factor": 4.0, "upscaler": "x"}}),
            (("--hires", "--upscale"), {"hires": {"scale": 2.0}, "upscale": {"factor": 2.0}}),
        ],
    )
    def test_may_stand_without_a_number(
        self, anime: Anime, ready: FakeGateway, options: tuple[str, ...], fields: dict[str, Any]
    ) -> None:
        assert anime("generate", PROMPT, *options).exit_code == 0
        assert sent(ready) == {"prompt": PROMPT} | fields

    def test_what_comes_after_two_dashes_is_the_prompt(self, anime: Anime, ready: FakeGateway) -> None:
        assert anime("generate", "--hires", "--", "--upscale").exit_code == 0
        assert sent(ready) == {"prompt": "--upscale", "hires": {"scale": 2.0}}

    def test_a_finished_picture(self, anime: Anime, ready: FakeGateway) -> None:
        assert anime("upscale", FILE, "--factor", "3", "--upscaler", "x", "--model", "large").exit_code == 0
        assert sent(ready) == {
            "prompt": "upscale",
            "init_image": FILE,
            "strength": 0.0,
            "model": "large",
            "upscale": {"factor": 3.0, "upscaler": "x"},
        }


def test_everything_else_that_a_model_honours(anime: Anime, ready: FakeGateway) -> None:
    options = "--preset fast --clip-skip 2 --guidance-rescale 0.7 --lora one --lora two:-0.5"
    assert anime("generate", PROMPT, *options.split()).exit_code == 0
    assert sent(ready) == {
        "prompt": PROMPT,
        "preset": "fast",
        "clip_skip": 2,
        "guidance_rescale": 0.7,
        "loras": [{"key": "one"}, {"key": "two", "weight": -0.5}],
    }
    result = anime("generate", PROMPT, "--lora", "one:much")
    assert result.exit_code == ExitStatus.USAGE
    assert "--lora one:much: the weight 'much' is no number" in result.stderr


@given(
    width=st.integers(1, 9000), height=st.integers(1, 9000), maximum=st.integers(80, 600), multiple=st.integers(1, 64)
)
def test_a_fitted_size_can_be_drawn(width: int, height: int, maximum: int, multiple: int) -> None:
    limits = SizeLimits(minimum=64, maximum=max(maximum, 64 + multiple), multiple=multiple)
    for side in fitted(width, height, limits):
        assert limits.minimum <= side <= limits.maximum
        assert side % multiple == 0
