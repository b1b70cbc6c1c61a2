"""A product to be broken: its clocks run fast, and its parts can be armed, frozen and killed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stacks import NOOP_MODELS, QUICK, Product, product


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def faulty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Product]:
    """A product of the fault tests' own, with an engine that draws nothing."""
    home = tmp_path_factory.mktemp("faulty")
    models = home / "models.toml"
    models.write_text(NOOP_MODELS)
    async with product(home, {"*": QUICK, "generator": {"ANIME_MODELS": str(models)}}) as found:
        yield found
