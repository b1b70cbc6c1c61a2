"""The doctor: what it sees of a healthy machine and of several sick ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anime_cli import local_checks, remote_checks
from anime_cli.errors import ExitStatus
from anime_cli.findings import Patient, Verdict, patient
from anime_cli.nats_server import NatsServer
from anime_cli.postgres import PostgresServer
from anime_cli.settings import ClientSettings, StackSettings
from tests.cli.conftest import Anime

NOBODY = "http://127.0.0.1:9"


def examined(home: Path, **settings: object) -> Patient:
    client = ClientSettings(home=home, models=settings.pop("models", None))  # type: ignore[arg-type]
    return patient(StackSettings(home=home, **settings), client, NOBODY)  # type: ignore[arg-type]


def test_a_machine_on_which_nothing_runs(anime: Anime, home: Path) -> None:
    result = anime("doctor", "--url", NOBODY)
    assert result.exit_code == ExitStatus.FAILED
    assert f"wrong gateway: {NOBODY} does not answer" in result.stdout
    assert "→ start the stack with `anime up`" in result.stdout
    found = json.loads(anime("doctor", "--url", NOBODY, "--json").stdout)
    assert found["ok"] is False
    wrong = [one["about"] for one in found["findings"] if one["verdict"] == "wrong"]
    assert wrong == ["gateway"]
    assert {"python", "packages", "programs", "models"} <= {one["about"] for one in found["findings"]}


def test_secrets_that_others_may_read(home: Path) -> None:
    (home / "secrets").mkdir(parents=True, mode=0o755)
    found = {one.about: one for one in local_checks.home(examined(home))}
    assert found["secrets"].verdict is Verdict.WRONG
    (home / "secrets").chmod(0o700)
    assert "secrets" not in {one.about for one in local_checks.home(examined(home))}


def test_the_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "artifacts").mkdir(parents=True)
    for free, verdict in ((50 << 30, Verdict.OK), (1 << 30, Verdict.NOTE), (1 << 20, Verdict.WRONG)):
        monkeypatch.setattr(local_checks.shutil, "disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))  # type: ignore[attr-defined]
        (one,) = local_checks.artifacts(examined(home))
        assert one.verdict is verdict
    assert list((home / "artifacts").iterdir()) == []


def test_a_model_whose_files_are_missing(home: Path) -> None:
    home.mkdir()
    registry = home / "models.toml"
    registry.write_text('[models.mine]\nsource = "mine.safetensors"\ndefaults = {width = 64, height = 64, steps = 9}\n')
    found = {one.detail.partition(":")[0]: one for one in local_checks.models(registry)}
    assert found["models.mine.source"].verdict is Verdict.WRONG
    assert str(home / "mine.safetensors") in found["models.mine.source"].detail
    assert found["sprite"].verdict is Verdict.OK
    registry.write_text("")
    assert all(one.verdict is Verdict.OK for one in local_checks.models(registry))
    registry.write_text("models = [")
    assert Verdict.WRONG in {one.verdict for one in local_checks.models(registry)}


def test_a_card_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_checks.shutil, "which", lambda name: f"/usr/bin/{name}")  # type: ignore[attr-defined]
    monkeypatch.setattr(local_checks, "_version", lambda name: "2.13.0+cpu")
    (one,) = local_checks.card()
    assert (one.verdict, one.mend) == (Verdict.WRONG, "make setup TORCH=cuda")


async def test_nats(nats: NatsServer, home: Path) -> None:
    (one,) = await remote_checks.nats(examined(home, nats_url=nats.url))
    assert one.verdict is Verdict.OK
    assert "nats-server 2." in one.detail
    await nats.stop()
    (one,) = await remote_checks.nats(examined(home, nats_url=nats.url))
    assert one.verdict is Verdict.WRONG


async def test_something_else_on_the_port_of_nats(postgres_server: PostgresServer, home: Path) -> None:
    url = f"nats://127.0.0.1:{postgres_server.port}"
    (one,) = await remote_checks.nats(examined(home, nats_url=url))
    assert one.verdict is Verdict.WRONG


async def test_postgres(postgres_server: PostgresServer, home: Path) -> None:
    file = postgres_server.password_file
    (one,) = await remote_checks.postgres(examined(home, postgres_dsn=postgres_server.dsn, postgres_password_file=file))
    assert one.verdict is Verdict.OK
    assert "PostgreSQL 18" in one.detail
    (one,) = await remote_checks.postgres(examined(home, postgres_dsn=postgres_server.dsn.replace("@", ":wrong@")))
    assert one.verdict is Verdict.WRONG
    assert "wrong" not in one.detail.replace("wrong password", ""), "passwords are never shown"
