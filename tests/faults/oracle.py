"""The one judge of a run: when all is calm, what rows, streams and disk say must add up. It asks no service."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from anime_cli.stack import Stack
from anime_common.bus import Bus, Stored
from anime_common.db import ERRORS, split_password
from anime_common.outcomes import Unavailable
from anime_common.topology import ADMIN, COMMANDS, CONSUMERS, DEAD, LEDGER
from tests.buses import connected

AWAY: tuple[type[Exception], ...] = (*ERRORS, Unavailable)
ENDS = ("completed", "failed", "cancelled")
SCHEMAS = ("ledger", "library", "echo")
NOT_LIBRARY = ("staging/", "thumbnails/", "health/")


@dataclass(slots=True)
class Report:
    """What was counted, and every contradiction found."""

    accepted: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    files: int = 0
    dead: int = 0
    orphans: int = 0
    events: int = 0
    repeats: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def completed(self) -> int:
        return self.ended.get("completed", 0)

    def __str__(self) -> str:
        rows = {
            "accepted": self.accepted,
            **self.ended,
            **{f"failed: {reason}": count for reason, count in self.failed.items()},
            **{f"attempts {outcome}": count for outcome, count in self.attempts.items()},
            "files": self.files,
            "dead letters": self.dead,
            "orphans": self.orphans,
            "ledger events": self.events,
            "stored twice": self.repeats,
        }
        lines = [f"{name:<24} {count:>7}" for name, count in rows.items()]
        return "\n".join([*lines, *(f"PROBLEM {each}" for each in self.problems)])


async def audit(stack: Stack, *, accepted: Collection[str] = (), dead: int | None = 0, within: float = 30.0) -> Report:
    """Wait until nothing moves any more, then count; fails with all that does not add up.

    `accepted`: ids that a client was promised. `dead`: how many dead letters there must be; None: any number.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            report = await _look(stack, accepted, dead)
        except AWAY as error:
            report = Report(problems=[f"cannot look: {error!r}"])
        if not report.problems:
            return report
        assert time.monotonic() < deadline, f"it does not add up:\n{report}"
        await asyncio.sleep(0.2)


async def _look(stack: Stack, accepted: Collection[str], dead: int | None) -> Report:
    postgres, nats = stack.parts.postgres, stack.parts.nats
    assert postgres is not None
    assert nats is not None
    report = Report()
    dsn, _ = split_password(postgres.dsn)
    connection = await asyncpg.connect(dsn, password=postgres.password, timeout=5)
    try:
        jobs = await _ledger(connection, report, accepted)
        keys, thumbnails = await _library(connection, report, jobs, stack.settings.home / "artifacts")
    finally:
        await connection.close()
    _disk(report, stack.settings.home / "artifacts", keys, thumbnails)
    async with connected(nats, ADMIN) as bus:
        await _streams(bus, report, jobs, dead)
    return report


async def _ledger(connection: Any, report: Report, accepted: Collection[str]) -> dict[str, Mapping[str, Any]]:
    rows = await connection.fetch(
        "SELECT id::text, state, version, attempt, attempt_id, outputs, error ->> 'code' AS code FROM ledger.jobs"
    )
    jobs = {row["id"]: row for row in rows}
    report.accepted = len(jobs)
    report.ended = Counter(row["state"] for row in rows if row["state"] in ENDS)
    report.failed = Counter(row["code"] for row in rows if row["state"] == "failed")
    attempts: dict[str, list[Any]] = defaultdict(list)
    for row in await connection.fetch("SELECT id, job_id::text, number, outcome FROM ledger.attempts"):
        attempts[row["job_id"]].append(row)
    report.attempts = Counter(str(row["outcome"]) for each in attempts.values() for row in each)
    for lost in set(accepted) - jobs.keys():
        report.problems.append(f"job {lost} was accepted and is lost")
    for ident, job in jobs.items():
        report.problems += [f"job {ident} {problem}" for problem in _contradictions(job, attempts[ident])]
    for schema in SCHEMAS:
        if left := await connection.fetchval(f"SELECT count(*) FROM {schema}.outbox"):
            report.problems.append(f"{left} messages wait in the outbox of {schema}")
    if sum(report.ended.values()) != report.accepted:
        report.problems.append("not every accepted job has ended")
    return jobs


def _contradictions(job: Mapping[str, Any], attempts: list[Any]) -> list[str]:
    found = []
    if job["state"] not in ENDS:
        found.append(f"is {job['state']}")
    elif any(row["outcome"] is None for row in attempts):
        found.append("has ended with an attempt under way")
    if sorted(row["number"] for row in attempts) != list(range(1, job["attempt"] + 1)):
        found.append(f"counts {job['attempt']} attempts and has {len(attempts)}")
    finished = {row["id"] for row in attempts if row["outcome"] == "finished"}
    if job["state"] == "completed" and job["attempt_id"] not in finished:
        found.append("is completed by an attempt that did not finish")
    if job["state"] == "failed" and job["code"] is None:
        found.append("has failed without a reason")
    return found


