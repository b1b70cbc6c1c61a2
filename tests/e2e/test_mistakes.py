"""The usual mistakes of people: the exact field is named, as problem details."""

from __future__ import annotations

from typing import Any

import pytest

from anime_common.messages import uuid7
from tests.stacks import Product

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

REQUESTS: list[tuple[str, Any, int, str]] = [
    ("no prompt", {}, 422, "prompt"),
    ("blank prompt", {"prompt": "  "}, 422, "prompt"),
    ("prompt of another type", {"prompt": 7}, 422, "prompt"),
    ("too long a prompt", {"prompt": "x" * 4001}, 422, "prompt"),
    ("a control character", {"prompt": "a\u0000b"}, 422, "prompt"),
    ("an unknown field", {"prompt": "x", "stepps": 3}, 422, "stepps"),
    ("a number as text", {"prompt": "x", "steps": "3"}, 422, "steps"),
    ("a truth value as number", {"prompt": "x", "count": True}, 422, "count"),
    ("no steps", {"prompt": "x", "steps": 0}, 422, "steps"),
    ("too many steps", {"prompt": "x", "steps": 151}, 422, "steps"),
    ("too many pictures", {"prompt": "x", "count": 17}, 422, "count"),
    ("a negative seed", {"prompt": "x", "seed": -1}, 422, "seed"),
    ("too large a seed", {"prompt": "x", "seed": 2**32}, 422, "seed"),
    ("guidance out of range", {"prompt": "x", "guidance": 31}, 422, "guidance"),
    ("too small a side", {"prompt": "x", "width": 16}, 422, "width"),
    ("a width beyond the model", {"prompt": "x", "width": 2000}, 422, "width"),
    ("a side beyond the model", {"prompt": "x", "height": 1024}, 422, "height"),
    ("an unknown sampler", {"prompt": "x", "sampler": "magic"}, 422, "sampler"),
    ("an unknown priority", {"prompt": "x", "priority": "urgent"}, 422, "priority"),
    ("a time without an offset", {"prompt": "x", "not_before": "2030-01-01T00:00:00"}, 422, "not_before"),
    ("an unknown project", {"prompt": "x", "project": "nowhere"}, 422, "project"),
    ("a control character as project", {"prompt": "x", "project": "a\u0000"}, 422, "project"),
    ("a path as project", {"prompt": "x", "project": "../../etc"}, 422, "project"),
    ("an unknown model", {"prompt": "x", "model": "unknown"}, 422, "model"),
    ("nothing as prompt", {"prompt": None}, 422, "prompt"),
    ("a list as prompt", {"prompt": ["x"]}, 422, "prompt"),
    ("a delete character", {"prompt": "a\u007f\u0000b"}, 422, "prompt"),
    ("too long a negative prompt", {"prompt": "x", "negative_prompt": "x" * 4001}, 422, "negative_prompt"),
    ("a negative prompt of another type", {"prompt": "x", "negative_prompt": {}}, 422, "negative_prompt"),
    ("half a step", {"prompt": "x", "steps": 3.5}, 422, "steps"),
    ("negative steps", {"prompt": "x", "steps": -(10**30)}, 422, "steps"),
    ("a huge number of steps", {"prompt": "x", "steps": 10**30}, 422, "steps"),
    ("no pictures", {"prompt": "x", "count": 0}, 422, "count"),
    ("a fraction as seed", {"prompt": "x", "seed": 0.5}, 422, "seed"),
    ("a text as seed", {"prompt": "x", "seed": "42"}, 422, "seed"),
    ("a seed of a hundred digits", {"prompt": "x", "seed": 10**100}, 422, "seed"),
    ("negative guidance", {"prompt": "x", "guidance": -1}, 422, "guidance"),
    ("a text as guidance", {"prompt": "x", "guidance": "7"}, 422, "guidance"),
    ("a huge guidance", {"prompt": "x", "guidance": 1e308}, 422, "guidance"),
    ("a negative side", {"prompt": "x", "height": -64}, 422, "height"),
    ("a side of a million", {"prompt": "x", "width": 1_000_000}, 422, "width"),
    ("a sampler of another type", {"prompt": "x", "sampler": 1}, 422, "sampler"),
    ("a priority in capitals", {"prompt": "x", "priority": "NORMAL"}, 422, "priority"),
    ("no time at all", {"prompt": "x", "not_before": "tomorrow"}, 422, "not_before"),
    ("a day that does not exist", {"prompt": "x", "not_before": "2030-02-30T00:00:00Z"}, 422, "not_before"),
    ("a word as truth value", {"prompt": "x", "optimize": "yes"}, 422, "optimize"),
    ("an absolute path as project", {"prompt": "x", "project": "/etc/passwd"}, 422, "project"),
    ("a path with backslashes as project", {"prompt": "x", "project": "..\\up"}, 422, "project"),
    ("dots as project", {"prompt": "x", "project": ".."}, 422, "project"),
    ("an encoded path as project", {"prompt": "x", "project": "%2e%2e%2fup"}, 422, "project"),
    ("a number as project", {"prompt": "x", "project": 1}, 422, "project"),
    ("a path as model", {"prompt": "x", "model": "../../model.safetensors"}, 422, "model"),
    ("another web address as model", {"prompt": "x", "model": "http://evil.example/m"}, 422, "model"),
    ("a field of the answer", {"prompt": "x", "state": "completed"}, 422, "state"),
    ("a field of the attributes", {"prompt": "x", "__class__": {}}, 422, "__class__"),
    ("an id of one's own", {"prompt": "x", "id": str(uuid7())}, 422, "id"),
]

