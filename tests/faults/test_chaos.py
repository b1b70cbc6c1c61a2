"""The short form of `make test-chaos`."""

from __future__ import annotations

import secrets

import pytest

from tests.faults.chaos import Chaos
from tests.stacks import Product

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


async def test_all_adds_up_amid_random_blows(faulty: Product) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    chaos = Chaos(faulty, 80, seed)
    report = await chaos.run(within=180)
    print(f"{chaos.blows}\n{report}")
    assert chaos.blows
