"""Batches in the running ledger: accepted whole, moved whole, and told when they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from anime_common import rpc
from anime_common.contracts.batches import (
    CANCEL_BATCH,
    CREATE_BATCH,
    GET_BATCH,
    LIST_BATCHES,
    RETRY_BATCH,
    UPDATE_BATCH,
    BatchChanged,
    BatchChanges,
    BatchEnded,
    BatchOffer,
    BatchQuery,
    BatchRef,
    CancelBatch,
    CreateBatch,
    NewBatch,
    RetryBatch,
    UpdateBatch,
)
from anime_common.contracts.files import Filed, SheetMade
from anime_common.contracts.generator import AttemptFailed, AttemptFinished, AttemptStarted, OfferedJob
from anime_common.contracts.jobs import GET_QUEUE, LIST_JOBS, CommandDone, JobQuery, JobView, RetryJob
from anime_common.contracts.vocabulary import JobState, Phase, Priority
from anime_common.examples import example
from anime_common.messages import Outgoing, uuid7
from anime_common.outbox import MAX_MESSAGE
from anime_common.outcomes import Refused
from anime_common.rpc_contract import Empty
from anime_common.topology import GATEWAY
from tests.builders import output, staged
from tests.buses import connected
from tests.jobs.conftest import Service, Worker, World, ledger_running
from tests.jobs.test_service import known_model
from tests.waiting import eventually

MATRIX: dict[str, Any] = {
    "name": "Hair and scenes",
    "request": {"prompt": "{hair}, {scene}"},
    "variables": {"hair": ["red hair", "blue hair"], "scene": ["park", "roof"]},
}


async def ask(world: World, question: Any, about: Any) -> Any:
    async with connected(world.nats, GATEWAY) as gateway:
        return await rpc.call(gateway, question, about, timeout=20)


async def make(world: World, *, ident: UUID | None = None, dry_run: bool = False, **fields: Any) -> BatchOffer:
    batch = NewBatch.model_validate(fields or MATRIX)
    offer: BatchOffer = await ask(world, CREATE_BATCH, CreateBatch(id=ident or uuid7(), batch=batch, dry_run=dry_run))
    return offer


async def jobs_of(world: World, batch: UUID) -> list[JobView]:
    page = await ask(world, LIST_JOBS, JobQuery(batch=str(batch), limit=200))
    return sorted(page.items, key=lambda job: sorted(job.labels.items()))


async def move(world: World, batch: UUID, **changes: Any) -> Any:
    wanted = BatchChanges.model_validate(changes)
    return await ask(world, UPDATE_BATCH, UpdateBatch(batch=str(batch), changes=wanted))


async def finish(world: World, worker: Worker, offered: OfferedJob, file_id: UUID) -> None:
    now = datetime.now(UTC)
    await world.fact(AttemptStarted, worker, offered, engine="noop", started_at=now)
    await world.fact(
        AttemptFinished,
        worker,
        offered,
        engine="noop",
        device="cpu",
        settings=offered.settings,
        outputs=(staged(),),
        timings={Phase.SAMPLING: 0.5},
        finished_at=now,
    )
    await world.event("filing", offered.job_id)
    filed = Filed(job_id=offered.job_id, attempt_id=offered.attempt_id, epoch=1, outputs=(output(file_id=file_id),))
    await world.files.publish(Outgoing(filed, f"1:files:filed:{offered.job_id}:{offered.attempt_id}"))


async def told(world: World, kind: type[Any], count: int = 1) -> list[Any]:
    def there() -> bool:
        return sum(isinstance(event, kind) for event in world.events) >= count

    await eventually(there)
    return [event for event in world.events if isinstance(event, kind)]


async def test_a_dry_run_says_what_would_be_made_and_makes_nothing(world: World, ledger: Service) -> None:
    worker = Worker(world)
    await worker.beat()
    offer = await make(world, dry_run=True)
    assert (offer.total, offer.batch) == (4, None)
    assert [(axis.name, len(axis.values)) for axis in offer.axes] == [("hair", 2), ("scene", 2)]
    assert [sample.prompt for sample in offer.samples][:2] == ["red hair, park", "red hair, roof"]
    assert (await ask(world, LIST_JOBS, JobQuery())).items == ()
    assert (await ask(world, LIST_BATCHES, BatchQuery())).items == ()


async def test_all_its_jobs_are_accepted_together_and_once(world: World, ledger: Service) -> None:
    ident = uuid7()
    offer = await make(world, ident=ident)
    assert offer.batch is not None
    assert (offer.batch.total, offer.batch.counts, offer.batch.client) == (4, {JobState.QUEUED: 4}, "gateway")
    jobs = await jobs_of(world, ident)
    assert [job.labels for job in jobs] == [
        {"hair": hair, "scene": scene} for hair in ("blue hair", "red hair") for scene in ("park", "roof")
    ]
    assert {job.priority for job in jobs} == {Priority.BATCH}
    assert jobs[0].request.prompt == "blue hair, park"
    again = await make(world, ident=ident)
    assert again.batch == offer.batch
    assert len(await jobs_of(world, ident)) == 4
    with pytest.raises(Refused) as refusal:
        await make(world, ident=ident, request={"prompt": "other"})
    assert (refusal.value.status, refusal.value.code) == (409, "idempotency_conflict")


async def test_the_same_batch_asked_for_twice_at_once_is_made_once(world: World, ledger: Service) -> None:
    ident = uuid7()
    offers = await asyncio.gather(*(make(world, ident=ident, request={"prompt": "a"}, count=200) for _ in range(4)))
    assert len({offer.batch.code for offer in offers if offer.batch}) == 1
    found = await ask(world, GET_BATCH, BatchRef(batch=str(ident)))
    assert sum(found.counts.values()) == found.total == 200


async def test_one_wrong_job_refuses_them_all_and_is_named(world: World, ledger: Service) -> None:
    await known_model(world)
    with pytest.raises(Refused) as refusal:
        await make(world, request={"prompt": "a"}, vary={"model": ["unheard-of"]})
    assert (refusal.value.status, refusal.value.code) == (422, "unknown_model")
    assert refusal.value.field == "request.model"
    with pytest.raises(Refused) as refusal:
        await make(world, request={"prompt": "a"}, casts=[[], ["nobody"]])
    assert (refusal.value.code, "cast: nobody" in refusal.value.message) == ("unknown_character", True)
    assert (await ask(world, LIST_JOBS, JobQuery())).items == ()


async def test_takes_have_seeds_that_follow_each_other(world: World, ledger: Service) -> None:
    await Worker(world).beat()
    ident = uuid7()
    await make(world, ident=ident, request={"prompt": "a", "seed": 40, "count": 2}, count=3)

    async def settled() -> bool:
        return all(job.settings for job in await jobs_of(world, ident))

    await eventually(settled)
    seeds = {job.labels["take"]: job.settings.seed for job in await jobs_of(world, ident) if job.settings}
    assert seeds == {"1": 40, "2": 42, "3": 44}


async def test_a_paused_batch_waits_and_says_why(world: World, ledger: Service) -> None:
    ident = uuid7()
    await make(world, ident=ident)
    moved = await move(world, ident, paused=True)
    assert (moved.batch.paused, moved.jobs) == (True, 4)
    other = await world.submit(prompt="not of the batch")
    worker = Worker(world)
    offer = await worker.offer()
    assert [job.job_id for job in offer.jobs] == [other]
    queue = await ask(world, GET_QUEUE, Empty())
    assert [entry.message for entry in queue.entries if entry.batch_id == ident] == ["its batch is paused"] * 4
    await move(world, ident, paused=False)
    second = Worker(world, name="w2")
    assert (await second.offer()).jobs[0].job_id in {job.id for job in await jobs_of(world, ident)}
    events = await told(world, BatchChanged, 3)
    assert [event.batch.paused for event in events] == [False, True, False]


async def test_priority_and_cancel_reach_every_job(world: World, ledger: Service) -> None:
    ident = uuid7()
    await make(world, ident=ident)
    moved = await move(world, ident, priority="interactive", name="Now")
    assert (moved.jobs, moved.batch.name) == (4, "Now")
    assert {job.priority for job in await jobs_of(world, ident)} == {Priority.INTERACTIVE}
    assert (await move(world, ident, priority="interactive")).jobs == 0, "what is so already is no change"
    cancelled = await ask(world, CANCEL_BATCH, CancelBatch(batch=moved.batch.code))
    assert (cancelled.jobs, cancelled.batch.counts) == (4, {JobState.CANCELLED: 4})
    assert cancelled.batch.ended_at is not None
    (ended,) = await told(world, BatchEnded)
    assert (ended.batch.counts, ended.cells) == ({JobState.CANCELLED: 4}, ())
    assert (await ask(world, CANCEL_BATCH, CancelBatch(batch=str(ident)))).jobs == 0
    back = await ask(world, RETRY_BATCH, RetryBatch(batch=str(ident), cancelled=True))
    assert (back.jobs, back.batch.ended_at, back.batch.counts) == (4, None, {JobState.QUEUED: 4})


async def test_its_end_is_told_once_with_a_plan_of_its_sheet_and_again_after_a_retry(world: World) -> None:
    async with ledger_running(world, max_failures=1):
        ident = uuid7()
        fields: dict[str, Any] = {"request": {"prompt": "{hair}"}, "variables": {"hair": ["red", "blue"]}, "seeds": [5]}
        await make(world, ident=ident, **fields)
        worker = Worker(world)
        files: dict[UUID, UUID] = {}
        first = (await worker.offer()).jobs[0]
        files[first.job_id] = uuid7()
        await finish(world, worker, first, files[first.job_id])
        await world.event("completed", first.job_id)
        half = await ask(world, GET_BATCH, BatchRef(batch=str(ident)))
        assert (half.percent, half.ended_at) == (50.0, None)
        second = (await worker.offer()).jobs[0]
        await world.fact(
            AttemptFailed,
            worker,
            second,
            code="out_of_memory",
            message="too large",
            retryable=False,
            counts=True,
            failed_at=datetime.now(UTC),
        )
        (ended,) = await told(world, BatchEnded)
        assert ended.batch.counts == {JobState.COMPLETED: 1, JobState.FAILED: 1}
        assert (ended.plan.column_axis, ended.plan.columns, ended.plan.rows) == ("hair", ("red", "blue"), ())
        (cell,) = ended.cells
        assert (cell.file_id, ended.plan.columns[cell.column]) == (files[first.job_id], first.settings.prompt)

        again = await world.command(RetryJob(job=str(second.job_id)))
        assert isinstance(again, CommandDone)
        reopened = await ask(world, GET_BATCH, BatchRef(batch=str(ident)))
        assert (reopened.ended_at, reopened.percent) == (None, 50.0), "one job that is tried again opens its batch"
        second = (await worker.offer()).jobs[0]
        await world.fact(
            AttemptFailed,
            worker,
            second,
            code="out_of_memory",
            message="too large",
            retryable=False,
            counts=True,
            failed_at=datetime.now(UTC),
        )
        ended = (await told(world, BatchEnded, 2))[-1]

        none = await ask(world, RETRY_BATCH, RetryBatch(batch=str(ident), code="worker_lost"))
        assert none.jobs == 0
        retried = await ask(world, RETRY_BATCH, RetryBatch(batch=str(ident), code="out_of_memory"))
        assert (retried.jobs, retried.batch.ended_at) == (1, None)
        third = (await worker.offer()).jobs[0]
        assert third.job_id == second.job_id
        files[third.job_id] = uuid7()
        await finish(world, worker, third, files[third.job_id])
        last = (await told(world, BatchEnded, 3))[-1]
        assert {cell.file_id for cell in last.cells} == set(files.values())
        assert last.batch.version > ended.batch.version

        sheet = example(SheetMade).file.model_copy(update={"id": uuid7()})
        for version in (ended.batch.version - 1, last.batch.version):
            made = SheetMade(batch_id=ident, batch_version=version, epoch=1, file=sheet)
            await world.files.publish(Outgoing(made, made.ident()))

        async def shown() -> bool:
            return bool((await ask(world, GET_BATCH, BatchRef(batch=str(ident)))).sheet == sheet.id)

        await eventually(shown)


async def test_the_end_of_the_largest_batch_goes_over_the_bus_and_says_what_it_leaves_out(world: World) -> None:
    ident = uuid7()
    prompts = [f"{number} in a garden of silver roses at noon, with a long tail" for number in range(1000)]
    async with ledger_running(world):
        worker = await known_model(world)
        await make(world, ident=ident, request={"count": 16}, prompts=prompts)
    # Nobody runs while all but one of its jobs are completed at once: one after the other takes minutes.
    outputs = [output(number, file_id=uuid7()).model_dump(mode="json") for number in range(16)]
    pool = await world.database.pool("jobs")
    async with pool.acquire() as connection:
        await connection.execute(
            "UPDATE jobs SET state = 'completed', attempt_id = NULL, worker = NULL, outputs = $2"
            " WHERE batch_id = $1 AND id <> (SELECT id FROM jobs WHERE batch_id = $1 ORDER BY"
            "   state <> 'queued', batch_index LIMIT 1)",
            ident,
            outputs,
        )
    await pool.close()
    async with ledger_running(world):
        await finish(world, worker, (await worker.offer()).jobs[0], uuid7())
        (ended,) = await told(world, BatchEnded)
    assert len(ended.body()) <= MAX_MESSAGE
    assert len(ended.cells) + ended.plan.more == 999 * 16 + 1
    shown = Counter(cell.row * 1000 + cell.column for cell in ended.cells)
    assert len(shown) == len(ended.plan.columns) == 1000, "every job is shown before one is shown more often"
    per_job = {count for place, count in shown.items() if count > 1}
    assert max(per_job) - min(per_job) <= 1


async def test_a_thousand_jobs_are_accepted_and_cancelled(world: World, ledger: Service) -> None:
    await Worker(world).beat()
    ident = uuid7()
    offer = await make(world, ident=ident, request={"prompt": "1girl"}, count=1000)
    assert offer.total == 1000
    cancelled = await ask(world, CANCEL_BATCH, CancelBatch(batch=str(ident)))
    assert cancelled.batch.counts == {JobState.CANCELLED: 1000}
    (ended,) = await told(world, BatchEnded)
    assert ended.batch.total == 1000


async def test_lists_go_on_where_they_ended(world: World, ledger: Service) -> None:
    idents = [uuid7() for _ in range(3)]
    for ident in idents:
        await make(world, ident=ident, request={"prompt": f"one {ident}"})
    first = await ask(world, LIST_BATCHES, BatchQuery(limit=2))
    rest = await ask(world, LIST_BATCHES, BatchQuery(limit=2, cursor=first.next))
    assert [batch.id for batch in (*first.items, *rest.items)] == idents[::-1]
    await ask(world, CANCEL_BATCH, CancelBatch(batch=str(idents[0])))
    ended = await ask(world, LIST_BATCHES, BatchQuery(open=False))
    assert [batch.id for batch in ended.items] == [idents[0]]
    with pytest.raises(Refused) as refusal:
        await ask(world, GET_BATCH, BatchRef(batch=str(uuid7())))
    assert (refusal.value.status, refusal.value.field) == (404, "batch")
