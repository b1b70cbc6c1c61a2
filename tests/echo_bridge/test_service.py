"""The whole echo bridge on real servers: commands in, facts out, questions answered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import db, rpc
from anime_common.bus import Bus
from anime_common.contracts.echo import OPTIMIZE, OptimizeFailed, OptimizePrompt, OptimizeQuestion, PromptOptimized
from anime_common.messages import Message, Outgoing, uuid7
from anime_common.outcomes import Refused
from anime_common.service import Runtime
from anime_common.topology import ECHO, FACTS, GATEWAY
from anime_echo_bridge import handlers
from anime_echo_bridge.__main__ import build
from anime_echo_bridge.settings import EchoSettings
from tests.buses import Connect, running, stored
from tests.conftest import Database
from tests.waiting import eventually


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[db.Pool]:
    found = await database.pool("echo")
    yield found
    await found.close()


@pytest.fixture
async def service(nats: NatsServer, ledger: Bus, database: Database) -> AsyncIterator[Runtime[EchoSettings]]:
    settings = EchoSettings(
        nats_url=nats.url, nats_password_file=nats.password_file("echo"), postgres_dsn=database.dsn("echo")
    )
    async with running(ECHO, settings, build) as runtime:
        yield runtime


def asked(prompt: str = "Smile, Blue_Hair", repeat: int = 0, version: int = 1) -> OptimizePrompt:
    return OptimizePrompt(job_id=uuid7(), job_version=version, repeat=repeat, epoch=2, prompt=prompt, family="sprite")


async def answered(admin: Bus, count: int) -> list[tuple[str, Message]]:
    async def enough() -> bool:
        return len(await stored(admin, FACTS)) >= count

    await eventually(enough)
    return await stored(admin, FACTS)


async def test_a_command_is_answered_once_and_recorded(
    service: Runtime[EchoSettings], ledger: Bus, admin: Bus, pool: db.Pool
) -> None:
    question = asked()
    await ledger.publish(Outgoing(question, "first"))
    ((ident, fact),) = await answered(admin, 1)
    assert ident == f"2:echo:optimized:{question.job_id}:1"
    assert isinstance(fact, PromptOptimized)
    assert (fact.job_id, fact.job_version, fact.repeat, fact.epoch) == (question.job_id, 1, 0, 2)
    assert fact.result.prompt == "blue hair, smile, masterpiece, best quality"
    assert fact.result.provider == "builtin"
    (row,) = await pool.fetch("SELECT * FROM optimizations")
    assert (row["job_id"], row["prompt"], row["optimized_prompt"]) == (
        question.job_id,
        question.prompt,
        fact.result.prompt,
    )
    assert {change["kind"] for change in row["changes"]} == {"normalised", "reordered", "added"}


async def test_a_nudge_is_answered_again_under_its_number(
    service: Runtime[EchoSettings], ledger: Bus, admin: Bus
) -> None:
    question = asked()
    for repeat in (0, 1):
        await ledger.publish(Outgoing(question.model_copy(update={"repeat": repeat}), f"ask:{repeat}"))
    found = await answered(admin, 2)
    base = f"2:echo:optimized:{question.job_id}:1"
    assert [ident for ident, _ in found] == [base, f"{base}:1"]


async def test_a_refused_answer_is_told_with_its_reason(
    service: Runtime[EchoSettings], ledger: Bus, admin: Bus, pool: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "validate", lambda *_: "the answer lost words of the prompt: hat")
    question = asked()
    await ledger.publish(Outgoing(question, "first"))
    ((ident, fact),) = await answered(admin, 1)
    assert ident == f"2:echo:failed:{question.job_id}:1"
    assert isinstance(fact, OptimizeFailed)
    assert fact.reason == "the answer lost words of the prompt: hat"
    assert await pool.fetchval("SELECT refused FROM optimizations") == fact.reason


async def test_people_ask_without_a_job(
    service: Runtime[EchoSettings], nats: NatsServer, connect: Connect, pool: db.Pool
) -> None:
    gateway = await connect(nats, GATEWAY)
    found = await rpc.call(gateway, OPTIMIZE, OptimizeQuestion(prompt="Girl, smile", family="sprite"))
    assert found.prompt == "1girl, smile, masterpiece, best quality"
    assert await pool.fetchval("SELECT count(*) FROM optimizations WHERE job_id IS NULL") == 1
    assert {name: await check() for name, check in service.checks.items()} == {"database": None}


async def test_a_database_that_is_away_keeps_nobody_from_an_answer(
    service: Runtime[EchoSettings], nats: NatsServer, connect: Connect
) -> None:
    gateway = await connect(nats, GATEWAY)
    await service.closing.aclose()
    found = await rpc.call(gateway, OPTIMIZE, OptimizeQuestion(prompt="1girl"))
    assert found.prompt == "1girl, masterpiece, best quality"


async def test_a_refused_question_says_why(
    service: Runtime[EchoSettings], nats: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await connect(nats, GATEWAY)
    monkeypatch.setattr(handlers, "validate", lambda *_: "no good")
    with pytest.raises(Refused) as refusal:
        await rpc.call(gateway, OPTIMIZE, OptimizeQuestion(prompt="1girl"))
    assert (refusal.value.status, refusal.value.code, refusal.value.field) == (502, "optimize_failed", "prompt")
