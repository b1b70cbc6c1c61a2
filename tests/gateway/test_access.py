"""Tokens at the door: who comes in, what they may do, and what happens when a token ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from anime_common.tokens import AccessToken, Scope, TokenFile, mint
from anime_gateway.__main__ import SERVER
from anime_gateway.access import Access
from anime_gateway.app import create_app
from anime_gateway.doors import Doors
from anime_gateway.settings import GatewaySettings
from tests.gateway.conftest import OpenDoor
from tests.gateway.test_doors import check

NOW = datetime.now(UTC)
NOBODY = {"required": False, "signed_in": False, "name": None, "scope": None, "expires_at": None}


class Ring:
    """A file of tokens, and the tokens themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, AccessToken] = {}
        self.secret: dict[str, str] = {}
        for scope in Scope:
            self.add(scope.value, scope)

    def add(self, name: str, scope: Scope, expires_at: datetime | None = None) -> str:
        self.kept[name], self.secret[name] = mint(name, scope, NOW, expires_at)
        self.write()
        return self.secret[name]

    def revoke(self, name: str) -> None:
        del self.kept[name]
        self.write()

    def write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(TokenFile(tokens=tuple(self.kept.values())).model_dump_json())
        new.replace(self.path)

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret[name]}"}


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "tokens.json")


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
def client(ring: Ring) -> Client:
    """A client of doors with nothing behind them: what is let in ends as 500 or 404."""

    def made(**settings: Any) -> httpx.AsyncClient:
        given: dict[str, Any] = {"gateway_tokens": ring.path, "gateway_require_tokens": True, **settings}
        found = GatewaySettings(**given)
        app = create_app()
        access = Access(found)
        app.state.gateway = SimpleNamespace(settings=found, access=access)
        transport = httpx.ASGITransport(app=Doors(app, found, access), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost:8328/api/anime")

    return made


async def test_without_a_token_nothing_is_told(client: Client) -> None:
    async with client() as door:
        for path in ("/jobs", "/health", "/events", "/files/x/content", "/nothing"):
            problem = await door.get(path)
            check(problem, 401, "token_required")
            assert problem.headers["www-authenticate"].startswith("Bearer")
        assert (await door.get("/openapi.json")).status_code == 200
        assert (await door.get("http://localhost:8328/")).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer x", "Basic dXNlcjpwYXNz", "anime_aaaaaaaa_" + "a" * 43, "Bearer anime_aaaaaaaa_" + "a" * 43],
)
@pytest.mark.parametrize("required", [True, None])
async def test_a_wrong_token_is_refused_even_where_none_is_needed(
    client: Client, header: str, required: bool | None
) -> None:
    async with client(gateway_require_tokens=required) as door:
        response = await door.get("/queue", headers={"Authorization": header})
        assert response.status_code == 401
        assert response.json()["code"] == "invalid_token"
        assert header not in response.text


async def test_two_tokens_are_no_token(client: Client, ring: Ring) -> None:
    async with client() as door:
        headers = [*ring.bearer("admin").items(), *ring.bearer("read").items()]
        check(await door.get("/queue", headers=headers), 401, "invalid_token", "Authorization")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("read", {"GET"}), ("submit", {"GET", "POST"}), ("admin", {"GET", "POST", "DELETE"})],
)
async def test_a_scope_includes_those_before_it(client: Client, ring: Ring, name: str, allowed: set[str]) -> None:
    requests = {"GET": "/queue", "POST": "/jobs/abcd2345/cancel", "DELETE": "/projects/x"}
    async with client() as door:
        for method, path in requests.items():
            response = await door.request(method, path, headers=ring.bearer(name))
            if method in allowed:
                assert response.status_code == 500  # let in, and there is nothing behind these doors
            else:
                check(response, 403, "insufficient_scope", "Authorization")


async def test_a_token_made_or_revoked_counts_at_once(client: Client, ring: Ring) -> None:
    async with client() as door:
        ring.add("new", Scope.READ)
        assert (await door.get("/session", headers=ring.bearer("new"))).json()["name"] == "new"
        headers = ring.bearer("new")
        ring.revoke("new")
        check(await door.get("/session", headers=headers), 401, "invalid_token")


async def test_a_mounted_secret_that_is_swapped_counts_at_once(client: Client, ring: Ring, tmp_path: Path) -> None:
    # As Kubernetes mounts one: the file is a link through ..data, a link that is renamed over to another folder.
    size = ring.path.stat().st_size
    stale = ring.bearer("admin")
    for name in ("old", "new"):
        if name == "new":
            ring.add("admin", Scope.ADMIN)
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.json").write_text(ring.path.read_text())
    (tmp_path / "..data").symlink_to("old")
    mounted = tmp_path / "mounted.json"
    mounted.symlink_to(Path("..data") / "tokens.json")
    assert mounted.stat().st_size == size, "nothing but the place tells them apart"
    async with client(gateway_tokens=mounted) as door:
        assert (await door.get("/session", headers=stale)).status_code == 200
        (tmp_path / "..next").symlink_to("new")
        (tmp_path / "..next").replace(tmp_path / "..data")
        check(await door.get("/session", headers=stale), 401, "invalid_token")
        assert (await door.get("/session", headers=ring.bearer("admin"))).status_code == 200


