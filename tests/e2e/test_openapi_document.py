"""What docs/openapi.json says is what the gateway does: schemathesis looks for anything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.stacks import NOOP_MODELS, PROGRAMS, QUICK, Product, product

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CONFIG = Path(__file__).with_name("schemathesis.toml")
LEFT_OUT = "events$|queue/pause$"
"""Paths whose answers never end, which tests/gateway/test_events.py reads; and the one that stops all jobs."""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home, and a token made for it."""
    home = tmp_path_factory.mktemp("guarded")
    command = [str(PROGRAMS / "anime"), "token", "create", "tester", "--scope", "admin"]
    made = subprocess.run(
        command, env={**os.environ, "ANIME_HOME": str(home)}, capture_output=True, text=True, check=True
    )
    return home, made.stdout.strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(token: tuple[Path, str]) -> AsyncIterator[Product]:
    """A product that wants a token, and takes wrong ones for as long as they come."""
    home, _ = token
    models = home / "models.toml"
    models.write_text(NOOP_MODELS)
    gateway = {"ANIME_GATEWAY_REQUIRE_TOKENS": "true", "ANIME_GATEWAY_FAILURE_BURST": "100000"}
    env = {"*": QUICK, "generator": {"ANIME_MODELS": str(models)}, "gateway": gateway}
    async with product(home, env) as found:
        yield found


async def test_nothing_is_found(guarded: Product, token: tuple[Path, str]) -> None:
    url = f"{guarded.stack.url}/api/anime/openapi.json"
    options = ["--checks", "all", "--exclude-path-regex", LEFT_OUT, "--request-timeout", "20", "--no-color"]
    header = f"Authorization: Bearer {token[1]}"
    ran = await guarded.run(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", url, "-H", header, *options)
    )
    found = ran.out[ran.out.find("= ERRORS =") :] if "= ERRORS =" in ran.out else ran.out
    assert ran.status == 0, found[:20_000] + ran.err
    cases = re.search(r"(\d+) generated, (\d+) passed", ran.out)
    assert cases is not None, ran.out
    assert cases[1] == cases[2]
    assert int(cases[1]) > 500
