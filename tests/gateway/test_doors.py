"""What is refused before anything else looks at it, and how every refusal reads."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from anime_gateway.access import Access
from anime_gateway.app import create_app
from anime_gateway.doors import Doors, hostname, is_json
from anime_gateway.settings import GatewaySettings

JSON = {"Content-Type": "application/json"}
LIMIT = 2048


def doors(settings: GatewaySettings, ask: object = None) -> Doors:
    """The application of a gateway that has its doors and nothing behind them."""
    app = create_app()
    access = Access(settings)
    app.state.gateway = SimpleNamespace(settings=settings, access=access, ask=ask)
    return Doors(app, settings, access)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The application without anything behind it: enough for what never gets so far."""
    transport = httpx.ASGITransport(app=doors(GatewaySettings(gateway_max_body=LIMIT)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8328") as made:
        yield made


def check(response: httpx.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize(
    "host", ["evil.example", "tower.lan:8328", "127.0.0.1.nip.io", "0.0.0.0:8328", "localhost.evil", ""]
)
async def test_a_name_that_is_not_ours_is_refused(client: httpx.AsyncClient, host: str) -> None:
    problem = check(await client.get("/", headers={"Host": host}), 421, "wrong_host", "Host")
    assert "localhost," not in problem["detail"]
    assert "ANIME_GATEWAY_HOSTS" in problem["detail"]


async def test_two_hosts_are_no_host(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers=[("Host", "localhost"), ("Host", "evil.example")])
    check(response, 421, "wrong_host", "Host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8328", "127.0.0.1:1", "[::1]:8328", "LOCALHOST:8328"])
async def test_loopback_names_with_any_port_are_ours(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9999", "http://127.0.0.1:8328", "file://"]
)
async def test_pages_of_other_origins_are_refused(client: httpx.AsyncClient, origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        response = await client.request(method, "/api/anime/jobs", headers={"Origin": origin})
        check(response, 403, "foreign_origin", "Origin")
        assert "access-control-allow-origin" not in response.headers


async def test_our_own_page_is_welcome(client: httpx.AsyncClient) -> None:
    assert (await client.get("/", headers={"Origin": "http://localhost:8328"})).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
    ],
)
async def test_what_a_form_can_send_is_refused(client: httpx.AsyncClient, kind: str) -> None:
    for path in ("/jobs", "/jobs/abcd2345/cancel", "/projects"):
        response = await client.post(f"/api/anime{path}", content=b'{"prompt": "x"}', headers={"Content-Type": kind})
        check(response, 415, "not_json", "Content-Type")


async def test_a_body_without_a_type_is_refused(client: httpx.AsyncClient) -> None:
    check(await client.post("/api/anime/jobs", content=b"{}"), 415, "not_json", "Content-Type")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(client: httpx.AsyncClient, chunked: bool) -> None:
    big = b'{"prompt": "' + b"x" * LIMIT + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 512):
            yield big[start : start + 512]

    content = parts() if chunked else big
    check(await client.post("/api/anime/jobs", content=content, headers=JSON), 413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "x",}',
        b"\xff\xfe",
        b'{"prompt": "\\ud800"',
        b"[" * 1500,
        b'{"seed": ' + b"9" * 1500,
        b"'x'",
    ],
)
async def test_what_is_no_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    check(await client.post("/api/anime/jobs", content=body, headers=JSON), 400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "blank"),
        ({"prompt": "   "}, "prompt", "blank"),
        ({"prompt": "a\u0000b"}, "prompt", "U+0000"),
        ({"prompt": "x" * 100, "promt": "y"}, "promt", "did you mean prompt"),
        ({"prompt": 7}, "prompt", "string"),
        ({"prompt": "x", "steps": 0}, "steps", "greater than or equal to 1"),
        ({"prompt": "x", "steps": 151}, "steps", "less than or equal to 150"),
        ({"prompt": "x", "steps": "20"}, "steps", "integer"),
        ({"prompt": "x", "steps": 20.5}, "steps", "integer"),
        ({"prompt": "x", "steps": True}, "steps", "integer"),
        ({"prompt": "x", "width": 63}, "width", "64"),
        ({"prompt": "x", "seed": -1}, "seed", "0"),
        ({"prompt": "x", "seed": 2**32}, "seed", "4294967295"),
        ({"prompt": "x", "count": 17}, "count", "16"),
        ({"prompt": "x", "guidance": -0.1}, "guidance", "0"),
        ({"prompt": "x", "sampler": "heun"}, "sampler", "euler a"),
        ({"prompt": "x", "priority": "high"}, "priority", "interactive"),
        ({"prompt": "x", "not_before": "2026-06-01T12:00:00"}, "not_before", "timezone"),
        ({"prompt": "x", "optimize": "yes"}, "optimize", "boolean"),
        ({"prompt": "x", "model": "../../etc"}, "model", "pattern"),
        ([], None, "object"),
        ("prompt", None, "object"),
    ],
)
async def test_the_exact_field_is_named_with_what_is_allowed(
    client: httpx.AsyncClient, body: Any, field: str | None, said: str
) -> None:
    problem = check(await client.post("/api/anime/jobs", json=body), 422, "invalid", field)
    assert said in problem["detail"]


