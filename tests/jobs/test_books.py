"""The jobs of one transaction on a real database: locked, decided about, and written at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from anime_common.contracts.generator import AttemptFinished, AttemptStarted
from anime_common.contracts.vocabulary import JobState
from anime_common.db import Pool
from anime_common.messages import uuid7
from anime_jobs import store
from anime_jobs.books import opened
from anime_jobs.codes import new_code
from anime_jobs.model import Dispatch, Moment, Policy, Record
from tests.builders import NOON, job, later, settings, staged
from tests.conftest import Database

AT = Moment(now=later(1), today=NOON.date(), policy=Policy())


@pytest_asyncio.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    found = await database.pool("jobs")
    yield found
    await found.close()


def queued(**fields: Any) -> Record:
    found = job(**({"id": uuid7(), "code": new_code(), "settings": settings()} | fields))
    return Record(job=found, request_hash="h", prompt="1girl", negative_prompt=None, seed=7)


async def added(pool: Pool, *records: Record) -> None:
    async with pool.acquire() as connection, connection.transaction(), opened(connection, []) as books:
        for record in records:
            books.add(record)


async def stored(pool: Pool, ident: UUID) -> Record:
    async with pool.acquire() as connection:
        found = await store.find(connection, ident)
    assert found is not None
    return found


def of_attempt(record: Record, **fields: Any) -> dict[str, Any]:
    return {
        "job_id": record.job.id, "attempt_id": record.job.attempt_id, "epoch": 1, "worker": "w1",
        "incarnation": record.incarnation, **fields,
    }  # fmt: skip


async def test_several_messages_about_a_job_are_decided_one_after_another_and_written_together(pool: Pool) -> None:
    record = queued()
    await added(pool, record)
    async with pool.acquire() as connection, connection.transaction(), opened(connection, [record.job.id]) as books:
        found = await books.find(record.job.id)
        assert found == record
        given, _ = books.advance(found, Dispatch("w1", uuid7(), uuid7(), uuid7()), AT)
        assert await books.find(record.job.id) is given
        assert await books.find(record.job.code) is given
        begun, _ = books.advance(given, AttemptStarted(**of_attempt(given, engine="noop", started_at=later(2))), AT)
        fact = AttemptFinished(
            **of_attempt(
                given,
                finished_at=later(3),
                outputs=(staged(),),
                settings=settings(),
                timings={},
                engine="noop",
                device="cpu",
            )
        )
        done, messages = books.advance(begun, fact, AT)
        assert [each.message.wire for each in messages] == ["jobs.filing"]
        assert (await stored(pool, record.job.id)).state is JobState.QUEUED
    assert await stored(pool, record.job.id) == done
    async with pool.acquire() as connection:
        (attempt,) = await connection.fetch("SELECT number, started_at, ended_at, outcome FROM attempts")
    assert tuple(attempt) == (1, later(2), later(3), "finished")


async def test_nothing_is_written_when_the_work_fails(pool: Pool) -> None:
    record = queued()
    await added(pool, record)
    with suppress(ZeroDivisionError):
        async with pool.acquire() as connection, connection.transaction(), opened(connection, [record.job.id]) as books:
            books.advance(record, Dispatch("w1", uuid7(), uuid7(), uuid7()), AT)
            books.add(queued())
            raise ZeroDivisionError
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 1
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 0
    assert await stored(pool, record.job.id) == record


async def test_a_change_that_rests_on_an_old_version_is_a_conflict_and_changes_nothing(pool: Pool) -> None:
    first, second = queued(), queued()
    await added(pool, first, second)
    changes = [
        (each, replace(each, job=each.job.model_copy(update={"version": 2, "message": "changed"})))
        for each in (first, replace(second, job=second.job.model_copy(update={"version": 7})))
    ]
    with pytest.raises(store.Conflict, match=str(second.job.id)):
        async with pool.acquire() as connection, connection.transaction():
            await store.save(connection, changes)
    assert [await stored(pool, each.job.id) for each in (first, second)] == [first, second]


@pytest.mark.parametrize("taken", ["id", "code"])
async def test_an_id_or_code_that_is_taken_is_a_conflict(pool: Pool, taken: str) -> None:
    record = queued()
    await added(pool, record)
    with pytest.raises(store.Conflict, match="is taken"):
        await added(pool, queued(), queued(**{taken: getattr(record.job, taken)}))
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_an_unknown_job_is_none_and_an_unexpected_one_is_locked(pool: Pool) -> None:
    record, other = queued(), uuid7()
    await added(pool, record)
    async with pool.acquire() as connection, connection.transaction(), opened(connection, [other]) as books:
        assert await books.find(other) is None
        assert await books.find("zzzzzzzz") is None
        assert await books.find(record.job.code) == record
        async with pool.acquire() as second:
            free = await second.fetchval("SELECT count(*) FROM (SELECT FROM jobs FOR UPDATE SKIP LOCKED) AS free")
        assert free == 0


async def test_the_jobs_in_hand_are_read_anew_only_when_they_changed(pool: Pool) -> None:
    held, changing, waiting = queued(), queued(), queued()
    await added(pool, held, changing, waiting)
    active = store.Active()
    async with pool.acquire() as connection:
        assert await active.read(connection) == []
        async with connection.transaction(), opened(connection, [held.job.id, changing.job.id]) as books:
            for record in (held, changing):
                books.advance(record, Dispatch("w1", uuid7(), uuid7(), uuid7()), AT)
        before = {each.job.id: each for each in await active.read(connection)}
        assert before.keys() == {held.job.id, changing.job.id}
        await connection.execute("UPDATE jobs SET repeat = 1 WHERE id = $1", changing.job.id)
        after = {each.job.id: each for each in await active.read(connection)}
        assert after[held.job.id] is before[held.job.id]
        assert (before[changing.job.id].repeat, after[changing.job.id].repeat) == (0, 1)
        await connection.execute("UPDATE jobs SET state = 'failed' WHERE id = $1", changing.job.id)
        assert [each.job.id for each in await active.read(connection)] == [held.job.id]
