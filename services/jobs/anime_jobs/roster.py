"""What the ledger remembers of workers and models: SQL as functions of a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from anime_common.contracts.generator import Heartbeat
from anime_common.contracts.vocabulary import ModelInfo
from anime_jobs.store import Connection

_ABSENT = "status IN ('lost', 'gone') AND last_seen < now() - make_interval(secs => $1)"


async def models(connection: Connection) -> list[ModelInfo]:
    """Every model ever announced, the default first."""
    rows = await connection.fetch("SELECT info FROM models ORDER BY is_default DESC, first_seen, key")
    return [ModelInfo.model_validate(row["info"]) for row in rows]


async def announce(connection: Connection, infos: Sequence[ModelInfo]) -> None:
    """Keep what workers announce of their models."""
    await connection.executemany(
        "INSERT INTO models (key, info, is_default) VALUES ($1, $2, $3)"
        " ON CONFLICT (key) DO UPDATE SET info = excluded.info, is_default = excluded.is_default",
        [(info.key, info.model_dump(mode="json"), info.default) for info in infos],
    )


async def workers(connection: Connection) -> list[Mapping[str, Any]]:
    """Every worker ever heard: worker, incarnation, status, heartbeat, last_seen."""
    rows: list[Mapping[str, Any]] = await connection.fetch("SELECT * FROM workers ORDER BY worker")
    return rows


async def lost_among(connection: Connection, incarnations: Iterable[UUID]) -> frozenset[UUID]:
    """Those of the incarnations that were declared lost."""
    rows = await connection.fetch(
        "SELECT incarnation FROM lost_incarnations WHERE incarnation = ANY($1::uuid[])", list(incarnations)
    )
    return frozenset(row["incarnation"] for row in rows)


async def keep_worker(connection: Connection, heartbeat: Heartbeat, status: str) -> None:
    """Store the last heartbeat of a worker and whether it is live, lost or gone."""
    await connection.execute(
        "INSERT INTO workers (worker, incarnation, status, heartbeat) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (worker) DO UPDATE SET incarnation = $2, status = $3, heartbeat = $4, last_seen = now()",
        heartbeat.worker,
        heartbeat.incarnation,
        status,
        heartbeat.model_dump(mode="json"),
    )


async def lose_worker(connection: Connection, worker: str, incarnation: UUID) -> None:
    """Declare an incarnation lost, for good."""
    await connection.execute(
        "INSERT INTO lost_incarnations (incarnation, worker) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        incarnation,
        worker,
    )
    await connection.execute(
        "UPDATE workers SET status = 'lost' WHERE worker = $1 AND incarnation = $2", worker, incarnation
    )


async def absent(connection: Connection, seconds: float) -> list[str]:
    """The workers that were lost, or said goodbye, and have not been heard for so long."""
    rows = await connection.fetch(f"SELECT worker FROM workers WHERE {_ABSENT} ORDER BY worker", seconds)  # noqa: S608
    return [row["worker"] for row in rows]


async def forget(connection: Connection, worker: str, seconds: float) -> bool:
    """Forget a worker that is still absent; its incarnation stays lost. Returns whether it was."""
    found = await connection.fetchval(
        f"DELETE FROM workers WHERE worker = $2 AND {_ABSENT} RETURNING worker",  # noqa: S608 - our own text
        seconds,
        worker,
    )
    return found is not None


async def prune(connection: Connection) -> None:
    """Forget lost incarnations and refused submits that nobody can come back for: streams keep nothing that long."""
    await connection.execute("DELETE FROM lost_incarnations WHERE at < now() - interval '31 days'")
    await connection.execute("DELETE FROM refusals WHERE at < now() - interval '31 days'")
