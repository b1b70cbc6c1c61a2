"""Failed jobs, run again many at a time: each by the same rule as one that a person retries."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common.contracts.batches import BatchRef
from anime_common.contracts.jobs import Retried, RetryFilter, RetryJob
from anime_common.contracts.vocabulary import JobState
from anime_common.messages import Outgoing
from anime_common.outcomes import Refused
from anime_jobs import batches

if TYPE_CHECKING:
    from anime_jobs.books import Books
    from anime_jobs.handlers import Ledger


async def retry(ledger: Ledger, books: Books, question: RetryFilter) -> tuple[Retried, list[Outgoing]]:
    """Run the failed jobs that a filter finds again, all in one transaction; asked again, nothing is left to run.

    Raises Refused (404, 422) for a project or batch that is not there.
    """
    rows = await books.connection.fetch(
        "SELECT id, error ->> 'code' AS code FROM jobs WHERE state = 'failed'"
        " AND ($1::text IS NULL OR error ->> 'code' = $1) AND ($2::uuid IS NULL OR project_id = $2)"
        " AND ($3::uuid IS NULL OR batch_id = $3) AND ($4::text IS NULL OR settings ->> 'model' = $4)"
        " AND ($5::timestamptz IS NULL OR ended_at >= $5) ORDER BY created_at, id LIMIT $6",
        question.code,
        await _project(books, question.project),
        await _batch(books, question.batch),
        question.model,
        question.since,
        question.limit + 1,
    )
    wanted, more = rows[: question.limit], len(rows) > question.limit
    codes = Counter(str(row["code"]) for row in wanted)
    if question.dry_run:
        return Retried(found=len(wanted), retried=0, codes=dict(codes), more=more), []
    at = ledger.moment()
    sent: list[Outgoing] = []
    retried = 0
    for record in await books.find_all([row["id"] for row in wanted]):
        # Somebody may have been quicker between looking and locking.
        if record.state is JobState.FAILED:
            _, messages = books.advance(record, RetryJob(job=str(record.job.id)), at)
            sent += messages
            retried += 1
    return Retried(found=len(wanted), retried=retried, codes=dict(codes), more=more), sent


async def _project(books: Books, ref: str | None) -> UUID | None:
    if ref is None:
        return None
    found = await books.project(ref)
    if found is None:
        raise Refused(422, "unknown_project", f"there is no project {ref!r}", "project")
    return found.id


async def _batch(books: Books, ref: str | None) -> UUID | None:
    return None if ref is None else (await batches.find(books.connection, BatchRef(batch=ref))).id
