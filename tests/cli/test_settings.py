"""Settings of the stack and of the command line: defaults, mistakes, and where a client finds its gateway."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anime_cli.parts import Parts
from anime_cli.process import StackError
from anime_cli.settings import ClientSettings, StackSettings, comfyui_servers
from anime_cli.stack_file import HomeLock, StackFile, leftovers, path_of, read_stack_file, write_stack_file
from anime_common.settings import load


def running(home: Path) -> StackFile:
    stack = StackFile(
        pid=os.getpid(),
        started_at=datetime.now(UTC),
        url="http://127.0.0.1:8330",
        nats_url="nats://127.0.0.1:4223",
        nats_monitor_url="http://127.0.0.1:8223",
        postgres_dsn="postgresql://anime_admin@127.0.0.1:54328/anime",
        artifacts_url="file:///artifacts",
        health={"jobs": "http://127.0.0.1:8331"},
        pids={"jobs": 4},
    )
    home.mkdir(parents=True, exist_ok=True)
    write_stack_file(home, stack)
    return stack


def test_nothing_need_be_set() -> None:
    settings = load(StackSettings)
    assert settings.gateway_port == 8328
    assert settings.home == Path.cwd() / ".anime"
    assert (settings.nats_url, settings.postgres_dsn, settings.artifacts_url) == (None, None, None)


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_NATS_URL", "")
    monkeypatch.setenv("ANIME_GATEWAY_PORT", "")
    assert load(StackSettings) == StackSettings()


def test_all_mistakes_are_named_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = {
        "ANIME_GATEWAY_PORT": "many",
        "ANIME_NATS_URL": "127.0.0.1:4222",
        "ANIME_POSTGRES_DSN": "mysql://x",
        "ANIME_ARTIFACTS_URL": "/var/lib",
        "ANIME_WORKER": "GPU 0",
        "ANIME_LOG_FORMAT": "xml",
    }
    for name, value in mistakes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(StackSettings)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert [name for name in mistakes if name not in told] == []


def test_a_client_prefers_what_is_set(tmp_path: Path) -> None:
    running(tmp_path)
    assert ClientSettings(home=tmp_path, url="http://tower:8328/").gateway_url() == "http://tower:8328"


def test_a_client_finds_the_stack_of_its_home(tmp_path: Path) -> None:
    stack, lock = running(tmp_path), HomeLock(tmp_path)
    lock.acquire()
    try:
        assert read_stack_file(tmp_path) == stack
        assert ClientSettings(home=tmp_path).gateway_url() == stack.url
    finally:
        lock.release()


def test_the_file_of_a_stack_that_died_is_not_believed_but_its_processes_are_known(tmp_path: Path) -> None:
    running(tmp_path)
    assert read_stack_file(tmp_path) is None
    assert ClientSettings(home=tmp_path).gateway_url() == "http://127.0.0.1:8328"
    assert leftovers(tmp_path) == {"jobs": 4}


def test_a_broken_file_is_no_stack(tmp_path: Path) -> None:
    path_of(tmp_path).write_text("{")
    assert read_stack_file(tmp_path) is None
    assert leftovers(tmp_path) == {}
    assert read_stack_file(tmp_path / "nowhere") is None


def test_two_stacks_do_not_share_a_home(tmp_path: Path) -> None:
    first, second = HomeLock(tmp_path), HomeLock(tmp_path)
    first.acquire()
    with pytest.raises(StackError, match=f"process {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_lock_left_by_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "stack.lock").write_text("999999\n")
    lock = HomeLock(tmp_path)
    lock.acquire()
    lock.release()


class TestComfyuiServers:
    """The file that names them, as far as a stack reads it."""

    def test_without_a_file_there_are_none(self, tmp_path: Path) -> None:
        assert comfyui_servers(StackSettings(home=tmp_path)) == (tmp_path / "comfyui.toml", ())

    def test_each_server_gets_a_worker_and_the_five_services_keep_their_ports(self, tmp_path: Path) -> None:
        (tmp_path / "comfyui.toml").write_text('[servers.attic]\nurl = "http://x"\n[servers.b2]\nurl = "http://y"\n')
        parts = Parts(StackSettings(home=tmp_path))
        assert [each.name for each in parts.services] == [
            *("jobs", "echo", "files", "generator", "comfyui-attic", "comfyui-b2", "gateway")
        ]
        parts.choose_ports()
        assert list(parts.ports) == ["jobs", "echo", "files", "generator", "gateway", "comfyui-attic", "comfyui-b2"]
        env = parts.environment(parts.services[4], {})
        assert (env["ANIME_WORKER"], env["ANIME_COMFYUI"]) == ("attic", str(tmp_path / "comfyui.toml"))
        assert env["ANIME_NATS_USER"] == "generator"
        assert "ANIME_COMFYUI" not in parts.environment(parts.services[3], {})

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[servers.local]\nurl = "http://x"', "servers.local: names are small letters"),
            ('[servers."Big Tower"]\nurl = "http://x"', "servers.Big Tower: names are small letters"),
            ("[servers", "not a TOML file"),
        ],
    )
    def test_a_file_that_is_wrong_is_told_before_anything_starts(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "comfyui.toml").write_text(text)
        with pytest.raises(StackError, match=says):
            Parts(StackSettings(home=tmp_path))

    def test_a_file_that_was_named_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(StackError, match="cannot be read"):
            Parts(StackSettings(home=tmp_path, comfyui=tmp_path / "none.toml"))