async def test_an_expired_token_is_refused(client: Client, ring: Ring) -> None:
    ring.add("old", Scope.ADMIN, NOW - timedelta(seconds=1))
    async with client() as door:
        check(await door.get("/queue", headers=ring.bearer("old")), 401, "invalid_token")


async def test_a_file_that_cannot_be_read_lets_nobody_in(client: Client, ring: Ring) -> None:
    async with client() as door:
        assert (await door.get("/session", headers=ring.bearer("admin"))).status_code == 200
        ring.path.write_text('{"tokens": [')
        check(await door.get("/session", headers=ring.bearer("admin")), 401, "invalid_token")
        ring.write()
        assert (await door.get("/session", headers=ring.bearer("admin"))).status_code == 200


async def test_readiness_says_that_the_file_cannot_be_read(ring: Ring) -> None:
    access = Access(GatewaySettings(gateway_tokens=ring.path))
    assert await access.check() is None
    ring.path.write_text("{")
    assert str(ring.path) in str(await access.check())


class TestBrowsers:
    """Tokens in a cookie."""

    async def test_signing_in_and_out(self, client: Client, ring: Ring) -> None:
        async with client() as door:
            assert (await door.get("/session")).json() == {**NOBODY, "required": True}
            answer = await door.post("/session", json={"token": ring.secret["submit"]})
            who = {"signed_in": True, "name": "submit", "scope": "submit"}
            assert answer.json() == {**NOBODY, "required": True, **who}
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert "path=/" in cookie
            assert "secure" not in cookie
            assert answer.headers["cache-control"] == "no-store"
            assert (await door.get("/session")).json()["signed_in"] is True
            check(await door.delete("/projects/x"), 403, "insufficient_scope", "Authorization")
            assert (await door.delete("/session")).status_code == 204
            assert (await door.get("/session")).json()["signed_in"] is False

    async def test_over_tls_the_cookie_travels_only_so(self, client: Client, ring: Ring) -> None:
        async with client() as door:
            headers = {"Origin": "https://localhost:8328"}
            answer = await door.post("/session", json={"token": ring.secret["read"]}, headers=headers)
            assert "; secure" in answer.headers["set-cookie"].lower()

    async def test_the_cookie_does_not_outlive_the_token(self, client: Client, ring: Ring) -> None:
        secret = ring.add("short", Scope.READ, datetime.now(UTC) + timedelta(seconds=60))
        async with client() as door:
            answer = await door.post("/session", json={"token": secret})
            (age,) = (
                part.split("=")[1] for part in answer.headers["set-cookie"].split("; ") if part.startswith("Max-Age")
            )
            assert 0 < int(age) <= 60

    @pytest.mark.parametrize(
        ("body", "status", "code", "field"),
        [
            ({"token": "anime_aaaaaaaa_" + "a" * 43}, 401, "invalid_token", None),
            ({"token": ""}, 401, "invalid_token", None),
            ({"token": 7}, 422, "invalid", "token"),
            ({"token": "x" * 201}, 422, "invalid", "token"),
            ({}, 422, "invalid", "token"),
            ({"token": "x", "remember": True}, 422, "invalid", "remember"),
        ],
    )
    async def test_what_signs_nobody_in(
        self, client: Client, body: dict[str, Any], status: int, code: str, field: str | None
    ) -> None:
        async with client() as door:
            answer = await door.post("/session", json=body)
            check(answer, status, code, field)
            assert "set-cookie" not in answer.headers

    async def test_a_page_of_another_origin_cannot_use_the_cookie(self, client: Client, ring: Ring) -> None:
        async with client() as door:
            await door.post("/session", json={"token": ring.secret["admin"]})
            answer = await door.post("/jobs", json={"prompt": "x"}, headers={"Origin": "https://evil.example"})
            check(answer, 403, "foreign_origin", "Origin")

    async def test_an_old_cookie_is_no_hindrance_where_no_token_is_needed(self, client: Client) -> None:
        async with client(gateway_require_tokens=None) as door:
            door.cookies.set("anime_token", "anime_aaaaaaaa_" + "a" * 43)
            assert (await door.get("/session")).json() == NOBODY


