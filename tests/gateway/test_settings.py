"""The gateway's settings: no door is opened to others without a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anime_common.settings import load
from anime_common.tokens import Scope, TokenFile, mint
from anime_gateway.settings import LOOPBACK, GatewaySettings

OPEN = ["0.0.0.0", "::", "192.168.1.10", "tower.lan", "example.com"]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file with a token that is good, and one that is not."""
    now = datetime.now(UTC)
    good, _ = mint("me", Scope.ADMIN, now)
    old, _ = mint("old", Scope.ADMIN, now, now - timedelta(days=1))
    file = tmp_path / "tokens.json"
    file.write_text(TokenFile(tokens=(good, old)).model_dump_json())
    return file


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **settings: str) -> str:
    """What a start with these settings says before it ends."""
    for name, value in settings.items():
        monkeypatch.setenv(f"ANIME_GATEWAY_{name.upper()}", value)
    with pytest.raises(SystemExit) as found:
        load(GatewaySettings)
    assert found.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    settings = GatewaySettings(gateway_host=host)
    assert not settings.tokens_required
    assert settings.hosts >= LOOPBACK


@pytest.mark.parametrize("host", OPEN)
def test_any_other_address_needs_a_file_of_tokens(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ANIME_GATEWAY_TOKENS" in refused(monkeypatch, capsys, host=host, hosts="tower")


@pytest.mark.parametrize("host", OPEN)
def test_and_a_token_in_it(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys, host=host, hosts="tower", tokens=str(tmp_path / "none.json"))
    assert "anime token create" in said


def test_an_expired_token_is_none(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = TokenFile.model_validate_json(tokens.read_bytes()).tokens
    tokens.write_text(TokenFile(tokens=kept[1:]).model_dump_json())
    assert "no token that is good" in refused(monkeypatch, capsys, host="192.168.1.10", tokens=str(tokens))


def test_a_broken_file_is_told(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.write_text("{")
    assert str(tokens) in refused(monkeypatch, capsys, host="192.168.1.10", tokens=str(tokens))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_who_listens_everywhere_names_itself(
    host: str, tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys, host=host, tokens=str(tokens))
    assert "ANIME_GATEWAY_HOSTS" in said
    assert "tower.lan" in said


def test_tokens_cannot_be_switched_off_for_others(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys, host="192.168.1.10", tokens=str(tokens), require_tokens="false")
    assert "ANIME_GATEWAY_REQUIRE_TOKENS" in said


def test_tokens_that_are_required_need_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ANIME_GATEWAY_TOKENS" in refused(monkeypatch, capsys, require_tokens="true")


@pytest.mark.parametrize("hosts", ["http://tower", "tower:8328", "tower/", "a b", "*", "-tower"])
def test_hosts_are_names(hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ANIME_GATEWAY_HOSTS" in refused(monkeypatch, capsys, hosts=hosts)


def test_an_open_door_with_tokens_knows_its_names(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_GATEWAY_HOST", "0.0.0.0")
    monkeypatch.setenv("ANIME_GATEWAY_HOSTS", "Tower, tower.lan,192.168.1.10,fd00::1")
    monkeypatch.setenv("ANIME_GATEWAY_TOKENS", str(tokens))
    settings = load(GatewaySettings)
    assert settings.tokens_required
    assert settings.hosts == LOOPBACK | {"tower", "tower.lan", "192.168.1.10", "[fd00::1]"}


def test_an_address_is_a_name_of_its_own(tokens: Path) -> None:
    settings = GatewaySettings(gateway_host="192.168.1.10", gateway_tokens=tokens)
    assert settings.hosts == LOOPBACK | {"192.168.1.10"}
