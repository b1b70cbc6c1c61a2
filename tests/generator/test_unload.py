"""`anime unload` against a real server and a real generator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from anime_cli.errors import ExitStatus
from anime_cli.nats_server import NatsServer
from anime_common.service import Runtime
from tests.generator.builders import offered
from tests.generator.conftest import Ledger
from tests.stacks import anime_on
from tests.waiting import eventually


async def anime(nats: NatsServer, *arguments: str) -> tuple[int, Any, str]:
    """Run `anime unload`; the exit status, its JSON, and what it said on stderr."""
    return await anime_on(nats, "unload", *arguments)


async def test_a_generator_gives_up_what_it_is_told_to(
    generator: Runtime[Any], ledger: Ledger, nats: NatsServer
) -> None:
    job = offered()
    await ledger.offer(job)
    await eventually(lambda: ledger.last.resident == ("noop",))
    assert await anime(nats, "--generator", "tower", "another") == (0, {}, "")
    assert ledger.last.resident == ("noop",)
    status, found, _ = await anime(nats, "noop", "--generator", "tower")
    assert (status, found) == (0, {"tower": {"given_up": ["noop"], "still_held": []}})
    await eventually(lambda: not ledger.last.resident)


async def test_a_run_in_hand_is_finished_first(
    generator: Runtime[Any], ledger: Ledger, nats: NatsServer, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    job = offered(prompt=f"noop: hold_at=2 hold={hold}")
    await ledger.offer(job)
    await eventually(lambda: any(each.step == 1 for each in ledger.of(job)))
    await eventually(lambda: ledger.last.resident == ("noop",))
    unloading = asyncio.create_task(anime(nats, "--generator", "tower"))
    # The order is sent while the run is held, and obeyed after it.
    await eventually(lambda: any(each.order.action == "unload" for each in ledger.orders), within=30)
    assert ledger.last.resident == ("noop",)
    hold.unlink()
    assert (await unloading)[:2] == (0, {"tower": {"given_up": ["noop"], "still_held": []}})
    await ledger.sees(job, "started", "finished")


async def test_a_generator_that_is_not_there_is_said_to_be(ledger: Ledger, nats: NatsServer) -> None:
    status, _, said = await anime(nats, "--generator", "nobody")
    assert status == ExitStatus.NOT_FOUND
    assert "no generator 'nobody' is heard" in said
