"""A stack whose door is for others too: what is refused before anything starts, and how this machine reaches it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from anime_cli import remote_checks
from anime_cli.findings import Verdict, patient
from anime_cli.parts import Parts
from anime_cli.process import StackError
from anime_cli.services import SERVICES
from anime_cli.settings import ClientSettings, StackSettings
from anime_cli.stack import Stack
from anime_common.addresses import is_loopback, url_of
from tests.cli.conftest import Anime
from tests.cli.fake_gateway import problem
from tests.stacks import settings_of


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "tower.lan"])
async def test_without_a_token_nothing_is_started(host: str, home: Path) -> None:
    settings = settings_of(home).model_copy(update={"gateway_host": host})
    with pytest.raises(StackError, match=r"`anime token create NAME --scope admin`"):
        await Stack(settings).start()
    assert not (home / "postgres").exists()
    assert not (home / "nats").exists()


def test_an_expired_or_unreadable_token_is_none(anime: Anime, home: Path) -> None:
    parts = Parts(StackSettings(home=home, gateway_host="0.0.0.0"))
    anime("token", "create", "me")
    parts.check_door()
    file = home / "secrets" / "gateway-tokens.json"
    made = file.read_text()
    file.write_text(made.replace('"scope"', '"expires_at": "2020-01-01T00:00:00Z", "scope"'))
    with pytest.raises(StackError, match="no token that is good"):
        parts.check_door()
    file.write_text("{")
    with pytest.raises(StackError, match="cannot be read"):
        parts.check_door()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8328"),
        ("0.0.0.0", "http://127.0.0.1:8328"),
        ("::", "http://[::1]:8328"),
        ("fd00::1", "http://[fd00::1]:8328"),
        ("tower.lan", "http://tower.lan:8328"),
    ],
)
def test_how_this_machine_reaches_it(host: str, url: str) -> None:
    assert url_of(host, 8328) == url


def test_what_only_this_machine_reaches() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil", "", "tower"))


def test_no_service_learns_the_token_of_whoever_started_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_TOKEN", "anime_secret")
    parts = Parts(settings_of(home))
    parts.choose_ports()
    for service in SERVICES:
        assert "anime_secret" not in parts.environment(service, {}).values()


@pytest.mark.parametrize(
    ("answer", "said", "mend"),
    [
        (problem(401, "token_required", "send a token"), "does not let us in: send a token", "ANIME_TOKEN"),
        (problem(403, "insufficient_scope", "may not"), "does not let us in: may not", "ANIME_TOKEN"),
        (problem(421, "wrong_host", "not my name"), "answers 421: not my name", "ANIME_URL"),
        (httpx.Response(200, json=[]), "not our gateway?", "ANIME_URL"),
        (httpx.Response(200, text="hello"), "does not answer", "ANIME_URL"),
    ],
)
async def test_the_doctor_says_that_it_is_not_let_in(
    answer: httpx.Response, said: str, mend: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = httpx.AsyncClient
    transport = httpx.MockTransport(lambda _: answer)
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: real(**{**options, "transport": transport}))
    who = patient(StackSettings(home=home), ClientSettings(home=home), "http://127.0.0.1:9")
    (one,) = await remote_checks.gateway(who)
    assert one.verdict is Verdict.WRONG
    assert said in one.detail
    assert mend in str(one.mend)
