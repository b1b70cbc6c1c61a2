"""How the fault tests break a product, and how they use one that is broken."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from anime_cli.process import Child, free_port
from anime_common.messages import uuid7
from tests.stacks import Product
from tests.waiting import eventually

_numbers = itertools.count(1)


def child_of(product: Product, name: str) -> Child:
    """The process of one part."""
    return product.stack._running[name].child


@dataclass(frozen=True, slots=True)
class Armed:
    """Failpoints that were set in one service."""

    record: Path

    def fired(self, point: str) -> int:
        """How often one of them acted."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return sum(line.startswith(f"failpoint {point} ") for line in lines)

    async def until_fired(self, point: str, times: int = 1) -> None:
        """Wait until it has acted."""
        await eventually(lambda: self.fired(point) >= times, within=30)


@asynccontextmanager
async def armed(product: Product, service: str, spec: str) -> AsyncIterator[Armed]:
    """Set failpoints (`name=action…`, each with a bounded number of times) in a service; all of them must act."""
    child = child_of(product, service)
    found = Armed(product.home / f"failpoints-{next(_numbers)}")
    before = child.env
    child.env = {**before, "ANIME_FAILPOINTS": spec, "ANIME_FAILPOINTS_RECORD": str(found.record)}
    try:
        await product.stack.restart(service)
        yield found
        for part in spec.split(","):
            assert found.fired(part.partition("=")[0]), f"{part} did not act"
    finally:
        child.env = before


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def family_of(pid: int) -> list[int]:
    """A process and all that descends from it: the backends of PostgreSQL are in sessions of their own."""
    return [pid, *(each for child in children_of(pid) for each in family_of(child))]


@asynccontextmanager
async def frozen(product: Product, name: str) -> AsyncIterator[None]:
    """A part, with all that it started, stands still."""
    pids = family_of(product.stack.pids[name])
    send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pids, signal.SIGCONT)


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@asynccontextmanager
async def second_generator(product: Product) -> AsyncIterator[str]:
    """Another worker beside the stack's own; its name."""
    own = child_of(product, "generator")
    worker = f"second-{next(_numbers)}"
    port = str(free_port(0))
    log = product.home / "logs" / f"{worker}.log"
    env = {**own.env, "ANIME_WORKER": worker, "ANIME_HTTP_PORT": port, "ANIME_FAILPOINTS": ""}
    child = Child(worker, own.command, log, env, reap_group=True)
    child.start()
    try:
        await eventually(lambda: _ready(port), within=30)
        yield worker
    finally:
        await child.stop()


async def _ready(port: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False


async def taken(product: Product, prompt: str = "noop:", within: float = 30.0, **fields: Any) -> str:
    """Submit as a patient client does: the same request under the same key until it is promised; the job's id."""
    headers = {"Idempotency-Key": str(uuid7())}
    told = ""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while loop.time() < deadline:
        try:
            answer = await product.http.post("/jobs", json={"prompt": prompt, **fields}, headers=headers)
        except httpx.TransportError as error:
            told = repr(error)
            await asyncio.sleep(0.1)
            continue
        if answer.status_code in {200, 201}:
            return str(answer.json()["id"])
        if answer.status_code == 202:
            return str(answer.json()["job_id"])
        told = answer.text
        assert answer.status_code in {503, 504}, told
        await asyncio.sleep(0.1)
    raise AssertionError(f"never taken: {told}")


async def until_cancelled(product: Product, job: str, within: float = 30.0) -> None:
    """Ask for a job to be cancelled as a patient client does, until the answer says that it was heard."""
    told = ""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while loop.time() < deadline:
        try:
            answer = await product.http.post(f"/jobs/{job}/cancel")
        except httpx.TransportError as error:
            told = repr(error)
        else:
            # 409: it has ended before. 404: a submit that was answered 202 is still on its way.
            if answer.status_code in {200, 202, 409}:
                return
            told = answer.text
            assert answer.status_code in {404, 503, 504}, told
        await asyncio.sleep(0.1)
    raise AssertionError(f"never cancelled: {told}")


async def several(product: Product, count: int, prompt: str = "noop:", **fields: Any) -> list[str]:
    """Several jobs at once, each promised."""
    return list(await asyncio.gather(*(taken(product, prompt, **fields) for _ in range(count))))


async def all_completed(product: Product, jobs: list[str], within: float = 60.0) -> None:
    """Every job ends well, without anyone's help."""
    await asyncio.gather(*(product.until(job, "completed", within=within) for job in jobs))
