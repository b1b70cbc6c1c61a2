"""Questions and answers over a real server: errors keep status and field, calls run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio
from pydantic import BaseModel

from anime_cli.nats_server import NatsServer
from anime_common import rpc
from anime_common.bus import Bus
from anime_common.contracts.echo import OPTIMIZE, OptimizedPrompt, OptimizeQuestion
from anime_common.contracts.files import DELETE_FILE, GET_FILE, LIBRARY_STATS, FileRef, LibraryStats
from anime_common.contracts.generation import GenerationRequest
from anime_common.messages import uuid7
from anime_common.outcomes import Refused, Unavailable, not_found
from anime_common.rpc_contract import Empty, ProblemBody
from anime_common.topology import ECHO, FILES, GATEWAY
from tests.buses import Connect
from tests.waiting import eventually

Answer = Callable[[OptimizeQuestion], Awaitable[BaseModel]]
QUESTION = OptimizeQuestion(prompt="1girl")


@pytest_asyncio.fixture
async def gateway(nats: NatsServer, connect: Connect) -> Bus:
    return await connect(nats, GATEWAY)


@pytest_asyncio.fixture
async def echo(nats: NatsServer, connect: Connect) -> Bus:
    return await connect(nats, ECHO)


async def echoing(question: OptimizeQuestion) -> OptimizedPrompt:
    return OptimizedPrompt(prompt=question.prompt.upper(), provider="test")


async def refusal(bus: Bus, timeout: float = 5.0) -> Refused:
    with pytest.raises(Refused) as caught:
        await rpc.call(bus, OPTIMIZE, QUESTION, timeout=timeout)
    return caught.value


async def test_a_question_is_answered(echo: Bus, gateway: Bus) -> None:
    await rpc.serve(echo, {OPTIMIZE: echoing})
    assert await rpc.call(gateway, OPTIMIZE, QUESTION) == OptimizedPrompt(prompt="1GIRL", provider="test")


async def test_questions_of_one_owner_are_told_apart(nats: NatsServer, connect: Connect, gateway: Bus) -> None:
    files = await connect(nats, FILES)

    async def stats(_: Empty) -> LibraryStats:
        return LibraryStats(files=3, bytes=42)

    async def gone(question: FileRef) -> BaseModel:
        raise not_found("file", question.id, "id")

    await rpc.serve(files, {LIBRARY_STATS: stats, GET_FILE: gone})
    assert (await rpc.call(gateway, LIBRARY_STATS, Empty())).files == 3
    ident = uuid7()
    with pytest.raises(Refused) as caught:
        await rpc.call(gateway, GET_FILE, FileRef(id=ident))
    error = caught.value
    assert (error.status, error.code, error.field) == (404, "not_found", "id")
    assert str(ident) in error.message
    with pytest.raises(Refused) as caught:
        await rpc.call(gateway, DELETE_FILE, FileRef(id=ident))
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("error", "status", "code", "field"),
    [
        (Refused(409, "conflict", "somebody was faster", "version"), 409, "conflict", "version"),
        (Unavailable("the database is away"), 503, "unavailable", None),
        (RuntimeError("secret detail"), 500, "internal", None),
    ],
)
async def test_errors_keep_what_people_need(
    echo: Bus, gateway: Bus, error: Exception, status: int, code: str, field: str | None
) -> None:
    async def fail(_: OptimizeQuestion) -> BaseModel:
        raise error

    await rpc.serve(echo, {OPTIMIZE: fail})
    found = await refusal(gateway)
    assert (found.status, found.code, found.field) == (status, code, field)
    assert "secret detail" not in found.message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"prompt": 7}', "prompt"),
        (b'{"prompt": "a", "promt": "b"}', "promt"),
        (b"{", None),
        (b"", "prompt"),
    ],
)
async def test_a_bad_question_names_the_field(echo: Bus, gateway: Bus, body: bytes, field: str | None) -> None:
    await rpc.serve(echo, {OPTIMIZE: echoing})
    answer = await gateway.client.request(OPTIMIZE.subject, body, timeout=5)
    assert answer.headers is not None
    assert answer.headers[rpc.STATUS] == "422"
    assert ProblemBody.model_validate_json(answer.data).field == field


async def test_absent_fields_stay_absent(echo: Bus, gateway: Bus) -> None:
    seen: list[set[str]] = []

    async def look(question: OptimizeQuestion) -> OptimizedPrompt:
        seen.append(question.model_fields_set)
        return await echoing(question)

    await rpc.serve(echo, {OPTIMIZE: look})
    await rpc.call(gateway, OPTIMIZE, OptimizeQuestion(prompt="a"))
    await rpc.call(gateway, OPTIMIZE, OptimizeQuestion(prompt="a", negative_prompt=None))
    assert seen == [{"prompt"}, {"prompt", "negative_prompt"}]
    assert GenerationRequest.model_fields["count"].default == 1


async def test_calls_run_side_by_side(echo: Bus, gateway: Bus) -> None:
    waiting = 0
    together = asyncio.Event()

    async def meet(question: OptimizeQuestion) -> OptimizedPrompt:
        nonlocal waiting
        waiting += 1
        if waiting == 8:
            together.set()
        await together.wait()
        return await echoing(question)

    await rpc.serve(echo, {OPTIMIZE: meet})
    async with asyncio.timeout(5):
        await asyncio.gather(*(rpc.call(gateway, OPTIMIZE, QUESTION) for _ in range(8)))


async def test_more_than_run_at_once_wait_their_turn(echo: Bus, gateway: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_RUNNING", 2)
    running = most = 0

    async def watch(question: OptimizeQuestion) -> OptimizedPrompt:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await echoing(question)

    await rpc.serve(echo, {OPTIMIZE: watch})
    await asyncio.gather(*(rpc.call(gateway, OPTIMIZE, QUESTION) for _ in range(10)))
    assert most == 2


async def test_nobody_there(gateway: Bus) -> None:
    found = await refusal(gateway)
    assert (found.status, found.code) == (503, "unavailable")
    assert "echo" in found.message


async def test_too_late(echo: Bus, gateway: Bus) -> None:
    release = asyncio.Event()

    async def slow(question: OptimizeQuestion) -> OptimizedPrompt:
        await release.wait()
        return await echoing(question)

    await rpc.serve(echo, {OPTIMIZE: slow})
    found = await refusal(gateway, timeout=0.1)
    assert (found.status, found.code) == (504, "timeout")
    release.set()


async def test_the_bus_away(nats: NatsServer, gateway: Bus) -> None:
    await nats.stop()
    await eventually(lambda: not gateway.connected)
    found = await refusal(gateway, timeout=0.1)
    assert (found.status, found.code) == (503, "unavailable")
    assert "bus" in found.message


async def test_answers_again_after_the_bus_was_away(nats: NatsServer, echo: Bus, gateway: Bus) -> None:
    await rpc.serve(echo, {OPTIMIZE: echoing})
    await nats.stop()
    await eventually(lambda: not (gateway.connected or echo.connected))
    await nats.start()
    await eventually(lambda: gateway.connected and echo.connected)
    assert (await rpc.call(gateway, OPTIMIZE, QUESTION)).prompt == "1GIRL"
