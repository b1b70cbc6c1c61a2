"""A part that dies is started again, however often and for whatever reason it does not start at first."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from anime_cli.process import Child, StackError
from anime_cli.settings import StackSettings
from anime_cli.stack import Stack
from anime_cli.stack_file import leftovers
from anime_common.migrations import MigrationError
from tests.stacks import FREE_PORTS
from tests.waiting import eventually

FAILURES: list[Exception] = [
    StackError("PostgreSQL is not ready after 30 s; its log ends with: …"),
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "initdb"),
    PermissionError(errno.EACCES, "Permission denied"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    TimeoutError(),
    asyncpg.CannotConnectNowError("the database system is starting up"),
    asyncpg.InterfaceError("connection is closed"),
    MigrationError("dbmate migrate of schema ledger failed"),
    subprocess.CalledProcessError(1, ["initdb"]),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError(),
]


class Watched:
    """A stack with one part, which is watched as all of them are; `said` is what people read."""

    def __init__(self, home: Path) -> None:
        ports = dict.fromkeys(FREE_PORTS, 0)
        settings = StackSettings(
            home=home,
            nats_url="nats://127.0.0.1:4222",
            postgres_dsn="postgresql://anime@127.0.0.1/anime",
            restart_delay=0.01,
            restart_delay_max=0.08,
            **ports,  # type: ignore[arg-type]
        )
        self.said: list[str] = []
        self.stack = Stack(settings, say=self.said.append)
        self.stack.parts.choose_ports()

    @asynccontextmanager
    async def watching(self, child: Child, start: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        child.start()
        self.stack._add(child, start)
        watch = asyncio.create_task(self.stack._watch(child.name))
        try:
            yield
        finally:
            watch.cancel()
            (ended,) = await asyncio.gather(watch, return_exceptions=True)
            await child.stop()
            assert isinstance(ended, asyncio.CancelledError), ended

    def delays(self) -> list[str]:
        return re.findall(r"starting it again in (\S+) s", "\n".join(self.said))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    home = tmp_path / "home"
    home.mkdir()
    return Watched(home)


def sleeping(folder: Path, name: str) -> Child:
    return Child(name, ("sleep", "600"), folder / f"{name}.log", env=os.environ)


@pytest.mark.parametrize("name", ["postgres", "nats", "jobs"])
async def test_it_is_started_again_after_starts_that_failed_in_every_way(
    watched: Watched, tmp_path: Path, name: str
) -> None:
    child, left = sleeping(tmp_path, name), list(FAILURES)

    async def start() -> None:
        if left:
            raise left.pop(0)
        child.start()

    async with watched.watching(child, start):
        before = child.pid
        watched.stack.kill(name)
        await eventually(lambda: child.pid not in {None, before})
        await eventually(lambda: watched.said[-1].startswith(f"{name} was started again"))
        assert leftovers(watched.stack.settings.home) == {name: child.pid}, "who comes after us finds it"
    failed = [text for text in watched.said if "did not start" in text]
    assert failed == [f"{name} did not start: {str(error) or repr(error)}" for error in FAILURES]
    assert all(text.split(": ", 1)[1] for text in failed), "each says why"
    assert watched.said[0] == f"{name} was killed by SIGKILL; starting it again in 0.01 s"


@pytest.mark.parametrize("lived", [0.0, 3600.0], ids=["died at once", "lived for an hour"])
async def test_it_is_tried_later_each_time_up_to_a_bound(watched: Watched, tmp_path: Path, lived: float) -> None:
    child, tries = sleeping(tmp_path, "nats"), itertools.count()

    async def start() -> None:
        if next(tries) < 5:
            raise StackError("the port is taken")
        child.start()

    async with watched.watching(child, start):
        child.started_at -= lived
        watched.stack.kill("nats")
        await eventually(lambda: watched.said[-1:] == [f"nats was started again (process {child.pid})"])
    assert watched.delays() == ["0.01", "0.02", "0.04", "0.08", "0.08", "0.08"]


async def test_a_stack_file_that_cannot_be_written_does_not_end_the_watch(watched: Watched, tmp_path: Path) -> None:
    child = sleeping(tmp_path, "jobs")

    async def start() -> None:
        child.start()

    watched.stack.settings.home.rename(tmp_path / "elsewhere")
    async with watched.watching(child, start):
        for number in (1, 2):
            watched.stack.kill("jobs")
            await eventually(lambda: sum("is out of date" in text for text in watched.said) >= number)  # noqa: B023 - awaited at once
    assert sum("was started again" in text for text in watched.said) == 2


async def test_what_ran_for_a_while_is_started_again_soon(watched: Watched, tmp_path: Path) -> None:
    child = sleeping(tmp_path, "files")

    async def start() -> None:
        child.start()

    async with watched.watching(child, start):
        for number in (1, 2, 3):
            await eventually(lambda: time.monotonic() - child.started_at > 0.1)
            watched.stack.kill("files")
            await eventually(lambda: len(watched.said) >= 2 * number)  # noqa: B023 - awaited at once
    assert watched.delays() == ["0.01"] * 3


async def test_a_program_that_is_gone_for_a_moment_is_started_when_it_is_back(watched: Watched, tmp_path: Path) -> None:
    program = tmp_path / "service"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    child = Child("echo", (str(program),), tmp_path / "echo.log", env=os.environ)

    async def start() -> None:
        if not program.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(program))
        child.start()

    async with watched.watching(child, start):
        away = program.rename(tmp_path / "elsewhere")
        watched.stack.kill("echo")
        await eventually(lambda: sum("did not start" in text for text in watched.said) >= 2)
        away.rename(program)
        await eventually(lambda: child.alive)
        assert child.pid in watched.stack.pids.values()
