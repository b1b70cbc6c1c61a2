"""A door that others reach: tokens are needed by everybody, and everything goes on as before for who has one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from anime_cli.errors import ExitStatus
from anime_cli.stack import Stack
from tests.stacks import NOOP_MODELS, PROGRAMS, QUICK, Product, Ran, ended, settings_of, start

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

NAME = "tower.test"


@dataclass(slots=True)
class Open:
    """A product that listens at every address, and the tokens to it by scope."""

    product: Product
    tokens: dict[str, str]

    async def anime(self, *arguments: str, token: str | None = None) -> Ran:
        """The `anime` command of somebody with this token."""
        env = {"ANIME_HOME": str(self.product.home)} | ({"ANIME_TOKEN": self.tokens[token]} if token else {})
        return await ended(await start(str(PROGRAMS / "anime"), *arguments, cwd=self.product.home, env=env))

    def bearer(self, token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[token]}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Open]:
    home = tmp_path_factory.mktemp("open")
    models = home / "models.toml"
    models.write_text(NOOP_MODELS)
    tokens = {}
    for scope in ("read", "submit", "admin"):
        command = (str(PROGRAMS / "anime"), "token", "create", scope, "--scope", scope)
        made = await ended(await start(*command, cwd=home, env={"ANIME_HOME": str(home)}))
        assert made.status == 0, made.err
        tokens[scope] = made.out.strip()
    env = {"*": QUICK, "generator": {"ANIME_MODELS": str(models)}, "gateway": {"ANIME_GATEWAY_HOSTS": NAME}}
    settings = settings_of(home).model_copy(update={"gateway_host": "0.0.0.0"})
    async with Stack(settings, env=env) as stack:
        base = f"{stack.url}/api/anime"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as client:
            yield Open(Product(stack, client), tokens)


async def test_this_machine_reaches_it_by_loopback_and_others_by_its_name(opened: Open) -> None:
    url = opened.product.stack.url
    assert url.startswith("http://127.0.0.1:")
    port = url.rpartition(":")[2]
    for host, status in (("127.0.0.1", 200), (f"{NAME}:{port}", 200), ("evil.example", 421), (f"0.0.0.0:{port}", 421)):
        answer = await opened.product.http.get("/session", headers={"Host": host, **opened.bearer("read")})
        assert answer.status_code == status, host


async def test_nobody_gets_in_without_a_token(opened: Open) -> None:
    for path in ("/jobs", "/health", "/events", "/files"):
        answer = await opened.product.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_required")
    ran = await opened.anime("jobs")
    assert ran.status == ExitStatus.DENIED
    assert "anime token create" in ran.err


async def test_the_doctor_says_what_is_missing(opened: Open) -> None:
    ran = await opened.anime("doctor")
    assert ran.status == ExitStatus.FAILED
    assert "does not let us in" in ran.out
    ran = await opened.anime("doctor", token="read")
    assert "gateway: " + opened.product.stack.url + " answers: ok" in ran.out


async def test_who_has_a_token_makes_pictures(opened: Open) -> None:
    ran = await opened.anime("demo", "1girl, blue hair", token="submit")
    assert ran.status == 0, ran.err
    assert "picture: " in ran.out
    ran = await opened.anime("generate", "1girl", token="read")
    assert ran.status == ExitStatus.DENIED
    assert "this needs a token that may submit" in ran.err


async def test_what_is_revoked_ends_what_is_open(opened: Open) -> None:
    made = await opened.anime("token", "create", "guest", "--scope", "read", "--expires", "1d")
    headers = {"Authorization": f"Bearer {made.out.strip()}"}
    async with opened.product.http.stream("GET", "/events", headers=headers) as response:
        assert response.status_code == 200
        assert (await opened.anime("token", "revoke", "guest", "--yes")).status == 0
        again = await opened.product.http.get("/jobs", headers=headers)
        assert (again.status_code, again.json()["code"]) == (401, "invalid_token")
        async with asyncio.timeout(10):
            with contextlib.suppress(httpx.RemoteProtocolError):
                await response.aread()


async def test_no_log_has_a_token(opened: Open) -> None:
    await opened.product.http.get("/jobs", headers={"Authorization": "Bearer anime_aaaaaaaa_wrong"})
    for log in opened.product.stack.logs.values():
        said = log.read_text()
        assert "anime_aaaaaaaa_wrong" not in said
        assert not any(token in said for token in opened.tokens.values())
