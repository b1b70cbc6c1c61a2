"""The whole embedded stack as real processes: start, deaths, takeovers, external parts, stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_cli.process import StackError, command_line
from anime_cli.services import SERVICES
from anime_cli.settings import StackSettings
from anime_cli.stack import Stack
from anime_cli.stack_file import read_stack_file
from anime_common import db
from tests.stacks import FREE_PORTS, NOOP_MODELS, settings_of
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

NAMES = {service.name for service in SERVICES} | {"nats", "postgres"}
RUN = "import asyncio; from anime_cli.settings import StackSettings as S; from anime_cli.stack import up"


def gone(home: Path, pids: dict[str, int]) -> bool:
    """Whether none of these processes is one of that home's any more."""
    ours = ("-m anime_", str(home))
    return not any(mark in command_line(pid) for pid in pids.values() for mark in ours)


def quick(folder: Path) -> dict[str, str]:
    """What to tell a generator that shall be ready at once."""
    models = folder / "models.toml"
    models.write_text(NOOP_MODELS)  # torch takes long to import, and no test here makes a picture
    return {"ANIME_MODELS": str(models)}


async def is_ready(stack: Stack, name: str) -> bool:
    try:
        await stack.ready(name, timeout=0.5)
    except StackError:
        return False
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    async with Stack(settings_of(home), env={"generator": quick(home)}) as stack:
        yield stack


@pytest.mark.asyncio(loop_scope="module")
async def test_everything_runs_and_says_where(stack: Stack) -> None:
    told = read_stack_file(stack.settings.home)
    assert told is not None
    assert told.pids == stack.pids
    assert set(told.pids) == NAMES
    assert told.url == stack.url
    assert told.pid == os.getpid()
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in told.health.values():
            assert (await client.get(f"{url}/readyz")).status_code == 200
        assert (await client.get(f"{told.url}/api/anime/health")).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_secrets_are_closed_and_in_no_other_file(stack: Stack) -> None:
    home = stack.settings.home
    secrets = {file: file.read_text().strip() for file in (home / "secrets").iterdir()}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in secrets)
    told = (home / "stack.json").read_text() + "".join(log.read_text() for log in (home / "logs").iterdir())
    assert not any(secret in told for secret in secrets.values())
    environments = [Path(f"/proc/{pid}/environ").read_text() for pid in stack.pids.values()]
    assert not any(secret in environment for secret in secrets.values() for environment in environments)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_second_stack_on_the_same_home_is_refused(stack: Stack) -> None:
    with pytest.raises(StackError, match=f"already runs .*process {os.getpid()}"):
        await Stack(stack.settings).start()
    assert read_stack_file(stack.settings.home) is not None


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["files", "jobs", "nats", "postgres"])
async def test_what_dies_is_started_again_where_it_was(stack: Stack, name: str) -> None:
    before, url = stack.pids, stack.parts.nats_url
    stack.kill(name)
    await eventually(lambda: stack.pids.get(name, before[name]) != before[name])
    for service in SERVICES:
        await eventually(lambda: is_ready(stack, service.name), within=30)  # noqa: B023 - awaited at once
    after = stack.pids
    assert {other for other in NAMES if after[other] != before[other]} == {name}
    assert stack.parts.nats_url == url
    told = read_stack_file(stack.settings.home)
    assert told is not None
    assert told.pids == after


@pytest.mark.asyncio(loop_scope="module")
async def test_a_halted_service_stays_down_until_resumed(stack: Stack) -> None:
    await stack.halt("files")
    await asyncio.sleep(0)
    assert "files" not in stack.pids
    assert not await is_ready(stack, "files")
    await stack.resume("files")
    assert await is_ready(stack, "files")


async def test_a_service_that_cannot_start_is_named_with_its_own_words(stack_settings: StackSettings) -> None:
    stack = Stack(stack_settings, env={"files": {"ANIME_POSTGRES_POOL": "none"}})
    with pytest.raises(StackError, match=re.compile("files exited with status 2.*ANIME_POSTGRES_POOL", re.DOTALL)):
        await stack.start()
    assert stack.pids == {}
    assert read_stack_file(stack_settings.home) is None


async def test_external_parts_are_used_and_left_alone(stack_settings: StackSettings, tmp_path: Path) -> None:
    bus = NatsServer(tmp_path / "elsewhere", wanted_port=0, wanted_monitor_port=0)
    database = PostgresServer(tmp_path / "elsewhere", wanted_port=0, durable=False)
    await asyncio.gather(bus.start(), database.start())
    try:
        settings = stack_settings.model_copy(
            update={
                "nats_url": bus.url,
                "nats_secrets": bus.home / "secrets",
                "postgres_dsn": db.with_password(database.dsn, database.password),
                "artifacts_url": (tmp_path / "pictures").as_uri(),
            }
        )
        async with Stack(settings, env={"generator": quick(tmp_path)}) as stack:
            assert set(stack.pids) == {service.name for service in SERVICES}
            told = read_stack_file(settings.home)
            assert told is not None
            assert (told.nats_url, told.postgres_dsn) == (bus.url, database.dsn)
        assert bus.child.alive
        assert database.child.alive
    finally:
        await database.stop()
        await bus.stop()


@asynccontextmanager
async def running_up(home: Path, log: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """`anime up` as a process of its own, ready, with what it has printed; killed at the end if it still runs."""
    ports = {f"ANIME_{name.upper()}": "0" for name in FREE_PORTS}
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", f"{RUN}; raise SystemExit(asyncio.run(up(S())))"),
            env=os.environ | quick(log.parent) | {"ANIME_HOME": str(home)} | ports,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(StackSettings().ready_timeout):
            printed = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
        assert printed[0].startswith("ready: "), log.read_text()
        yield process, printed
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_up_says_when_it_is_ready_and_stops_on_a_signal(tmp_path: Path) -> None:
    async with running_up(tmp_path / "home", tmp_path / "log") as (process, printed):
        told = read_stack_file(tmp_path / "home")
        assert told is not None
        assert printed == [f"ready: {told.url}", f"docs: {told.url}/docs"]
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert gone(tmp_path / "home", told.pids)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert all(f"{service.name:<9} | " in log for service in SERVICES)


async def test_a_killed_stack_leaves_nothing_running_and_is_taken_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running_up(home, tmp_path / "log") as (first, _):
        told = read_stack_file(home)
        assert told is not None
        os.kill(told.pids["files"], signal.SIGSTOP)  # does not hear that its parent died
        first.kill()
    async with running_up(home, tmp_path / "log") as (second, _):
        assert gone(home, told.pids)
        second.terminate()
        assert await asyncio.wait_for(second.wait(), 30) == 0
