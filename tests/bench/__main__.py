"""`make bench`: measures what the product does on this machine, audits it, prints it and records it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from tests.bench import machine, page, started, streams, throughput
from tests.bench.peers import measuring
from tests.bench.tables import Result
from tests.stacks import ROOT

RECORDS = ROOT / "docs" / "benchmarks"
PART_TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    samples: int = 200
    jobs: int = 2000
    at_once: int = 1000
    clients: int = 1000
    seconds: int = 5
    held: int = 5000
    peer_jobs: int = 2000


QUICK = Sizes(samples=30, jobs=300, at_once=200, clients=200, seconds=2, held=500, peer_jobs=300)

Part = Callable[[argparse.Namespace, Sizes, Mapping[str, Result]], Awaitable[Result]]


def say(text: str) -> None:
    """What goes on, on stderr: stdout has the page."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _ours(done: Mapping[str, Result]) -> float | None:
    found = done.get("throughput")
    return found.numbers.get("sustained jobs/s") if found is not None else None


PARTS: Mapping[str, Part] = {
    "started": lambda given, sizes, _: started.run(given.home, sizes.samples),
    "throughput": lambda given, sizes, _: throughput.run(given.home, sizes.jobs),
    "accepted": lambda given, sizes, _: throughput.accepted_at_once(given.home, sizes.at_once),
    "sse": lambda given, sizes, _: streams.run(given.home, sizes.clients, sizes.seconds, sizes.held),
    "peers": lambda given, sizes, done: measuring.run(given.home, sizes.peer_jobs, _ours(done), say),
}


async def measure(given: argparse.Namespace, sizes: Sizes) -> list[Result]:
    """Run the parts one after another; one that fails has its problem in its result, and the others go on."""
    done: dict[str, Result] = {}
    for name in given.only or PARTS:
        say(f"{name} …")
        began = time.monotonic()
        try:
            async with asyncio.timeout(PART_TIMEOUT):
                done[name] = await PARTS[name](given, sizes, done)
        except Exception as error:  # noqa: BLE001 - whatever went wrong stands in place of the numbers
            done[name] = Result(name, name, problem=str(error) or repr(error))
        found = done[name]
        say(
            f"{name} took {time.monotonic() - began:.0f} s"
            + (f", NOT MEASURED: {found.problem}" if found.problem else "")
        )
    return list(done.values())


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; `record` is where to write it, None for nowhere."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works; not recorded")
    parser.add_argument(
        "--only", type=_parts, default=(), metavar="PART,…", help=f"of {', '.join(PARTS)}; not recorded"
    )
    parser.add_argument("--jobs", type=int, help="whole jobs of the throughput part")
    parser.add_argument("--home", type=Path, help="where servers and files lie meanwhile (default: a temporary folder)")
    parser.add_argument(
        "--record", type=Path, help=f"where to write the results (a full run: {RECORDS.relative_to(ROOT)})"
    )
    given = parser.parse_args(words)
    if given.record is None and not (given.quick or given.only or given.jobs):
        given.record = RECORDS
    return given


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return names


def sizes_of(given: argparse.Namespace) -> Sizes:
    """How much is to be measured."""
    sizes = QUICK if given.quick else Sizes()
    return sizes if given.jobs is None else replace(sizes, jobs=given.jobs)


def main() -> int:
    """Measure, print, record; 1 when a part could not be measured."""
    given = arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if given.home is not None:
        given.home.mkdir(parents=True, exist_ok=True)
    about = machine.describe(given.home or Path(tempfile.gettempdir()))
    results = asyncio.run(measure(given, sizes_of(given)))
    print(page.markdown(about, results))
    if given.record is not None:
        page.record(given.record, about, results)
        say(f"recorded in {given.record}")
    return int(any(result.problem is not None for result in results))


if __name__ == "__main__":
    sys.exit(main())