class TestLimits:
    """How often one may ask."""

    async def test_a_flood_is_slowed_and_told_for_how_long(self, client: Client, ring: Ring) -> None:
        async with client(gateway_rate=0.1, gateway_burst=3) as door:
            answers = [await door.get("/session", headers=ring.bearer("read")) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            check(answers[-1], 429, "rate_limited")
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 11
            assert (await door.get("/session", headers=ring.bearer("submit"))).status_code == 200

    async def test_writes_have_a_limit_of_their_own(self, client: Client, ring: Ring) -> None:
        async with client(gateway_write_rate=0.1, gateway_write_burst=1) as door:
            sent = [await door.post("/jobs/abcd2345/cancel", headers=ring.bearer("submit")) for _ in range(2)]
            assert [answer.status_code for answer in sent] == [500, 429]
            assert (await door.get("/session", headers=ring.bearer("submit"))).status_code == 200

    async def test_asking_without_a_token_has_its_limit_too(self, client: Client, ring: Ring) -> None:
        async with client(gateway_rate=0.1, gateway_burst=2) as door:
            assert [(await door.get("/queue")).status_code for _ in range(3)] == [401, 401, 429]
            assert (await door.get("/session", headers=ring.bearer("read"))).status_code == 200

    async def test_so_has_asking_for_what_one_may_not(self, client: Client, ring: Ring) -> None:
        async with client(gateway_rate=0.1, gateway_burst=2) as door:
            answers = [await door.delete("/projects/x", headers=ring.bearer("read")) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [403, 403, 429]

    async def test_guessing_is_slowed_and_does_not_lock_the_owner_out(self, client: Client, ring: Ring) -> None:
        async with client(gateway_failure_rate=0.01, gateway_failure_burst=2) as door:
            wrong = {"Authorization": "Bearer wrong"}
            assert [(await door.get("/queue", headers=wrong)).status_code for _ in range(3)] == [401, 401, 429]
            check(await door.post("/session", json={"token": "wrong"}), 429, "rate_limited")
            assert (await door.get("/session", headers=ring.bearer("read"))).status_code == 200


@pytest.mark.server
class TestStreams:
    """What stays open needs its token as long as it is open."""

    async def test_a_stream_ends_with_its_token(self, open_door: OpenDoor, ring: Ring) -> None:
        door = await open_door(gateway_tokens=ring.path, gateway_require_tokens=True, gateway_token_check=0.05)
        door.client.headers.update(ring.bearer("read"))
        watching = door.runtime.spawn(door.gateway.access.watch(door.runtime.stop), "access")
        async with door.client.stream("GET", "/events") as response:
            assert response.status_code == 200
            ring.revoke("read")
            async with asyncio.timeout(10):
                with pytest.raises(httpx.RemoteProtocolError):
                    await response.aread()
        check(await door.client.get("/events"), 401, "invalid_token")
        assert not watching.done()

    async def test_a_websocket_ends_with_its_token(self, open_door: OpenDoor, ring: Ring) -> None:
        door = await open_door(gateway_tokens=ring.path, gateway_require_tokens=True, gateway_token_check=0.05)
        door.runtime.spawn(door.gateway.access.watch(door.runtime.stop), "access")
        url = f"ws://127.0.0.1:{door.port}/api/anime/ws"
        async with connect(url, additional_headers=ring.bearer("read"), proxy=None) as socket:
            await socket.send('{"action": "ping"}')
            assert "pong" in str(await socket.recv())
            ring.revoke("read")
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()

    async def test_a_flood_over_a_websocket_is_slowed(self, open_door: OpenDoor) -> None:
        door = await open_door(gateway_rate=0.1, gateway_burst=3)
        async with connect(f"ws://127.0.0.1:{door.port}/api/anime/ws", proxy=None) as socket:
            said = []
            for _ in range(3):
                await socket.send('{"action": "ping"}')
                said.append(json.loads(await socket.recv()))
        assert [each["event"] for each in said] == ["pong", "pong", "error"]
        assert (said[-1]["data"]["status"], said[-1]["data"]["code"]) == (429, "rate_limited")

    async def test_a_message_that_is_too_large_closes_the_websocket(self, open_door: OpenDoor) -> None:
        door = await open_door()
        async with connect(f"ws://127.0.0.1:{door.port}/api/anime/ws", proxy=None) as socket:
            await socket.send('{"action": "ping", "x": "' + "x" * SERVER["ws_max_size"] + '"}')
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Host": "evil.example"}, 421),
            ({"Origin": "https://evil.example"}, 403),
        ],
    )
    async def test_a_websocket_is_refused_before_its_handshake(
        self, open_door: OpenDoor, ring: Ring, headers: dict[str, str], status: int
    ) -> None:
        door = await open_door(gateway_tokens=ring.path, gateway_require_tokens=True)
        given = {"Authorization": ring.bearer("read")["Authorization"]} if status in {421, 403} else {}
        with pytest.raises(InvalidStatus) as refused:
            async with connect(
                f"ws://127.0.0.1:{door.port}/api/anime/ws", additional_headers=given | headers, proxy=None
            ):
                pass
        assert refused.value.response.status_code == status
