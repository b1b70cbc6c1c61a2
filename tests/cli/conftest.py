"""The command against a fake gateway."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from anime_cli import api, files, generate, jobs, models, projects, system, upload, upscale
from anime_cli.main import app
from tests.cli.fake_gateway import URL, FakeGateway

Anime = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, on which no stack runs."""
    import os

    for name in [name for name in os.environ if name.startswith("ANIME_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANIME_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    structlog.reset_defaults()


@pytest.fixture
def gateway(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    fake = FakeGateway()
    connect = functools.partial(api.connect, transport=fake.transport)
    for module in (files, generate, jobs, models, projects, system, upload, upscale):
        monkeypatch.setattr(module, "connect", connect)
    monkeypatch.setenv("ANIME_URL", URL)
    monkeypatch.setattr(api, "PAUSE", 0.0)
    return fake


@pytest.fixture
def anime(home: Path) -> Anime:
    """Runs the command: `anime("jobs", "--json")`."""
    runner = CliRunner()

    def call(*arguments: str) -> Result:
        return runner.invoke(app, list(arguments), catch_exceptions=False)

    return call
