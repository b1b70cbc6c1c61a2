"""procrastinate with a job that does nothing; runs in the peers' own environment, on the database of the PG* variables.

`prepare` makes its tables, `submit N` defers N jobs and tells how long that took, `work CONCURRENCY` runs a worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector

AT_ONCE = 64
POOL = 10

app = App(connector=PsycopgConnector(min_size=POOL, max_size=POOL))


async def nothing() -> None:
    """The no-op job."""


task = app.task(name="nothing")(nothing)


async def submit(jobs: int) -> None:
    left = iter(range(jobs))

    async def one_after_another() -> None:
        for _ in left:
            await task.defer_async()

    began = time.time()
    await asyncio.gather(*(one_after_another() for _ in range(min(AT_ONCE, jobs))))
    print(json.dumps({"began": began, "seconds": time.time() - began}))


async def main(what: str, number: int) -> None:
    async with app.open_async():
        match what:
            case "prepare":
                await app.schema_manager.apply_schema_async()
            case "submit":
                await submit(number)
            case "work":
                await app.run_worker_async(concurrency=number)
            case _:
                sys.exit(f"cannot {what}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