async def test_all_mistakes_are_told_at_once(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/anime/jobs", json={"prompt": "x", "steps": 0, "seed": -1, "color": "red"})
    problem = check(response, 422, "invalid", "steps")
    assert [mistake["field"] for mistake in problem["errors"]] == ["steps", "seed", "color"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=x", "limit"),
        ("/jobs?state=done", "state.0"),
        ("/jobs?color=red", "color"),
        ("/files?min_rating=6", "min_rating"),
        ("/files/not-a-uuid", "file"),
        ("/files/not-a-uuid/content", "file"),
        ("/projects?state=gone", "state"),
    ],
)
async def test_parameters_are_named_as_they_were_written(client: httpx.AsyncClient, path: str, field: str) -> None:
    check(await client.get(f"/api/anime{path}"), 422, "invalid", field)


@pytest.mark.parametrize(
    "path",
    [
        "/api/anime/jobs/x",
        "/api/anime/jobs/..%2f..%2fetc",
        f"/api/anime/jobs/{'a' * 5000}",
        "/api/anime/jobs/abcd2345%00",
    ],
)
async def test_a_name_that_no_job_can_have_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("key", ["", "é", "x" * 256, "tab\there"])
async def test_a_bad_idempotency_key_is_named(client: httpx.AsyncClient, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    response = await client.post("/api/anime/jobs", json={"prompt": "x"}, headers=headers)
    check(response, 422, "invalid", "Idempotency-Key")


async def test_a_change_that_changes_nothing_is_refused(client: httpx.AsyncClient) -> None:
    check(await client.patch("/api/anime/jobs/abcd2345", json={}), 422, "invalid")
    check(await client.patch("/api/anime/jobs/abcd2345", json={"priority": None}), 422, "invalid", "priority")


async def test_unknown_addresses_and_methods(client: httpx.AsyncClient) -> None:
    check(await client.get("/nothing"), 404, "not_found")
    check(await client.get("/api/anime/jobs/"), 404, "not_found")
    response = await client.delete("/api/anime/jobs")
    check(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"
    assert (await client.put("/docs")).headers["allow"] == "GET, HEAD"


async def test_a_bug_tells_nothing_but_that_there_is_one() -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the password is hunter2")

    transport = httpx.ASGITransport(app=doors(GatewaySettings(), ask=broken), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/api/anime/queue")
    check(response, 500, "internal")
    assert "hunter2" not in response.text


async def test_every_response_is_protected(client: httpx.AsyncClient) -> None:
    for path in ("/", "/nothing", "/api/anime/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/studio.js", "/docs.js", "/studio.css", "/favicon.svg"):
        response = await client.get(path)
        assert response.status_code == 200, path
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in response.text
        again = await client.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert again.status_code == 304


def test_host_names_without_their_port() -> None:
    assert [hostname(host) for host in ("LocalHost:80", "[::1]:80", "[::1]", "a:b", "")] == [
        "localhost",
        "[::1]",
        "[::1]",
        "a:b",
        "",
    ]


def test_what_counts_as_json() -> None:
    assert is_json("application/json")
    assert is_json("Application/JSON; charset=UTF-8")
    assert not is_json(None)
    assert not is_json("application/jsonp")
    assert not is_json("text/json")
