from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from anime_generator.settings import GeneratorSettings, default_worker


def test_the_name_of_the_machine_becomes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Tower.Local")
    assert default_worker() == "tower-local"
    monkeypatch.setattr("socket.gethostname", lambda: "塔")
    assert default_worker() == "generator"


@pytest.mark.parametrize(("name", "value"), [("device", "gpu"), ("worker", "Tower 1"), ("cpu_threads", 0)])
def test_what_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        GeneratorSettings(**{name: value})  # type: ignore[arg-type]


def test_mistakes_of_the_registry_are_mistakes_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"absent\.toml: cannot be read"):
        GeneratorSettings(models=tmp_path / "absent.toml")


def test_the_engine_process_gets_no_secrets_no_hub_and_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("ANIME_NATS_PASSWORD", "secret")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    environment = GeneratorSettings().engine_environment()
    assert not [name for name in environment if name.startswith("ANIME_")]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "4"
    assert GeneratorSettings(cpu_threads=3).engine_environment()["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert GeneratorSettings().engine_environment()["OMP_NUM_THREADS"] == "1"


def test_compiled_kernels_are_kept_with_the_user_or_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/srv/anime")
    kept = GeneratorSettings().engine_environment
    assert kept()["TORCHINDUCTOR_CACHE_DIR"] == "/srv/anime/.cache/tower-anime/compiled"
    monkeypatch.setenv("HOME", "~")  # what a user without an entry comes to
    assert kept()["TORCHINDUCTOR_CACHE_DIR"] == f"{tempfile.gettempdir()}/tower-anime/compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/srv/kernels")
    assert kept()["TORCHINDUCTOR_CACHE_DIR"] == "/srv/kernels"
