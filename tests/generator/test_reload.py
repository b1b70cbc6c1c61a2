"""The registry is changed while the service works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from anime_cli.nats_server import NatsServer
from anime_common.contracts.generator import Heartbeat
from anime_common.messages import uuid7
from anime_common.service import Runtime
from tests.generator.builders import offered, write_registry
from tests.generator.conftest import NOOP, Ledger, working
from tests.generator.test_registry import LORAS, lora
from tests.generator.test_service import at_step, held_at
from tests.waiting import eventually

SECOND = NOOP.replace("models.noop", "models.second")


@pytest.fixture
async def generator(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> AsyncIterator[Runtime[Any]]:
    lora(tmp_path)
    async with working(nats, ledger, tmp_path, models_poll=0.05) as runtime:
        yield runtime


def keys(heartbeat: Heartbeat) -> set[str]:
    return {model.key for model in heartbeat.models}


async def announced(ledger: Ledger, *expected: str) -> None:
    await eventually(lambda: keys(ledger.last) == set(expected), within=15)


async def test_a_model_that_is_added_is_announced_and_draws(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    incarnation = ledger.last.incarnation
    write_registry(tmp_path, NOOP, SECOND.replace("[models.second]", "[models.second]\npreload = true"))
    await announced(ledger, "noop", "second")
    await eventually(lambda: "second" in ledger.last.resident, within=15)
    job = offered(model="second")
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    assert ledger.last.incarnation == incarnation


async def test_a_broken_file_changes_nothing_but_what_is_said(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    assert ledger.last.warnings == ()
    write_registry(tmp_path, NOOP, SECOND, "[models.third]\nengine = 3\n")
    await eventually(lambda: bool(ledger.last.warnings), within=15)
    assert "models.third.engine: Input should be a valid string" in "\n".join(ledger.last.warnings)
    assert keys(ledger.last) == {"noop"}
    job = offered()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    write_registry(tmp_path, NOOP, SECOND)
    await announced(ledger, "noop", "second")
    assert ledger.last.warnings == ()


async def test_a_model_that_is_taken_away_ends_its_run_and_gives_back_what_waits(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    write_registry(tmp_path, NOOP, SECOND)
    await announced(ledger, "noop", "second")
    running, hold = held_at(tmp_path, model="second")
    waiting = offered(model="second")
    await ledger.offer(running)
    await eventually(at_step(ledger, running, 1), within=15)
    await ledger.offer(waiting)
    await eventually(lambda: waiting.attempt_id in ledger.held(), within=15)
    write_registry(tmp_path, NOOP)
    await announced(ledger, "noop")
    hold.unlink()
    await ledger.sees(running, "started", "finished")
    await ledger.sees(waiting, "released")
    await eventually(lambda: "second" not in ledger.last.resident, within=15)


async def test_what_lies_in_memory_is_given_up_only_when_it_would_be_loaded_otherwise(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    job = offered()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    await eventually(lambda: "noop" in ledger.last.resident, within=15)
    began = len(ledger.beats)
    write_registry(tmp_path, NOOP.replace("batch_limit = 4", "batch_limit = 2"))
    await eventually(lambda: ledger.last.batch_limit == 2, within=15)
    write_registry(tmp_path, NOOP.replace("maximum = 512", "maximum = 256"))
    await eventually(lambda: any(model.sizes.maximum == 256 for model in ledger.last.models), within=15)
    assert all("noop" in beat.resident for beat in ledger.beats[began:])
    write_registry(tmp_path, NOOP, "[models.noop.options]\nstep_ms = 1\n")
    await eventually(lambda: "noop" not in ledger.last.resident, within=15)


async def test_a_job_for_a_model_that_never_was_is_given_back(generator: Runtime[Any], ledger: Ledger) -> None:
    job = offered(model="gone")
    await ledger.offer(job)
    await ledger.sees(job, "released")


async def test_many_loras_are_told_once_an_interval_and_the_ledger_puts_them_together(
    nats: NatsServer, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    lora(tmp_path / "models")
    tables = NOOP.replace("[models.noop]", '[models.noop]\nfamily = "sd15"', 1)
    models = write_registry(tmp_path / "models", tables, LORAS)
    async with working(nats, ledger, tmp_path, models=models, heartbeat=5.0):
        whole = next(beat for beat in ledger.beats if not beat.brief)
        assert [each.key for each in whole.loras] == ["style"]
        (info,) = next(beat for beat in ledger.beats if beat.models and not beat.brief).catalogue()
        assert [each.trigger_words for each in info.loras] == [("ink style", "hatching")]
        job = offered()
        await ledger.offer(job)
        await ledger.sees(job, "started", "finished")
        await eventually(lambda: ledger.last.brief, within=15)
        assert ledger.last.loras == ()
        assert ledger.last.completed(whole).loras == whole.loras
        stranger = whole.model_copy(update={"incarnation": uuid7()})
        assert ledger.last.completed(stranger).brief
