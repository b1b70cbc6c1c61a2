"""Bad input over the bus: the services stay up, and every letter says why it is dead."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from anime_common.bus import Bus, Received, Stored
from anime_common.contracts.generator import AttemptFinished
from anime_common.examples import example
from anime_common.messages import uuid7
from anime_common.topology import ADMIN, DEAD, GENERATOR, TOWER
from tests.builders import heartbeat, held, model_info
from tests.stacks import Product

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

SUBMIT = "anime.jobs.submit.v1"
PROMPT = b'{"job_id": "%s", "request": {"prompt": %%s}}' % str(uuid7()).encode()
GOOD = json.dumps({"job_id": str(uuid7()), "request": {"prompt": "x"}}).encode()


def headers(kind: str, **changed: str | None) -> dict[str, str]:
    """The attributes of a message; a changed one that is None is left out."""
    ident = str(uuid7())
    found: dict[str, str | None] = {"ce-specversion": "1.0", "ce-id": ident, "ce-type": kind, "Nats-Msg-Id": ident}
    found |= {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in found.items() if value is not None}


CASES: list[tuple[str, dict[str, str], bytes, str]] = [
    ("no JSON", headers(SUBMIT), b"{", "JSON"),
    ("not UTF-8", headers(SUBMIT), b"\xff\xfe", "JSON"),
    ("no object", headers(SUBMIT), b"[]", "object"),
    ("deep nesting", headers(SUBMIT), b"[" * 100_000, "JSON"),
    ("nesting in a field", headers(SUBMIT), PROMPT % (b'{"a":' * 150 + b"1" + b"}" * 150), "request.prompt"),
    ("a name twice", headers(SUBMIT), PROMPT % b'"x", "prompt": "y"', "request.prompt: is given twice"),
    ("an id twice", headers(SUBMIT), GOOD.replace(b"{", b'{"job_id": "%s", ' % str(uuid7()).encode(), 1), "job_id: is"),
    ("NUL in the prompt", headers(SUBMIT), PROMPT % b'"a\\u0000b"', "request.prompt"),
    ("half a character", headers(SUBMIT), PROMPT % b'"\\ud800"', "request.prompt: holds bytes or escapes"),
    ("bytes that are no UTF-8", headers(SUBMIT), PROMPT % b'"\xff"', "request.prompt: holds bytes or escapes"),
    ("no number", headers(SUBMIT), PROMPT % b'"x", "guidance": NaN', "request.guidance"),
    ("infinity", headers(SUBMIT), PROMPT % b'"x", "guidance": Infinity', "request.guidance"),
    ("the largest that a stream takes", headers(SUBMIT), PROMPT % (b'"%s"' % (b"x" * (500 << 10))), "request.prompt"),
    ("an unknown field", headers(SUBMIT), GOOD.replace(b'"x"', b'"x", "more": 1'), "request.more"),
    ("an unknown field beside the request", headers(SUBMIT), GOOD.replace(b"{", b'{"more": 1, ', 1), "more"),
    ("no request", headers(SUBMIT), b'{"job_id": "%s"}' % str(uuid7()).encode(), "request"),
    ("an id that is none", headers(SUBMIT), b'{"job_id": "../x", "request": {"prompt": "x"}}', "job_id"),
    ("an unknown version", headers("anime.jobs.submit.v99"), GOOD, "unknown message type"),
    ("an unknown type", headers("anime.jobs.explode.v1"), GOOD, "unknown message type"),
    ("a type of another subject", headers("anime.jobs.cancel.v1"), GOOD, "does not belong"),
    ("no type", headers("", ce_type=None), GOOD, "ce-type is missing"),
    ("no id", headers(SUBMIT, ce_id=None), GOOD, "ce-id is missing"),
    ("an unknown specversion", headers(SUBMIT, ce_specversion="9.9"), GOOD, "ce-specversion"),
    ("a time that is none", headers(SUBMIT, ce_time="yesterday"), GOOD, "ce-time"),
]


async def letter(bus: Bus, known: str, within: float = 20.0) -> Stored:
    """The dead letter of the message that was stored with this deduplication id."""
    async with asyncio.timeout(within):
        while True:
            position = 1
            while page := await bus.read(DEAD, position):
                for each in page:
                    if each.headers.get("x-test") == known:
                        return each
                position = page[-1].sequence + 1
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("what", "attributes", "body", "reason"), CASES, ids=[case[0] for case in CASES])
async def test_a_bad_command_is_a_letter_with_its_reason_and_is_answered(
    noop: Product, what: str, attributes: dict[str, str], body: bytes, reason: str
) -> None:
    mark = str(uuid7())
    heard: asyncio.Queue[Received] = asyncio.Queue()
    async with noop.bus(TOWER) as tower, noop.bus(ADMIN) as admin:
        await tower.listen(f"anime.live.jobs.command_refused.{attributes.get('ce-id', 'none')}", heard.put)
        await tower.store("anime.cmd.jobs.submit.tower", {**attributes, "x-test": mark}, body)
        dead = await letter(admin, mark)
        assert reason in dead.headers["anime-reason"]
        assert dead.headers["anime-subject"] == "anime.cmd.jobs.submit.tower"
        assert dead.data == body
        if "ce-id" in attributes:
            answer: dict[str, Any] = json.loads((await asyncio.wait_for(heard.get(), 10)).data)
            assert (answer["status"], answer["code"], answer["client"]) == (422, "dead_letter", "tower")
    assert (await noop.http.get("/health")).json()["parts"]["jobs"]["ok"]


FINISHED = example(AttemptFinished, device="cpu", timings={"sampling": 1.25}).body()


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("anime.generator.finished.v1", b"{}", "job_id"),
        ("anime.generator.finished.v1", b"nonsense", "JSON"),
        ("anime.generator.finished.v1", FINISHED.replace(b'"cpu"', b'"c\\u0000pu"'), "device: the control character"),
        ("anime.generator.finished.v1", FINISHED.replace(b'"cpu"', b'"\xff"'), "JSON"),
        ("anime.generator.finished.v1", FINISHED.replace(b"1.25", b"NaN"), "timings.sampling"),
        ("anime.generator.finished.v1", FINISHED.replace(b"1.25", b"Infinity"), "timings.sampling"),
        ("anime.generator.finished.v7", b"{}", "unknown message type"),
        ("anime.jobs.completed.v1", b"{}", "does not belong"),
    ],
)
async def test_a_bad_fact_is_a_letter_with_its_reason(noop: Product, kind: str, body: bytes, reason: str) -> None:
    mark = str(uuid7())
    async with noop.bus(GENERATOR) as generator, noop.bus(ADMIN) as admin:
        subject = f"anime.evt.generator.finished.{uuid7()}"
        await generator.store(subject, {**headers(kind), "x-test": mark}, body)
        dead = await letter(admin, mark)
    assert reason in dead.headers["anime-reason"]
    assert dead.subject == "anime.dead.jobs-facts"


def forged(**fields: Any) -> bytes:
    """A heartbeat of a worker that is none, whole but for these fields."""
    worker = heartbeat(worker="forged", attempts=(held(),))
    return json.dumps(worker.model_dump(mode="json", exclude_none=True) | fields).encode()


HEARTBEATS = (
    *(b"", b"{", b"[]", b"{}", b"\xff", b"[" * 50_000, b'{"worker": "../x"}'),
    forged(version="a\0b"),
    forged(engines=["noop\0"]),
    forged(models=[model_info(title="x\0").model_dump(mode="json")]),
    forged(attempts=[held().model_dump(mode="json") | {"eta_seconds": float("nan")}]),
    forged(version="x").replace(b'"x"', b'"\\ud800"'),
)


async def test_what_is_no_heartbeat_makes_no_worker(noop: Product) -> None:
    async with noop.bus(GENERATOR) as generator:
        for body in HEARTBEATS:
            await generator.tell_bytes("anime.tel.generator.forged", body)
        await generator.flush()
    job = await noop.submit("still at work")
    await noop.until(job["id"], "completed")
    workers = (await noop.http.get("/generators")).json()["items"]
    assert "forged" not in json.dumps(workers)