RAW: list[tuple[str, bytes, str, int, str]] = [
    ("no body", b"", "application/json", 400, "malformed_json"),
    ("half a body", b'{"prompt": "x"', "application/json", 400, "malformed_json"),
    ("a comma too many", b'{"prompt": "x",}', "application/json", 400, "malformed_json"),
    ("two bodies", b'{"prompt": "x"}{"prompt": "y"}', "application/json", 400, "malformed_json"),
    ("a comment", b'{"prompt": "x" /* here */}', "application/json", 400, "malformed_json"),
    ("a control character in the text", b'{"prompt": "a\nb"}', "application/json", 400, "malformed_json"),
    ("not UTF-8 at all", b'\xff\xfe{"prompt": "x"}', "application/json", 400, "malformed_json"),
    ("UTF-16", '{"prompt": "x"}'.encode("utf-16"), "application/json", 400, "malformed_json"),
    ("deep nesting of objects", b'{"prompt": ' * 20_000, "application/json", 400, "malformed_json"),
    ("deep nesting", b'{"prompt": ' + b"[" * 100_000, "application/json", 400, "malformed_json"),
    ("a list", b"[]", "application/json", 422, "invalid"),
    ("a text", b'"x"', "application/json", 422, "invalid"),
    ("nothing", b"null", "application/json", 422, "invalid"),
    ("too large", b'{"prompt": "' + b"x" * (257 * 1024) + b'"}', "application/json", 413, "too_large"),
    ("a form", b"prompt=x", "application/x-www-form-urlencoded", 415, "not_json"),
    ("plain text", b'{"prompt": "x"}', "text/plain", 415, "not_json"),
    ("another charset", b'{"prompt": "x"}', "application/json; charset=latin-1", 415, "not_json"),
    ("XML", b"<prompt>x</prompt>", "application/xml", 415, "not_json"),
]

