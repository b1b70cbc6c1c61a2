"""The gateway's settings."""

import pytest

from anime_common.settings import load
from anime_gateway.settings import GatewaySettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_allowed(host: str) -> None:
    assert GatewaySettings(gateway_host=host).gateway_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "tower.lan", "example.com", ""])
def test_any_other_address_refuses_to_start_and_says_why(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANIME_GATEWAY_HOST", host or "0")
    with pytest.raises(SystemExit) as found:
        load(GatewaySettings)
    assert found.value.code == 2
    said = capsys.readouterr().err
    assert "ANIME_GATEWAY_HOST" in said
    assert "token" in said
