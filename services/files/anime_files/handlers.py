"""What files does when the ledger speaks: file the outputs of an attempt, clear the staging of an ended job,
move what is left of a deleted project to the trash, note which contact sheets are wanted.

Copying takes long, so no transaction is held open over it. A batch goes through three steps, and a process that dies
between any two of them leaves a state from which a redelivery goes on:

1. reserve: one transaction records the filings and gives every output its id and key; a redelivery finds the same.
2. copy: to the reserved keys, which nobody else ever gets; doing it twice writes the same bytes again.
3. decide: one transaction locks the filings, stores the first verdict on each (a later one is dropped), makes the files
   visible or withdraws them, and answers every message not yet in the inbox. Then the batch is acked.

A verdict is final for its attempt: a nudge (the same filing under a new repeat number) is answered from it. Otherwise a
filing that failed once and succeeded later would leave files that no job knows of, since the ledger has moved on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog
from opentelemetry.trace import SpanKind

from anime_common import failpoints, outbox
from anime_common.artifacts import Artifacts, staging_prefix
from anime_common.consume import Delivery
from anime_common.contracts.batches import BatchEnded
from anime_common.contracts.jobs import JobCancelled, JobCompleted, JobEvent, JobFailed, JobFiling
from anime_common.contracts.projects import ProjectChanged
from anime_common.contracts.vocabulary import Output
from anime_common.outbox import Connection, transaction
from anime_common.tracing import span
from anime_files import metrics, model, sheet_maker, store, trash
from anime_files.copying import Copied, Copier
from anime_files.model import SERVICE, Entry, FilingId, Verdict

log = structlog.get_logger(__name__)

ENDINGS = (JobCompleted, JobFailed, JobCancelled)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Handles batches of ledger events. `committed` is called when there may be something to publish or to remove."""

    pool: asyncpg.Pool[asyncpg.Record]
    artifacts: Artifacts
    copier: Copier
    template: str
    committed: Callable[[], None]

    async def handle(self, batch: Sequence[Delivery]) -> None:
        """File first, clear afterwards: an end in the same batch can only be that of a filing already decided."""
        filings = [(delivery, delivery.message) for delivery in batch if isinstance(delivery.message, JobFiling)]
        if filings:
            await self._file(filings)
        ended = [delivery.message for delivery in batch if isinstance(delivery.message, ENDINGS)]
        for result in await asyncio.gather(*map(self._clear, ended), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        for delivery in batch:
            if isinstance(delivery.message, ProjectChanged) and delivery.message.deleted:
                await self._discard(delivery.message.project_id)
        await self._ask([each.message for each in batch if isinstance(each.message, BatchEnded)])

    async def _ask(self, ended: Sequence[BatchEnded]) -> None:
        """Batches have ended: their contact sheets are wanted, which somebody else draws."""
        wanted = [event for event in ended if event.plan is not None]
        if not wanted:
            return
        async with transaction(self.pool) as connection:
            for event in wanted:
                await sheet_maker.ask(connection, event)
        self.committed()

    async def _discard(self, project_id: UUID) -> None:
        """Its project was deleted: what the library holds of it goes to the trash."""
        moved = await trash.discard_project(self.pool, project_id)
        log.info("project_in_trash", project_id=str(project_id), files=moved)
        self.committed()

    async def _file(self, deliveries: Sequence[tuple[Delivery, JobFiling]]) -> None:
        # Repeats in one batch are one filing with several answers.
        filings = {model.filing_id(filing): filing for _, filing in deliveries}
        async with transaction(self.pool) as connection:
            wanted, refused = await self._reserve(connection, filings)
        await failpoints.hit("files.after_reserve")
        copied = await self._copy(filings, wanted)
        copied |= {ident: Copied(verdict, {}) for ident, verdict in refused.items()}
        await failpoints.hit("files.after_copy")
        async with transaction(self.pool) as connection:
            fresh = await outbox.first_seen(connection, [delivery.id for delivery, _ in deliveries])
            verdicts, decided = await self._decide(connection, filings, copied)
            outputs = await store.outputs(connection, [ident for ident, verdict in verdicts.items() if verdict.filed])
            await outbox.insert(connection, _answers(deliveries, fresh, verdicts, outputs))
            await failpoints.hit("files.before_commit")
        await failpoints.hit("files.after_commit")
        _count(decided, outputs)
        self.committed()

    async def _reserve(
        self, connection: Connection, filings: Mapping[FilingId, JobFiling]
    ) -> tuple[dict[FilingId, list[store.Reserved]], dict[FilingId, Verdict]]:
        """Where the files of each undecided filing go, and the verdict on those that cannot be filed at all."""
        todo = await store.open_filings(connection, {ident: each.job.epoch for ident, each in filings.items()})
        found = await store.reservations(connection, todo)
        refused: dict[FilingId, Verdict] = {}
        entries: list[Entry] = []
        for ident in todo - found.keys():
            planned = model.entries(filings[ident], self.template)
            if isinstance(planned, Verdict):
                refused[ident] = planned
            else:
                entries += planned
        if entries:
            await store.reserve(connection, entries, self.artifacts.exists)
            found |= await store.reservations(connection, {model.filing_id(entry.filing) for entry in entries})
        return {ident: found.get(ident, []) for ident in todo - refused.keys()}, refused

    async def _copy(
        self, filings: Mapping[FilingId, JobFiling], wanted: Mapping[FilingId, list[store.Reserved]]
    ) -> dict[FilingId, Copied]:
        """Copy all files of all filings; waits for all of them before it raises."""
        found = await asyncio.gather(
            *(self.copier.copy_all(filings[ident], reserved) for ident, reserved in wanted.items()),
            return_exceptions=True,
        )
        copied: dict[FilingId, Copied] = {}
        for ident, result in zip(wanted, found, strict=True):
            if isinstance(result, BaseException):
                raise result
            copied[ident] = result
        return copied

    async def _decide(
        self, connection: Connection, filings: Mapping[FilingId, JobFiling], copied: Mapping[FilingId, Copied]
    ) -> tuple[dict[FilingId, Verdict], dict[FilingId, Verdict]]:
        """The verdict on every filing, and those that are ours. Ours counts only where there was none yet."""
        earlier = await store.lock_verdicts(connection, filings)
        ours = {ident: each.verdict for ident, each in copied.items() if earlier[ident] is None}
        looks = {ident: look for filing in ours for ident, look in copied[filing].looks.items()}
        await store.decide(connection, ours, looks)
        if late := copied.keys() - ours.keys():
            await store.remove_again(connection, late)
        for ident, verdict in ours.items():
            if not verdict.filed:
                log.warning("filing_failed", job_id=str(ident[0]), attempt_id=str(ident[1]), reason=verdict.message)
        return ours | {ident: verdict for ident, verdict in earlier.items() if verdict is not None}, ours

    async def _clear(self, event: JobEvent) -> None:
        """Remove what attempts that are over left in staging; see `model.over` for which these are."""
        folder = staging_prefix(event.job_id)
        async with self.copier.slots:
            keys = await self.artifacts.list(folder)
            for attempt in model.over(event.job, _attempts(folder, keys)):
                metrics.CLEARED.inc(await self.artifacts.delete_all(staging_prefix(event.job_id, attempt)))
        await self.artifacts.remove_empty(folder)


def _attempts(folder: str, keys: Sequence[str]) -> set[UUID]:
    """The attempts that have files among `keys`. What lies elsewhere in the folder is not ours to remove."""
    found = set()
    for key in keys:
        name = key.removeprefix(f"{folder}/").partition("/")[0]
        try:
            found.add(UUID(name))
        except ValueError:
            log.warning("strange_staging", key=key)
    return found


def _answers(
    deliveries: Sequence[tuple[Delivery, JobFiling]],
    fresh: set[str],
    verdicts: Mapping[FilingId, Verdict],
    outputs: Mapping[FilingId, Sequence[Output]],
) -> list[outbox.Row]:
    """One answer to each message not seen before, under the trace of that message."""
    rows: list[outbox.Row] = []
    for delivery, filing in deliveries:
        if delivery.id in fresh:
            fresh.discard(delivery.id)
            ident = model.filing_id(filing)
            with span(filing.wire, traceparent=delivery.envelope.traceparent, kind=SpanKind.CONSUMER):
                rows += outbox.rows_of([model.answer(filing, verdicts[ident], outputs.get(ident, ()))], SERVICE)
    return rows


def _count(decided: Mapping[FilingId, Verdict], outputs: Mapping[FilingId, Sequence[Output]]) -> None:
    for ident, verdict in decided.items():
        if not verdict.filed:
            metrics.FAILED.labels(code=verdict.code).inc()
        for output in outputs.get(ident, ()):
            metrics.FILED.labels(type=output.type).inc()
            metrics.FILED_BYTES.labels(type=output.type).inc(output.size)