FLAWS: list[tuple[str, bytes, str]] = [
    ("a name twice", b'{"prompt": "x", "steps": 3, "steps": 4}', "steps"),
    ("the prompt twice", b'{"prompt": "x", "prompt": "x"}', "prompt"),
    ("a name twice, once in escapes", b'{"prompt": "x", "\\u0070rompt": "y"}', "prompt"),
    ("half a character", b'{"prompt": "a\\ud800b"}', "prompt"),
    ("half a character elsewhere", b'{"prompt": "x", "negative_prompt": "\\udfff"}', "negative_prompt"),
    ("bytes that are no UTF-8", b'{"prompt": "\xff\xfe"}', "prompt"),
    ("a surrogate as bytes", b'{"prompt": "x", "project": "\xed\xa0\x80"}', "project"),
    ("NUL in the prompt", b'{"prompt": "a\\u0000b"}', "prompt"),
    ("NUL in the negative prompt", b'{"prompt": "x", "negative_prompt": "\\u0000"}', "negative_prompt"),
    ("NUL in the sampler", b'{"prompt": "x", "sampler": "euler\\u0000"}', "sampler"),
    ("NUL in the model", b'{"prompt": "x", "model": "sprite\\u0000"}', "model"),
    ("no number", b'{"prompt": "x", "guidance": NaN}', "guidance"),
    ("infinity", b'{"prompt": "x", "guidance": Infinity}', "guidance"),
    ("less than everything", b'{"prompt": "x", "guidance": -Infinity}', "guidance"),
    ("too large for a number", b'{"prompt": "x", "guidance": 1e999}', "guidance"),
    ("no number of steps", b'{"prompt": "x", "steps": NaN}', "steps"),
    ("no seed", b'{"prompt": "x", "seed": -Infinity}', "seed"),
    ("nesting in a field", b'{"prompt": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}", "prompt"),
]
"""Bodies that Python cannot even make: the field is named all the same."""


@pytest.mark.parametrize(("what", "content", "field"), FLAWS, ids=[case[0] for case in FLAWS])
async def test_a_flaw_in_a_field_names_it(noop: Product, what: str, content: bytes, field: str) -> None:
    answer = await noop.http.post("/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert (problem["field"], problem["code"]) == (field, "invalid")
    assert problem["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("method", "path", "content", "field"),
    [
        ("POST", "/projects", b'{"name": "a", "name": "b"}', "name"),
        ("POST", "/projects", b'{"name": "a\\u0000"}', "name"),
        ("POST", "/projects", b'{"name": "x", "description": "\\ud800"}', "description"),
        ("PATCH", "/projects/default", b'{"description": "a", "description": "b"}', "description"),
        ("POST", "/prompts/optimize", b'{"prompt": "x", "negative_prompt": "\\u0000"}', "negative_prompt"),
        ("PATCH", "/jobs/nocode00", b'{"paused": true, "paused": false}', "paused"),
    ],
)
async def test_so_does_every_other_body(noop: Product, method: str, path: str, content: bytes, field: str) -> None:
    answer = await noop.http.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


@pytest.mark.parametrize(("what", "body", "status", "field"), REQUESTS, ids=[case[0] for case in REQUESTS])
async def test_a_bad_request_names_its_field(noop: Product, what: str, body: Any, status: int, field: str) -> None:
    answer = await noop.http.post("/jobs", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["field"], problem["status"]) == (field, status)
    assert problem["code"]
    assert problem["detail"]


@pytest.mark.parametrize(("what", "content", "kind", "status", "code"), RAW, ids=[case[0] for case in RAW])
async def test_what_cannot_be_read_is_refused(
    noop: Product, what: str, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = await noop.http.post("/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/jobs/{uuid7()}", None, 404),
        ("GET", "/jobs/nocode00", None, 404),
        ("POST", "/jobs/nocode00/cancel", None, 404),
        ("POST", "/jobs/nocode00/retry", None, 404),
        ("PATCH", "/jobs/nocode00", {"paused": True}, 404),
        ("GET", "/projects/nowhere", None, 404),
        ("DELETE", "/projects/nowhere", None, 404),
        ("DELETE", "/projects/default", None, 409),
        ("POST", "/projects", {"name": ""}, 422),
        ("POST", "/projects", {"name": "x", "slug": "../up"}, 422),
        ("GET", f"/files/{uuid7()}", None, 404),
        ("GET", f"/files/{uuid7()}/content", None, 404),
        ("GET", "/jobs?limit=0", None, 422),
        ("GET", "/jobs?cursor=nonsense", None, 422),
        ("GET", "/jobs?project=%00", None, 422),
        ("GET", "/jobs?client=%00", None, 422),
        ("GET", "/files?q=%00", None, 422),
        ("GET", "/files?tag=%00", None, 422),
        ("GET", "/projects/%00", None, 404),
        ("GET", "/projects/%ff%fe", None, 404),
        ("GET", "/projects/%ed%a0%80", None, 404),
        ("GET", "/jobs?project=%ff%fe", None, 422),
        ("GET", "/nothing", None, 404),
        ("PUT", "/jobs", {}, 405),
    ],
)
async def test_what_is_not_there_or_cannot_be(noop: Product, method: str, path: str, body: Any, status: int) -> None:
    answer = await noop.http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


async def test_a_completed_job_cannot_be_cancelled_or_retried(noop: Product) -> None:
    job = await noop.submit("done soon")
    await noop.until(job["id"], "completed")
    for verb in ("cancel", "retry"):
        answer = await noop.http.post(f"/jobs/{job['id']}/{verb}")
        assert answer.status_code == 409, answer.text
        assert "completed" in answer.json()["detail"]
