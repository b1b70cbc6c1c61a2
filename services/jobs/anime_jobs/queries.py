"""The questions that the ledger answers; each instance answers from PostgreSQL and the heartbeats it hears."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from anime_common import outbox
from anime_common.contracts import batches as batching
from anime_common.contracts import characters as casting
from anime_common.contracts import jobs as contract
from anime_common.contracts import projects as production
from anime_common.contracts.characters import CharacterRef
from anime_common.contracts.generator import Heartbeat
from anime_common.contracts.jobs import (
    Catalogue,
    CatalogueEntry,
    JobPage,
    JobQuery,
    JobQuestion,
    JobView,
    LedgerStats,
    QueueEntry,
    QueueState,
    Workers,
    WorkerView,
)
from anime_common.contracts.statistics import GET_HISTORY, History, StatsQuestion
from anime_common.outbox import transaction
from anime_common.outcomes import Refused, not_found
from anime_common.rpc_contract import Empty, Rpc
from anime_jobs import batches, characters, line, projects, retrying, roster, statistics, store
from anime_jobs.books import opened
from anime_jobs.fleet import Fleet
from anime_jobs.outlook import Outlook
from anime_jobs.profile import profile
from anime_jobs.queue import view

if TYPE_CHECKING:
    from anime_common.rpc import Answerer
    from anime_jobs.handlers import Ledger

PLACES_CACHE = 0.5
TRIES = 5


@dataclass(slots=True)
class Queries:
    """Answers questions; `leading` tells whether this instance schedules, `committed` wakes the relay."""

    pool: Any
    ledger: Ledger
    fleet: Fleet
    leading: Callable[[], bool]
    committed: Callable[[], None]
    _queue: tuple[float, QueueState] | None = None
    _changed: bool = True
    _queue_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    outlook: Outlook = field(init=False)

    def __post_init__(self) -> None:
        self.outlook = Outlook(self.fleet, self.ledger.settings)

    def table(self) -> dict[Rpc[Any, Any], Answerer]:
        """Every question with its answerer."""
        return {
            contract.GET_JOB: self.get_job,
            contract.LIST_JOBS: self.list_jobs,
            contract.GET_QUEUE: self.queue,
            contract.HOLD_QUEUE: self.hold_queue,
            contract.RETRY_JOBS: self._moving(retrying.retry),
            contract.GET_WORKERS: self.workers,
            contract.GET_CATALOGUE: self.catalogue,
            contract.GET_PROFILE: self.profile,
            contract.GET_ATTEMPTS: self.attempts,
            contract.GET_STATS: self.stats,
            GET_HISTORY: self.history,
            production.CREATE_PROJECT: self._changing(projects.create),
            production.GET_PROJECT: self._reading(projects.get),
            production.LIST_PROJECTS: self._reading(projects.listing),
            production.UPDATE_PROJECT: self._changing(projects.update),
            production.DELETE_PROJECT: self._changing(projects.delete),
            batching.CREATE_BATCH: self._moving(batches.create),
            batching.GET_BATCH: self.get_batch,
            batching.LIST_BATCHES: self._reading(batches.listing),
            batching.UPDATE_BATCH: self._moving(batches.update),
            batching.CANCEL_BATCH: self._moving(batches.cancel),
            batching.RETRY_BATCH: self._moving(batches.retry),
            casting.CREATE_CHARACTER: self._changing(characters.create),
            casting.GET_CHARACTER: self._reading(characters.find),
            casting.LIST_CHARACTERS: self._reading(characters.listing),
            casting.UPDATE_CHARACTER: self._changing(characters.update),
            casting.DELETE_CHARACTER: self._changing(characters.delete),
            casting.LIST_VERSIONS: self._reading(characters.versions),
            casting.GET_VERSION: self._reading(characters.version),
            casting.USE_VERSION: self._changing(characters.use),
            casting.COMPARE_VERSIONS: self._reading(characters.compare),
        }

    def changed(self) -> None:
        """Something was committed: the queue as last computed is history."""
        self._changed = True

    def _changing(self, change: Callable[..., Any]) -> Answerer:
        async def answer(question: Any) -> Any:
            async with transaction(self.pool) as connection:
                found, outgoing = await change(connection, question, self.ledger.epoch)
                await outbox.add(connection, outgoing, "jobs")
            if outgoing:
                self.committed()
            return found

        return answer

    def _reading(self, read: Callable[..., Any]) -> Answerer:
        async def answer(question: Any) -> Any:
            async with transaction(self.pool) as connection:
                return await read(connection, question)

        return answer

    def _moving(self, move: Callable[..., Any]) -> Answerer:
        """An edit that changes jobs; somebody else may have changed one of them meanwhile, so it is tried again."""

        async def answer(question: Any) -> Any:
            for left in reversed(range(TRIES)):
                try:
                    async with transaction(self.pool) as connection:
                        async with opened(connection, []) as books:
                            found, outgoing = await move(self.ledger, books, question)
                        await outbox.add(connection, outgoing, "jobs")
                except store.Conflict:
                    if not left:
                        raise
                    continue
                if outgoing:
                    self.committed()
                return found
            raise AssertionError("unreachable")

        return answer

    async def get_batch(self, question: batching.BatchRef) -> batching.Batch:
        """A batch with an estimate of when its last job ends."""
        async with transaction(self.pool) as connection:
            batch = await batches.find(connection, question)
        if batch.ended_at is not None:
            return batch
        entries = (await self.queue(Empty())).entries
        return batch.model_copy(update={"eta_seconds": batches.estimate(batch, entries)})

    async def get_job(self, question: JobQuestion) -> JobView:
        """One job; one whose submit was refused after all is 410 with the reason."""
        async with transaction(self.pool) as connection:
            record = await store.find(connection, question.job)
            if record is None:
                await self._raise_refusal(connection, question.job)
                raise not_found("job", question.job)
        places = await self._places() if not record.state.ended else {}
        return view(record, self.fleet.held(record), places.get(record.job.id))

    async def _raise_refusal(self, connection: store.Connection, ref: str) -> None:
        try:
            job_id = UUID(ref)
        except ValueError:
            return
        refusal = await store.refusal(connection, job_id)
        if refusal is not None:
            text = f"the job was refused ({refusal['code']}): {refusal['message']}"
            raise Refused(410, "job_refused", text, refusal["field"])

    async def list_jobs(self, query: JobQuery) -> JobPage:
        """Jobs, newest first."""
        after = _position(query.cursor)
        async with transaction(self.pool) as connection:
            project = None
            if query.project is not None:
                found = await projects.find(connection, query.project)
                if found is None:
                    raise Refused(422, "unknown_project", f"there is no project {query.project!r}", "project")
                project = found.id
            batch = None
            if query.batch is not None:
                batch = (await batches.find(connection, batching.BatchRef(batch=query.batch))).id
            appears = None
            if query.character is not None:
                ref = CharacterRef(character=query.character, project=query.project)
                appears = (await characters.find(connection, ref)).id
            records = await store.page(
                connection,
                states=[state.value for state in query.state],
                project=project,
                client=query.client,
                batch=batch,
                character=appears,
                after=after,
                limit=query.limit + 1,
            )
        shown = records[: query.limit]
        places = await self._places() if any(not record.state.ended for record in shown) else {}
        items = tuple(view(record, self.fleet.held(record), places.get(record.job.id)) for record in shown)
        more = len(records) > query.limit
        return JobPage(items=items, next=_cursor(shown[-1].job.created_at, shown[-1].job.id) if more else None)

    async def _places(self) -> Mapping[UUID, QueueEntry]:
        """Places for views of single jobs: they may be half a second old."""
        known = self._queue
        fresh = known is not None and asyncio.get_running_loop().time() - known[0] < PLACES_CACHE
        state = known[1] if known is not None and fresh else await self.queue(Empty())
        return {entry.job_id: entry for entry in state.entries}

    async def queue(self, _: Empty) -> QueueState:
        """The queue as of now."""
        async with self._queue_lock:
            stale = self._queue is None or asyncio.get_running_loop().time() - self._queue[0] > PLACES_CACHE
            if self._queue is None or stale or self._changed:
                self._changed = False
                async with transaction(self.pool) as connection:
                    self._queue = (asyncio.get_running_loop().time(), (await self.outlook.look(connection)).state)
            return self._queue[1]

    async def hold_queue(self, question: contract.HoldQueue) -> QueueState:
        """Hold the whole queue back, or let it go on."""
        async with transaction(self.pool) as connection:
            await line.hold(connection, paused=question.paused, reason=question.reason)
        self.changed()
        self.committed()
        return await self.queue(Empty())

    async def workers(self, _: Empty) -> Workers:
        """Every worker ever heard: live from its heartbeat, others as they were stored."""
        async with transaction(self.pool) as connection:
            rows = await roster.workers(connection)
        loop = asyncio.get_running_loop()
        self.fleet.forget_before(loop.time() - self.ledger.settings.worker_forget_after)
        items: dict[str, WorkerView] = {}
        for row in rows:
            heartbeat = Heartbeat.model_validate(row["heartbeat"]).model_copy(update={"attempts": ()})
            status = {"live": "silent"}.get(row["status"], row["status"])
            items[row["worker"]] = WorkerView(
                worker=row["worker"], status=status, last_seen=row["last_seen"], heartbeat=heartbeat
            )
        for worker, seen in self.fleet.seen.items():
            stored = items.get(worker)
            if (
                stored is not None
                and stored.status in {"lost", "gone"}
                and (stored.heartbeat.incarnation == seen.heartbeat.incarnation)
            ):
                continue
            quiet = loop.time() - seen.at > self.ledger.settings.worker_lost_after
            status = "silent" if quiet else _status(seen.heartbeat)
            items[worker] = WorkerView(worker=worker, status=status, last_seen=seen.received, heartbeat=seen.heartbeat)
        return Workers(items=tuple(items[name] for name in sorted(items)))

    async def catalogue(self, _: Empty) -> Catalogue:
        """Every model ever announced, and who can run it now."""
        async with transaction(self.pool) as connection:
            known = await roster.models(connection)
        loop = asyncio.get_running_loop()
        live = [
            seen.heartbeat
            for seen in self.fleet.seen.values()
            if not seen.heartbeat.goodbye and loop.time() - seen.at <= self.ledger.settings.worker_lost_after
        ]
        return Catalogue(
            items=tuple(
                CatalogueEntry(
                    model=info,
                    workers=tuple(sorted(h.worker for h in live if any(m.key == info.key for m in h.models))),
                    resident=tuple(sorted(h.worker for h in live if info.key in h.resident)),
                )
                for info in known
            )
        )

    async def profile(self, question: contract.ProfileQuestion) -> contract.Profile:
        """What a job, or the latest jobs of a workflow or model, spent their time with."""
        given = question.subjects()
        if len(given) != 1:
            text = f"exactly one of job, workflow and model must be given, not {len(given)}"
            raise Refused(422, "invalid", text, given[1] if given else "job")
        async with transaction(self.pool) as connection:
            if question.job is not None:
                record = await store.find(connection, question.job)
                if record is None:
                    raise not_found("job", question.job)
                return profile(f"job {record.job.code}", await store.spent_by_job(connection, record.job.id))
            name = question.workflow or question.model or ""
            column: Literal["workflow", "model"] = "workflow" if question.workflow is not None else "model"
            return profile(f"{column} {name}", await store.spent_by(connection, column, name, question.days))

    async def attempts(self, question: JobQuestion) -> contract.Attempts:
        """Every attempt at one job; raises Refused (404)."""
        async with transaction(self.pool) as connection:
            record = await store.find(connection, question.job)
            if record is None:
                raise not_found("job", question.job)
            items = await store.attempts_of(connection, record.job.id)
        return contract.Attempts(
            job_id=record.job.id,
            job_code=record.job.code,
            failures=record.job.failures,
            next_try_at=record.next_try_at,
            items=items,
        )

    async def stats(self, _: Empty) -> LedgerStats:
        """Counts and speeds."""
        async with transaction(self.pool) as connection:
            counts = await store.counts(connection, ended=True)
            completed, failed = await store.ended_last_hour(connection)
            median = await store.median_seconds(connection)
            pending = await store.outbox_size(connection)
        return LedgerStats(
            epoch=self.ledger.epoch,
            counts=counts,
            completed_last_hour=completed,
            failed_last_hour=failed,
            median_seconds=median,
            outbox=pending,
            scheduler=self.leading(),
        )

    async def history(self, question: StatsQuestion) -> History:
        """A stretch of time, measured."""
        async with transaction(self.pool) as connection:
            return await statistics.history(connection, question.window)


def _status(heartbeat: Heartbeat) -> str:
    if heartbeat.goodbye:
        return "gone"
    if heartbeat.draining:
        return "draining"
    return "idle" if heartbeat.free_slots == heartbeat.slots else "busy"


def _cursor(at: datetime, ident: UUID) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat()} {ident}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[datetime, UUID] | None:
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, ident = text.partition(" ")
        return datetime.fromisoformat(at), UUID(ident)
    except (ValueError, binascii.Error) as error:
        raise Refused(422, "invalid", "not a cursor of this list: use the `next` of its last page", "cursor") from error
