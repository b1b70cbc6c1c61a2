"""The peers' own virtual environment, and the Redis server that Celery needs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anime_cli.process import Child, free_port
from tests.stacks import ROOT

FOLDER = ROOT / ".venv-bench"
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
START_TIMEOUT = 10.0
PATH = "/usr/local/bin:/usr/bin:/bin"


class Absent(Exception):
    """What a peer needs is not on this machine; the text says what."""


@dataclass(frozen=True, slots=True)
class Redis:
    """A server program that speaks Redis, and what it is."""

    program: Path
    version: str


def python() -> Path:
    """The interpreter of the peers' environment, which is made when it is missing or old; raises Absent.

    An environment of its own, so that what the peers need never decides what the product is tested with.
    """
    made, found = FOLDER / ".ready", FOLDER / "bin" / "python"
    if made.exists() and made.stat().st_mtime >= REQUIREMENTS.stat().st_mtime:
        return found
    venv.create(FOLDER, clear=True, with_pip=True)
    command = (found, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "-r", REQUIREMENTS)
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Absent(f"the peers could not be installed: {done.stderr.strip().splitlines()[-1:]}")
    made.touch()
    return found


def redis() -> Redis:
    """A Redis or Valkey of this machine, else the one of the environment; raises Absent."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or next(FOLDER.rglob("valkey-server"), None)
    if found is None:
        raise Absent("redis-server not found")
    said = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout.split()
    number = next((word[2:] for word in said if word.startswith("v=")), "")
    return Redis(Path(found), f"{'Valkey' if 'valkey' in str(found) else 'Redis'} {number}")


@asynccontextmanager
async def running(server: Redis, home: Path, options: tuple[str, ...]) -> AsyncIterator[tuple[int, Child]]:
    """A server of our own with nothing in it, for one block; yields its port and process."""
    data = home / "redis"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    port = free_port(0)
    command = (str(server.program), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(data), *options)
    child = Child("redis", command, home / "logs" / "redis.log", env={"PATH": PATH})
    child.start()
    try:
        await _answers(port, child)
        yield port, child
    finally:
        await child.stop()


async def _answers(port: int, child: Child) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            assert child.alive, child.output(5)
            try:
                await keys(port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return


async def keys(port: int) -> int:
    """How many keys a server holds; asked without a client library, since it is asked often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"DBSIZE\r\n")
        answer = await reader.readline()
    finally:
        writer.close()
    assert answer.startswith(b":"), answer
    return int(answer[1:])
