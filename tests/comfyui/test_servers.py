"""The file of ComfyUI servers: what it says, and every mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from anime_generator.comfyui.servers import ServersError, load_servers, read_server

GOOD = """
[servers.tower]
url = "http://127.0.0.1:8188/"
"""


def written(folder: Path, text: str = GOOD) -> Path:
    file = folder / "comfyui.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path) -> list[str]:
    with pytest.raises(ServersError) as caught:
        load_servers(file)
    assert str(file) in str(caught.value)
    return caught.value.problems


def test_a_url_is_enough(tmp_path: Path) -> None:
    remote = load_servers(written(tmp_path)).servers["tower"]
    assert (remote.name, remote.url, remote.headers, remote.workflows) == (
        "tower",
        "http://127.0.0.1:8188",
        {},
        tmp_path / "workflows",
    )


def test_headers_may_lie_in_files_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("Bearer hush-file\n")
    (tmp_path / "flows").mkdir()
    more = 'workflows = "flows"\nheaders = { Authorization = "file:key", X-Plain = "hush" }\n'
    remote = load_servers(written(tmp_path, GOOD + more)).servers["tower"]
    assert remote.headers == {"Authorization": "Bearer hush-file", "X-Plain": "hush"}
    assert remote.workflows == tmp_path / "flows"
    assert "hush" not in repr(remote)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    more = """
workflows = "nowhere"
headers = { "X Y" = "1", X-File = "file:none", X-Line = "a\\nb" }
[checkpoints."a.safetensors"]
key = "same"
[checkpoints."b.safetensors"]
key = "same"
"""
    found = "\n".join(problems(written(tmp_path, GOOD + more)))
    for expected in (
        "servers.tower.headers: 'X Y' is no header's name",
        "servers.tower.headers.X-File: none cannot be read",
        "servers.tower.headers.X-Line: only printable ASCII characters",
        "servers.tower.workflows:",
        "checkpoints: the key same is given to two files",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("servers = [", "not a TOML file"),
        ("[servers]", "servers: at least one server is needed"),
        ('[servers."My Tower"]\nurl = "http://x"', "servers.My Tower"),
        ('[servers.tower]\nurl = "127.0.0.1:8188"', "servers.tower.url"),
        ('[servers.tower]\nurl = "http://me:hush@host"', "servers.tower.url"),
        (GOOD + 'key = "x"', "servers.tower.key: Extra inputs"),
        (GOOD + '[checkpoints."a"]\nfamly = "sdxl"', "checkpoints.a.famly: Extra inputs"),
        (GOOD + "stalled = 0", "servers.tower.stalled"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, text: str, says: str) -> None:
    assert any(each.startswith(says) for each in problems(written(tmp_path, text)))


def test_a_worker_drives_the_server_of_its_own_name(tmp_path: Path) -> None:
    assert read_server(written(tmp_path), "tower")[1].url == "http://127.0.0.1:8188"
    with pytest.raises(ServersError, match=r"servers\.attic: is missing: a worker drives the server of its own name"):
        read_server(tmp_path / "comfyui.toml", "attic")
    with pytest.raises(ServersError, match="cannot be read"):
        read_server(tmp_path / "none.toml", "tower")
