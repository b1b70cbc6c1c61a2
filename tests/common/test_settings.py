"""Settings: every mistake at once, by the name of its variable, and no secret in what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from anime_common.settings import ServiceSettings, load


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import os

    for name in [name for name in os.environ if name.startswith("ANIME_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_defaults_are_those_of_one_machine() -> None:
    settings = load(ServiceSettings)
    assert settings.nats_url == "nats://127.0.0.1:4222"
    assert settings.http_host == "127.0.0.1"
    assert settings.failpoints == ""
    assert settings.otlp_endpoint is None
    assert settings.nats_secret() is None


def test_read_from_the_environment(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("ANIME_NATS_URL", "tls://bus.example:4222")
    clean.setenv("ANIME_POSTGRES_POOL", "12")
    clean.setenv("ANIME_LOG_LEVEL", "debug")
    clean.setenv("ANIME_SOMETHING_OF_ANOTHER_SERVICE", "1")
    settings = load(ServiceSettings)
    assert (settings.nats_url, settings.postgres_pool, settings.log_level) == ("tls://bus.example:4222", 12, "debug")


def test_an_empty_variable_is_none(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("ANIME_NATS_URL", "")
    clean.setenv("ANIME_OTLP_ENDPOINT", "")
    settings = load(ServiceSettings)
    assert settings.nats_url == "nats://127.0.0.1:4222"
    assert settings.otlp_endpoint is None


def test_every_mistake_is_reported_at_once(clean: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clean.setenv("ANIME_NATS_URL", "http://nats")
    clean.setenv("ANIME_POSTGRES_DSN", "mysql://tower:hunter2@db/anime")
    clean.setenv("ANIME_ARTIFACTS_URL", "/srv/anime")
    clean.setenv("ANIME_HTTP_PORT", "65536")
    clean.setenv("ANIME_LOG_LEVEL", "loud")
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings)
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":", 1)[0] for line in said] == [
        "ANIME_NATS_URL",
        "ANIME_POSTGRES_DSN",
        "ANIME_ARTIFACTS_URL",
        "ANIME_HTTP_PORT",
        "ANIME_LOG_LEVEL",
    ]
    assert "must start with nats://" in said[0]
    assert "65536" in said[3]
    assert "'debug', 'info', 'warning' or 'error'" in said[4]
    assert "hunter2" not in "".join(said)


def test_passwords_come_from_files_or_variables_and_are_not_shown(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-file\n")
    clean.setenv("ANIME_NATS_PASSWORD_FILE", str(secret))
    clean.setenv("ANIME_POSTGRES_PASSWORD_FILE", str(secret))
    settings = load(ServiceSettings)
    assert settings.nats_secret() == settings.postgres_secret() == "from-file"
    clean.setenv("ANIME_NATS_PASSWORD", "from-variable")
    settings = load(ServiceSettings)
    assert settings.nats_secret() == "from-variable"
    assert "from-variable" not in repr(settings)


def test_frozen() -> None:
    settings = load(ServiceSettings)
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]
