"""Many SSE clients in one process that reads as little as it must: `python -m tests.bench.sse_client URL CLIENTS`.

It says `{"connected": N}` on stdout once every client has its snapshot. For each line `ROUND COUNT SECONDS` on stdin it
answers with what was heard of that round, as soon as every client has all, or after so many seconds.
An event of a round carries `bench-<round>-<number>-<nanoseconds of publishing>` once.
"""

from __future__ import annotations

import array
import asyncio
import json
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.measures import Spread
from tests.bench.running import allow_open_files

MARK = re.compile(rb'bench-(\d+)-(\d+)-(\d+)"')
LONGEST_MARK = 80
CONNECTING_AT_ONCE = 100


@dataclass(slots=True)
class Round:
    """What all clients heard of one round."""

    latencies: array.array[float] = field(default_factory=lambda: array.array("d"))
    first: int = 0
    last: int = 0


class Client(asyncio.Protocol):
    """One connection; `heard` by round: the numbers of the events, in the order in which they came."""

    def __init__(self, request: bytes, rounds: defaultdict[int, Round]) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard: defaultdict[int, list[int]] = defaultdict(list)
        self.lost = False
        self._request, self._rounds = request, rounds
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        text = self._tail + data
        end = 0
        for found in MARK.finditer(text):
            number, index, sent = map(int, found.groups())
            self.heard[number].append(index)
            about = self._rounds[number]
            about.latencies.append((now - sent) / 1e6)
            about.first, about.last = about.first or now, now
            end = found.end()
        self._tail = text[max(end, len(text) - LONGEST_MARK) :]
        if not self.ready.done() and b"event: snapshot" in text:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before the snapshot"))


async def connect(url: str, count: int, rounds: defaultdict[int, Round]) -> list[Client]:
    """Open all connections; each has its snapshot."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    lines = (f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Accept: text/event-stream", "", "")
    request = "\r\n".join(lines).encode()
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one() -> Client:
        async with slots:
            _, client = await loop.create_connection(lambda: Client(request, rounds), host, port)
            await client.ready
            return client

    return list(await asyncio.gather(*(one() for _ in range(count))))


def complete(clients: list[Client], number: int, count: int) -> bool:
    """Whether every client has heard that many events of the round."""
    return all(len(client.heard[number]) >= count for client in clients)


def report(clients: list[Client], number: int, count: int, rounds: defaultdict[int, Round]) -> dict[str, float]:
    """What was heard of a round, and by how many clients not exactly once each, in order."""
    about, wanted = rounds[number], list(range(count))
    wrong = sum(client.heard[number] != wanted for client in clients)
    found: dict[str, float] = {"wrong": wrong, "lost": sum(client.lost for client in clients)}
    if about.latencies:
        spread = Spread.of(about.latencies)
        seconds = (about.last - about.first) / 1e9
        found |= {
            "events": spread.count,
            "p50": spread.p50,
            "p99": spread.p99,
            "worst": spread.worst,
            "seconds": seconds,
        }
    return found


async def main(url: str, count: int) -> None:
    """Connect, then answer questions until stdin ends."""
    rounds: defaultdict[int, Round] = defaultdict(Round)
    clients = await connect(url, count, rounds)
    print(json.dumps({"connected": len(clients)}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        number, wanted, seconds = map(int, line.split())
        deadline = time.monotonic() + seconds
        while not complete(clients, number, wanted) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        print(json.dumps(report(clients, number, wanted, rounds)), flush=True)


if __name__ == "__main__":
    allow_open_files()
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