async def _library(
    connection: Any, report: Report, jobs: Mapping[str, Mapping[str, Any]], artifacts: Path
) -> tuple[set[str], set[str]]:
    """Compare outputs, rows and bytes; the keys of files and thumbnails that may lie on the disk."""
    rows = await connection.fetch(
        "SELECT id::text, state, key, thumbnail_key, job_id::text, index, size, sha256, removed_at FROM library.files"
    )
    filed = {row["id"]: row for row in rows if row["state"] == "filed"}
    report.files = len(filed)
    report.problems += [f"file {row['key']} is still reserved" for row in rows if row["state"] == "reserved"]
    doubled = Counter((row["job_id"], row["index"]) for row in filed.values() if row["job_id"] is not None)
    report.problems += [f"picture {place} was filed {count} times" for place, count in doubled.items() if count > 1]
    named: set[str] = set()
    for ident, job in jobs.items():
        outputs = json.loads(job["outputs"])
        for output in outputs:
            row = filed.get(output["file_id"])
            if row is None or (row["key"], row["sha256"], row["job_id"]) != (output["key"], output["sha256"], ident):
                report.problems.append(f"job {ident} names {output['key']}, which the library does not")
            elif output["file_id"] in named:
                report.problems.append(f"two jobs name {output['key']}")
            named.add(output["file_id"])
    made = {ident for ident, row in filed.items() if row["job_id"] is not None}
    report.problems += [f"no job names the file {filed[ident]['key']}" for ident in made - named]
    for row in filed.values():
        path = artifacts / row["key"]
        data = path.read_bytes() if path.is_file() else None
        if data is None or len(data) != row["size"] or hashlib.sha256(data).hexdigest() != row["sha256"]:
            report.problems.append(f"{row['key']} {'is not there' if data is None else 'has other bytes'}")
    return {row["key"] for row in filed.values()}, {row["thumbnail_key"] for row in filed.values()}


def _disk(report: Report, artifacts: Path, keys: set[str], thumbnails: set[str]) -> None:
    for path in artifacts.rglob("*"):
        key = str(path.relative_to(artifacts))
        if not path.is_file() or key.startswith("health/"):
            continue
        if key.startswith("staging/"):
            report.problems.append(f"left in staging: {key}")
        elif key not in keys and key not in thumbnails:
            report.orphans += 1
            report.problems.append(f"an orphan: {key}")


async def _streams(bus: Bus, report: Report, jobs: Mapping[str, Mapping[str, Any]], dead: int | None) -> None:
    for consumer in CONSUMERS:
        info = await bus.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        if left := info["num_pending"] + info["num_ack_pending"]:
            report.problems.append(f"{left} messages are left for {consumer.name}")
    counts = {stream: (await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"] for stream in (COMMANDS, DEAD)}
    report.dead = counts[DEAD]
    if counts[COMMANDS]:
        report.problems.append(f"{counts[COMMANDS]} commands are left")
    if dead is not None and report.dead != dead:
        report.problems.append(f"{report.dead} dead letters instead of {dead}")
    _events(report, await everything(bus, LEDGER), jobs)


async def everything(bus: Bus, stream: str) -> list[Stored]:
    """All that a stream holds, in order."""
    found: list[Stored] = []
    while batch := await bus.read(stream, found[-1].sequence + 1 if found else 1):
        found += batch
    return found


def _events(report: Report, stored: list[Stored], jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Each event once (a repeat has the same id), versions growing, and the end that the row tells."""
    seen: set[str] = set()
    types: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, int] = {}
    for each in stored:
        *_, kind, ident = each.subject.split(".")
        if each.headers["ce-id"] in seen:
            report.repeats += 1
            continue
        seen.add(each.headers["ce-id"])
        body = json.loads(each.data)
        if ident not in jobs or kind.startswith("command_") or body.get("repeat"):
            continue
        report.events += 1
        types[ident][kind] += 1
        version = body["job"]["version"]
        if version <= last.get(ident, 0):
            report.problems.append(f"job {ident}: version {version} of {kind} after {last[ident]}")
        last[ident] = max(version, last.get(ident, 0))
    for ident, job in jobs.items():
        kinds = types[ident]
        # A broker that lost its disk has lost the beginning too: what it still holds must not contradict the row.
        complete = kinds["accepted"] > 0
        wanted = int(job["state"] == "completed")
        if kinds["completed"] > wanted or (complete and kinds["completed"] < wanted) or kinds["accepted"] > 1:
            report.problems.append(f"job {ident} is {job['state']}, its events say {dict(kinds)}")
        if complete and last[ident] != job["version"]:
            report.problems.append(f"job {ident} is at version {job['version']}, its events at {last[ident]}")
