"""Many no-op jobs while services, broker and database are killed and frozen at random; all must add up in the end.

`python -m tests.faults.chaos --jobs 2000 --seed 7` runs it on a stack of its own and prints the oracle's report.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from tests.faults.breaking import frozen, taken
from tests.faults.oracle import Report
from tests.stacks import NOOP_MODELS, QUICK, Product, product

PARTS = ("jobs", "generator", "files", "gateway", "nats", "postgres")
AT_ONCE = 24
"""Clients that submit side by side."""
PAUSE = (0.3, 1.5)
FREEZE = (0.2, 4.5)
"""Seconds between two blows, and how long a part stands still: some longer than the loss time of a worker."""


@dataclass(slots=True)
class Chaos:
    """One run: what was done to whom, and what the clients were promised."""

    product: Product
    jobs: int
    seed: int
    blows: list[str] = field(default_factory=list)
    promised: list[str] = field(default_factory=list)

    async def run(self, within: float) -> Report:
        """Submit all jobs amid the blows, let everything come back, and audit; fails when it does not add up."""
        deadline = time.monotonic() + within
        breaking = asyncio.create_task(self._break())
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + within):
                await self._submit(within)
                await self._until_most_have_ended()
        finally:
            breaking.cancel()
            with suppress(asyncio.CancelledError):
                await breaking
        assert len(set(self.promised)) == self.jobs
        left = max(deadline - time.monotonic(), 30.0)
        report = await self.product.audit(accepted=self.promised, dead=0, within=left)
        assert report.completed + report.ended.get("failed", 0) == report.accepted
        return report

    async def _submit(self, within: float) -> None:
        left = iter(range(self.jobs))

        async def client() -> None:
            for _ in left:
                self.promised.append(await taken(self.product, within=within))

        await asyncio.gather(*(client() for _ in range(min(AT_ONCE, self.jobs))))

    async def _until_most_have_ended(self) -> None:
        """The blows go on until nine of ten jobs have ended; the rest ends in peace."""
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                row = await self.product.row(
                    "SELECT count(*) AS n FROM ledger.jobs WHERE id::text = ANY($1) AND ended_at IS NOT NULL",
                    self.promised,
                )
                if row["n"] >= 0.9 * self.jobs:
                    return
            await asyncio.sleep(0.2)

    async def _break(self) -> None:
        chance = random.Random(self.seed)
        while True:
            await asyncio.sleep(chance.uniform(*PAUSE))
            part, kill, pause = chance.choice(PARTS), chance.random() < 0.6, chance.uniform(*FREEZE)
            if part not in self.product.stack.pids:
                continue
            if kill:
                self.blows.append(f"{part} killed")
                self.product.stack.kill(part, signal.SIGKILL)
            else:
                self.blows.append(f"{part} frozen for {pause:.1f} s")
                async with frozen(self.product, part):
                    await asyncio.sleep(pause)


async def _main(jobs: int, seed: int, within: float) -> int:
    with tempfile.TemporaryDirectory(prefix="anime-chaos-") as folder:
        home = Path(folder)
        models = home / "models.toml"
        models.write_text(NOOP_MODELS.replace("step_ms = 10", "step_ms = 1"))
        async with product(home, {"*": QUICK, "generator": {"ANIME_MODELS": str(models)}}) as found:
            chaos = Chaos(found, jobs, seed)
            began = time.monotonic()
            try:
                report = await chaos.run(within)
            except (AssertionError, TimeoutError) as error:
                print(f"{error}\n{chaos.blows}\nseed {seed}: it does not add up", file=sys.stderr)
                return 1
            took = time.monotonic() - began
            print(f"{report}\n{len(chaos.blows)} blows in {took:.0f} s, seed {seed}: all adds up")
    return 0


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--within", type=float, default=900.0, help="seconds after which it has failed")
    given = parser.parse_args()
    print(f"{given.jobs} jobs, seed {given.seed}", flush=True)
    return asyncio.run(_main(given.jobs, given.seed, given.within))


if __name__ == "__main__":
    sys.exit(main())
