"""`anime workflows`, with the generator's own program and a server that answers."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Anime
from tests.comfyui.painter import Manners, Painter
from tests.comfyui.recordings import scripts

pytestmark = pytest.mark.slow

GRAPH: dict[str, Any] = json.loads(json.dumps(scripts("a_success_cold_full")[0].graph))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANIME_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def painter(home: Path) -> Iterator[Painter]:
    with Painter(home / "painter").serving() as found:
        (home / "comfyui.toml").write_text(f'[servers.tower]\nurl = "{found.url}"\n')
        yield found


def exported(folder: Path, checkpoint: str = "anime.safetensors", name: str = "My Flow.json") -> Path:
    graph = {**GRAPH, "4": {**GRAPH["4"], "inputs": {"ckpt_name": checkpoint}}}
    (folder / name).write_text(json.dumps(graph))
    return folder / name


def test_what_is_shipped_is_listed_with_what_it_takes(painter: Painter, anime: Anime) -> None:
    shown = anime("workflows")
    assert shown.exit_code == 0, shown.output
    assert "inpaint" in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines() if "not yet" in line] == ["animation"]
    told = json.loads(anime("workflows", "list", "--json").stdout)
    (server,) = told["servers"]
    assert {each["name"]: each["model"] for each in server["workflows"]} == {
        **dict.fromkeys(("text-to-image", "image-to-image", "inpaint", "hires", "upscale"), False),
        "animation": True,
    }


def test_an_exported_workflow_is_brought_and_checked(home: Path, painter: Painter, anime: Anime) -> None:
    shown = anime("workflows", "import", str(exported(home)), "--title", "Mine")
    assert shown.exit_code == 0, shown.output
    assert "anime generate --model my-flow PROMPT" in shown.stdout
    manifest = tomllib.loads((home / "workflows" / "my-flow.toml").read_text())
    assert (manifest["title"], manifest["fields"]["prompt"]) == ("Mine", "6.text")
    checked = json.loads(anime("workflows", "check", "--json").stdout)
    assert checked["problems"] == []
    assert checked["servers"][0]["problems"]["my-flow"] == []
    again = anime("workflows", "import", str(home / "My Flow.json"))
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert anime("workflows", "import", str(home / "My Flow.json"), "--force").exit_code == 0


def test_what_the_server_lacks_is_named(home: Path, painter: Painter, anime: Anime) -> None:
    anime("workflows", "import", str(exported(home, "gone.safetensors")))
    painter.manners.without = frozenset({"LoadImageMask"})
    shown = anime("workflows", "check")
    assert shown.exit_code == 1
    said = " ".join(shown.stdout.split())
    assert "tower: my-flow: node 4 'Load Checkpoint': ckpt_name: the server has no 'gone.safetensors'" in said
    assert "tower: inpaint: node 18 'Mask': the server has no node class 'LoadImageMask'" in said
    # Nobody asked for the animation: that its models are not there is no fault.
    assert "tower: animation" not in said


def test_a_server_that_is_away_or_does_not_let_us_in_is_told(painter: Painter, anime: Anime) -> None:
    painter.manners = Manners(header=("x-key", "1"))
    shown = anime("workflows", "check")
    assert (shown.exit_code, "HTTP 401" in shown.stdout) == (1, True)
    painter.stop()
    shown = anime("workflows", "check")
    assert (shown.exit_code, "does not answer as it should" in shown.stdout) == (1, True)
    assert anime("workflows", "list").exit_code == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"nodes": [], "links": []}', "in ComfyUI choose Workflow, Export (API)"),
        ("{", "is no JSON"),
        ('{"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}', "no node of it writes files under a prefix"),
    ],
)
def test_what_cannot_be_brought_is_said_why(home: Path, anime: Anime, content: str, says: str) -> None:
    (home / "flow.json").write_text(content)
    shown = anime("workflows", "import", str(home / "flow.json"))
    assert shown.exit_code == 2
    assert says in shown.stderr
    assert not (home / "workflows").exists()


def test_what_was_not_found_can_be_said(home: Path, anime: Anime) -> None:
    graph = {**GRAPH, "6": {**GRAPH["6"], "inputs": {"words": "x", "clip": ["4", 1]}}}
    (home / "flow.json").write_text(json.dumps(graph))
    shown = anime("workflows", "import", str(home / "flow.json"))
    assert shown.exit_code == 2
    assert "prompt: no input was found that takes it" in shown.stderr
    wrong = anime("workflows", "import", str(home / "flow.json"), "--field", "prompt=6.wrods")
    assert "fields.prompt: node 6 has no input 'wrods'; it has words, clip" in wrong.stderr
    assert anime("workflows", "import", str(home / "flow.json"), "--field", "prompt=6.words").exit_code == 0


def test_without_a_file_of_servers_it_is_said_how_to_make_one(home: Path, anime: Anime) -> None:
    shown = anime("workflows")
    assert shown.exit_code == 2
    assert f"there is no file of ComfyUI servers at {home / 'comfyui.toml'}" in shown.stderr


def test_mistakes_of_that_file_are_told_by_their_line(home: Path, anime: Anime) -> None:
    (home / "comfyui.toml").write_text('[servers.tower]\nurl = "here"\n')
    shown = anime("workflows", "check")
    assert shown.exit_code == 2
    assert "servers.tower.url" in shown.stderr
