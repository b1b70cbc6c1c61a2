"""What was asked and answered, as SQL in functions of a connection (table: see `migrations/`)."""

from __future__ import annotations

from uuid import UUID

from anime_common.contracts.echo import OptimizedPrompt
from anime_common.outbox import Connection


async def record(
    connection: Connection,
    *,
    prompt: str,
    negative_prompt: str,
    family: str,
    provider: str,
    answer: OptimizedPrompt | str,
    job: tuple[UUID, int, int] | None = None,
) -> None:
    """Keep a question and its answer, or why it was refused; `job` is the id, version and repeat number that asked."""
    job_id, version, repeat = job or (None, None, None)
    good = answer if isinstance(answer, OptimizedPrompt) else None
    await connection.execute(
        "INSERT INTO optimizations (job_id, job_version, repeat, family, prompt, negative_prompt, provider,"
        " optimized_prompt, optimized_negative_prompt, changes, refused)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        job_id,
        version,
        repeat,
        family,
        prompt,
        negative_prompt,
        provider,
        good.prompt if good else None,
        good.negative_prompt if good else None,
        [change.model_dump() for change in good.changes] if good else [],
        answer if isinstance(answer, str) else None,
    )
