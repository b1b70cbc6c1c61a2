"""`anime upload`: what is sent, what is said, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from anime_cli.errors import ExitStatus
from anime_cli.upload import media_type_of
from anime_common.contracts.files import FileView
from anime_common.examples import FILE, example
from tests.cli.conftest import Anime
from tests.cli.fake_gateway import FakeGateway, problem

PNG = b"\x89PNG\r\n\x1a\nrest"
MADE = example(FileView, type="upload", job_id=None, code=None, settings=None, name="a.png").model_dump(mode="json")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "a.png", tmp_path / "b.dat"]
    found[0].write_bytes(PNG)
    found[1].write_bytes(b"\xff\xd8\xffrest")
    return found


def test_sends_each_file_by_what_it_is(anime: Anime, gateway: FakeGateway, pictures: list[Path]) -> None:
    gateway.on("POST /uploads", httpx.Response(201, json=MADE))
    result = anime("upload", *map(str, pictures), "--project", "sunrise")
    assert result.exit_code == 0
    assert [line.split(": file ")[0] for line in result.stdout.splitlines()] == [str(path) for path in pictures]
    assert FILE in result.stdout
    first, second = gateway.asked
    assert (first.content, first.headers["content-type"]) == (PNG, "image/png")
    assert (second.headers["content-type"], dict(second.url.params)) == (
        "image/jpeg",
        {"name": "b.dat", "project": "sunrise"},
    )
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_for_programs(anime: Anime, gateway: FakeGateway, pictures: list[Path]) -> None:
    gateway.on("POST /uploads", httpx.Response(201, json=MADE))
    lines = anime("upload", *map(str, pictures), "--json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["upload", "upload"]


def test_repeats_under_one_key_when_the_answer_is_lost(
    anime: Anime, gateway: FakeGateway, pictures: list[Path]
) -> None:
    gateway.on("POST /uploads", httpx.ReadTimeout("slow"), httpx.Response(201, json=MADE))
    assert anime("upload", str(pictures[0])).exit_code == 0
    assert len({request.headers["idempotency-key"] for request in gateway.asked}) == 1
    assert [request.content for request in gateway.asked] == [PNG, PNG]


def test_a_refusal_names_the_file(anime: Anime, gateway: FakeGateway, pictures: list[Path]) -> None:
    gateway.on("POST /uploads", problem(422, "not_a_picture", "this cannot be taken: it is damaged", field="file"))
    result = anime("upload", str(pictures[0]))
    assert result.exit_code == ExitStatus.USAGE
    assert result.stderr == f"anime: {pictures[0]}: file: this cannot be taken: it is damaged\n"
    as_json = json.loads(anime("upload", str(pictures[0]), "--json").stderr)
    assert as_json["code"] == "not_a_picture"


def test_what_is_no_picture_is_not_sent(anime: Anime, gateway: FakeGateway, tmp_path: Path) -> None:
    for name, data in (("a.png", b"GIF89a"), ("b.svg", b"<svg/>"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(data)
        result = anime("upload", str(tmp_path / name))
        assert result.exit_code == ExitStatus.USAGE
        assert f"{tmp_path / name} is no PNG, JPEG or WebP picture" in result.stderr
    assert "No such file" in anime("upload", str(tmp_path / "missing.png")).stderr
    assert anime("upload", str(tmp_path)).exit_code == ExitStatus.USAGE
    assert anime("upload").exit_code == ExitStatus.USAGE
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_types_by_their_first_bytes(data: bytes, media_type: str | None) -> None:
    assert media_type_of(data) == media_type
