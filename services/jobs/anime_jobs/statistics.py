"""A stretch of time, measured: SQL as functions of a connection."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from anime_common.contracts.statistics import (
    TARGET_SECONDS,
    ClassWait,
    EchoUse,
    History,
    ModelSpeed,
    Retries,
    Window,
)
from anime_common.contracts.vocabulary import JobState, Priority
from anime_jobs.model import OWN_WORDS
from anime_jobs.store import Connection

REASONS = 5
"""Reasons that are told one by one."""


async def history(connection: Connection, window: Window) -> History:
    """Everything about the time since the window begins."""
    now = datetime.now(UTC)
    since = now - window.length if window.length is not None else None
    begin = since or datetime.min.replace(tzinfo=UTC)
    submitted = await connection.fetch(
        "SELECT state, count(*) AS n FROM jobs WHERE created_at >= $1 GROUP BY state ORDER BY state", begin
    )
    ended = await connection.fetch(
        "SELECT state, count(*) AS n FROM jobs WHERE ended_at >= $1 AND ended_at IS NOT NULL GROUP BY state", begin
    )
    counts = {row["state"]: row["n"] for row in ended}
    files, size = await _made(connection, begin)
    return History(
        window=window,
        since=since,
        until=now,
        submitted={JobState(row["state"]): row["n"] for row in submitted},
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        cancelled=counts.get("cancelled", 0),
        models=await _speeds(connection, begin),
        waits=await _waits(connection, begin),
        retries=await _retries(connection, begin),
        files=files,
        bytes=size,
        echo=await _echo(connection, begin),
        eta_factor=await _eta_factor(connection, begin),
    )


async def _speeds(connection: Connection, begin: datetime) -> tuple[ModelSpeed, ...]:
    rows = await connection.fetch(
        "SELECT w.model, count(*) AS finished, sum(w.pictures)::bigint AS pictures,"
        " percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY w.seconds) AS spread,"
        " avg((w.seconds <= $2)::int)::float AS within,"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY w.loading) FILTER (WHERE w.loading > 0) AS loading"
        " FROM (SELECT a.model, extract(epoch FROM a.ended_at - a.started_at)::float AS seconds,"
        "   (a.timings ->> 'loading')::float AS loading, coalesce((j.settings ->> 'count')::int, 1) AS pictures"
        "   FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.outcome = 'finished' AND a.ended_at >= $1"
        "   AND a.started_at IS NOT NULL AND a.model IS NOT NULL) w GROUP BY w.model ORDER BY finished DESC, w.model",
        begin,
        TARGET_SECONDS,
    )
    return tuple(
        ModelSpeed(
            model=row["model"],
            finished=row["finished"],
            pictures=row["pictures"],
            median_seconds=round(row["spread"][0], 3),
            p95_seconds=round(row["spread"][1], 3),
            within_target=round(row["within"], 4),
            median_loading=None if row["loading"] is None else round(row["loading"], 3),
        )
        for row in rows
    )


async def _waits(connection: Connection, begin: datetime) -> tuple[ClassWait, ...]:
    """Of the first start of each job that was begun: later ones waited for a delay as well."""
    rows = await connection.fetch(
        "SELECT w.priority, count(*) AS jobs,"
        " percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY w.seconds) AS spread FROM (SELECT j.priority,"
        "   greatest(extract(epoch FROM a.started_at - greatest(j.created_at, j.not_before)), 0)::float AS seconds"
        "   FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.number = 1 AND a.started_at >= $1) w"
        " GROUP BY w.priority",
        begin,
    )
    found = [
        ClassWait(
            priority=Priority(row["priority"]),
            jobs=row["jobs"],
            median_seconds=round(row["spread"][0], 3),
            p95_seconds=round(row["spread"][1], 3),
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda each: each.priority.rank))


async def _retries(connection: Connection, begin: datetime) -> Retries:
    row = await connection.fetchrow(
        "SELECT count(*) AS attempts, count(DISTINCT job_id) AS jobs FROM attempts"
        " WHERE number > 1 AND dispatched_at >= $1",
        begin,
    )
    codes = await connection.fetch(
        "SELECT coalesce(code, outcome) AS code, count(*) AS n FROM attempts WHERE ended_at >= $1"
        " AND (code IS NOT NULL OR outcome IN ('failed', 'lost', 'fenced', 'released'))"
        " GROUP BY 1 ORDER BY n DESC, 1",
        begin,
    )
    return Retries(attempts=row["attempts"], jobs=row["jobs"], codes={each["code"]: each["n"] for each in codes})


async def _made(connection: Connection, begin: datetime) -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT count(*) AS files, coalesce(sum((o ->> 'size')::bigint), 0)::bigint AS size"
        " FROM jobs CROSS JOIN LATERAL jsonb_array_elements(outputs) o WHERE state = 'completed' AND ended_at >= $1",
        begin,
    )
    return row["files"], row["size"]


async def _echo(connection: Connection, begin: datetime) -> EchoUse:
    row = await connection.fetchrow(
        "SELECT count(*) AS asked, count(*) FILTER (WHERE prompt_note IS NOT NULL AND NOT starts_with(prompt_note, $2))"
        " AS improved, count(*) FILTER (WHERE starts_with(prompt_note, $2)) AS fell_back"
        " FROM jobs WHERE created_at >= $1 AND (request ->> 'optimize')::boolean",
        begin,
        OWN_WORDS,
    )
    reasons = await connection.fetch(
        "SELECT substr(prompt_note, length($2) + 1) AS reason, count(*) AS n FROM jobs WHERE created_at >= $1"
        " AND (request ->> 'optimize')::boolean AND starts_with(prompt_note, $2)"
        " GROUP BY 1 ORDER BY n DESC, 1 LIMIT $3",
        begin,
        OWN_WORDS,
        REASONS,
    )
    found = {each["reason"][:200]: each["n"] for each in reasons}
    return EchoUse(asked=row["asked"], improved=row["improved"], fell_back=row["fell_back"], reasons=found)


async def _eta_factor(connection: Connection, begin: datetime) -> float | None:
    found = await connection.fetchval(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(ln("
        "   greatest(extract(epoch FROM foreseen_end - foreseen_at), 0.001)::float"
        "   / greatest(extract(epoch FROM ended_at - foreseen_at), 0.001)::float)))"
        " FROM jobs WHERE state = 'completed' AND ended_at >= $1 AND foreseen_at IS NOT NULL",
        begin,
    )
    return None if found is None else round(math.exp(found), 3)
