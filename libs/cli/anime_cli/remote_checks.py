"""What the doctor asks: the gateway, the services, NATS, PostgreSQL. Where there is nobody to ask, it says nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from anime_cli import dead, render
from anime_cli.api import BASE, connect
from anime_cli.errors import CliError
from anime_cli.findings import Finding, Patient, note, ok, wrong
from anime_common.contracts.jobs import Workers
from anime_common.db import ERRORS, split_password

TIMEOUT = 5.0
DENIED = {401, 403}
OLDEST_GOOD_NATS = (2, 12)
OLDEST_GOOD_POSTGRES = 15


async def all_of(who: Patient) -> AsyncIterator[Finding]:
    """Every question, one after another."""
    for check in (gateway, generators, services, nats, postgres, letters):
        for finding in await check(who):
            yield finding


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def gateway(who: Patient) -> list[Finding]:
    """The gateway, and what it says of the parts behind it."""
    try:
        async with connect(who.url) as api:
            answer = await api.client.get(f"{BASE}/health", timeout=TIMEOUT)
            said = answer.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        mend = "start the stack with `anime up`; or is ANIME_URL (--url) wrong?"
        return [wrong("gateway", f"{who.url} does not answer ({type(error).__name__})", mend)]
    health: dict[str, Any] = said if isinstance(said, dict) else {}
    if answer.status_code in DENIED:
        mend = "set ANIME_TOKEN; on the gateway's machine, `anime token create NAME` makes one"
        return [wrong("gateway", f"{who.url} does not let us in: {health.get('detail')}", mend)]
    if "parts" not in health:
        text = f"{who.url} answers {answer.status_code}: {health.get('detail', 'not our gateway?')}"
        return [wrong("gateway", text, "is ANIME_URL (--url) the gateway's?")]
    found = [ok("gateway", f"{who.url} answers: {health.get('status')}")]
    for name, part in health.get("parts", {}).items():
        if not part.get("ok"):
            mend = f"look at its log: {who.settings.home / 'logs' / f'{name}.log'}"
            optional = name == "echo"
            found.append((note if optional else wrong)(f"health: {name}", str(part.get("detail")), mend))
    return found


async def generators(who: Patient) -> list[Finding]:
    """The devices that generators run on."""
    try:
        async with connect(who.url) as api:
            workers = await api.get("/generators", Workers)
    except CliError:
        return []  # the check of the gateway has said it
    warned = [
        wrong(f"generator {each.worker}", text, "`anime models check` says it in full; mend what it names")
        for each in workers.items
        for text in each.heartbeat.warnings
    ]
    return warned + [
        ok(
            "generator",
            f"{each.worker} is {each.status}: {each.heartbeat.device.kind} {each.heartbeat.device.name},"
            f" {render.size(each.heartbeat.device.memory_free)} free,"
            f" models {', '.join(model.key for model in each.heartbeat.models) or 'none'}",
        )
        for each in workers.items
    ]


async def services(who: Patient) -> list[Finding]:
    """What each service of a local stack says of itself."""
    found = []
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:
        for name, url in (who.stack.health if who.stack else {}).items():
            log = who.settings.home / "logs" / f"{name}.log"
            try:
                answer = await client.get(f"{url}/readyz")
                said = answer.json()
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                found.append(wrong(f"service {name}", f"{url} does not answer ({type(error).__name__})", f"see {log}"))
                continue
            if answer.status_code == 200:
                found.append(ok(f"service {name}", "ready"))
            else:
                text = ", ".join(f"{check}: {problem}" for check, problem in said.get("wrong", {}).items())
                found.append(wrong(f"service {name}", f"not ready ({text})", f"see {log}"))
    return found


async def nats(who: Patient) -> list[Finding]:
    """The NATS server, and whether it is new enough."""
    url = who.settings.nats_url or (who.stack.nats_url if who.stack else None)
    if url is None:
        return []
    try:
        info = await _greeting(url)
    except (OSError, TimeoutError, ValueError) as error:
        return [wrong("nats", f"{url} does not answer ({_reason(error)})", "start it, or mend ANIME_NATS_URL")]
    number = str(info.get("version", "0"))
    text = f"{url} is nats-server {number}"
    if tuple(int(part) for part in number.split("-", maxsplit=1)[0].split(".")[:2]) < OLDEST_GOOD_NATS:
        return [wrong("nats", text, "2.12 or newer is needed")]
    if not info.get("jetstream"):
        return [wrong("nats", f"{text} without JetStream", "enable jetstream in its configuration")]
    return [ok("nats", f"{text} with JetStream")]


async def _greeting(url: str) -> dict[str, Any]:
    """What a NATS server says of itself before anybody logs in."""
    parts = urlsplit(url)
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
        try:
            line = await reader.readline()
        finally:
            writer.close()
    if not line.startswith(b"INFO "):
        raise ValueError("that is no NATS server")
    found: dict[str, Any] = json.loads(line[5:])
    return found


async def postgres(who: Patient) -> list[Finding]:
    """PostgreSQL, and whether it is new enough."""
    dsn = who.settings.postgres_dsn or (who.stack.postgres_dsn if who.stack else None)
    if dsn is None:
        return []
    plain, password = split_password(dsn)
    file = who.settings.postgres_password_file or who.settings.home / "secrets" / "postgres-admin"
    if password is None and file.exists():
        password = file.read_text().strip()
    try:
        connection = await asyncpg.connect(plain, password=password, timeout=TIMEOUT)
    except ERRORS as error:
        text = f"{plain} does not let us in ({_reason(error)})"
        return [wrong("postgres", text, "start it, or mend ANIME_POSTGRES_DSN and its password")]
    try:
        number = await connection.fetchval("SELECT current_setting('server_version')")
    finally:
        await connection.close()
    text = f"{plain} is PostgreSQL {number}"
    if int(number.split(".")[0]) < OLDEST_GOOD_POSTGRES:
        return [wrong("postgres", text, f"{OLDEST_GOOD_POSTGRES} or newer is needed")]
    return [ok("postgres", text)]


async def letters(who: Patient) -> list[Finding]:
    """Whether there are messages that no service could handle."""
    if who.stack is None:
        return []
    try:
        async with dead.owner() as bus:
            found = [letter async for letter in dead.letters(bus)]
    except CliError as error:
        return [wrong("dead letters", str(error), "see the finding about nats")]
    if found:
        text = f"{len(found)}, the last one: {found[-1].header('anime-reason')}"
        return [note("dead letters", text, "`anime dead list` shows them, `replay` and `drop` end them")]
    return [ok("dead letters", "none")]
