"""The service's side of the engine process, against real processes that are told to misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase
from anime_generator import wire
from anime_generator.engine_host import EngineHost, EngineUnusable, HostOptions
from anime_generator.hearing import Heard
from anime_generator.metadata import read_png
from anime_generator.registry import ModelSpec
from anime_generator.watchdog import Patience
from tests.generator.builders import noop_spec, offered, sprite_spec
from tests.waiting import eventually

pytestmark = pytest.mark.slow

QUICK = Patience(start=60, load=60, step=60, floor=0.3, factor=20)


@asynccontextmanager
async def hosted(
    *specs: ModelSpec, patience: Patience = QUICK, device: str = "cpu", **memory: Any
) -> AsyncIterator[EngineHost]:
    models = specs or (noop_spec(),)
    config = wire.Configure(
        device=device,
        device_id=None,
        models=models,
        embedding_cache=1 << 20,
        preview_every=3,
        preview_size=256,
        memory=wire.MemoryRules(look_every=0.02, **memory),
    )
    preload = tuple(spec.key for spec in models if spec.preload)
    host = EngineHost(HostOptions(config, preload, dict(os.environ), patience, restart_delay=0.01), lambda: None)
    serving = asyncio.create_task(host.serve())
    try:
        yield host
    finally:
        await host.close()
        await serving


async def run(host: EngineHost, *jobs: OfferedJob, on: Callable[[Heard], None] | None = None) -> list[Heard]:
    found: list[Heard] = []
    async with asyncio.timeout(60):
        async for heard in host.draw(jobs):
            found.append(heard)
            if on is not None:
                on(heard)
    return found


def ends(heard: list[Heard]) -> dict[UUID, wire.Ended]:
    found = {each.report.attempt_id: each.report for each in heard if isinstance(each.report, wire.Ended)}
    assert len(found) == sum(isinstance(each.report, wire.Ended) for each in heard)
    return found


def pid_of(host: EngineHost) -> int:
    assert host.pid is not None
    return host.pid


async def test_a_run_reports_phases_steps_previews_and_pictures() -> None:
    job = offered(steps=4, count=2, seed=5)
    async with hosted() as host:
        heard = await run(host, job)
        assert host.resident == ("noop",)
    reports = [each.report for each in heard]
    began = [report.phase for report in reports if isinstance(report, wire.Began)]
    assert began == [Phase.LOADING, Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]
    assert [report.step for report in reports if isinstance(report, wire.Stepped)] == [1, 2, 3, 4]
    painted = [(each.report, each.blob) for each in heard if isinstance(each.report, wire.Painted)]
    assert [(report.index, report.seed) for report, _ in painted] == [(0, 5), (1, 6)]
    record = read_png(painted[1][1])
    assert record is not None
    assert record["seed"] == 6
    assert record["attempt_id"] == str(job.attempt_id)
    [end] = ends(heard).values()
    assert end.outcome == "painted"
    assert end.timings.keys() >= {Phase.LOADING, Phase.ENCODING, Phase.SAMPLING, Phase.DECODING, Phase.SAVING}
    assert any(isinstance(each.report, wire.Preview) and each.blob for each in heard)


async def test_cancelling_a_member_of_a_run_leaves_the_other_alone(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    leaves, stays = offered(prompt=f"noop: hold_at=2 hold={hold}"), offered()

    async with hosted(noop_spec(options={"step_ms": 30})) as host:

        def on(heard: Heard) -> None:
            if isinstance(heard.report, wire.Stepped) and heard.report.step == 1:
                host.stop((leaves.attempt_id,))
                hold.unlink()

        found = ends(await run(host, leaves, stays, on=on))
    assert found[leaves.attempt_id].outcome == "cancelled"
    assert found[stays.attempt_id].outcome == "painted"


async def test_a_held_run_can_be_cancelled(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    job = offered(prompt=f"noop: hold_at=2 hold={hold}")

    async with hosted() as host:

        def on(heard: Heard) -> None:
            if isinstance(heard.report, wire.Stepped):
                host.stop((job.attempt_id,))

        heard = await run(host, job, on=on)
        again = await run(host, offered())
    assert ends(heard)[job.attempt_id].outcome == "cancelled"
    assert [end.outcome for end in ends(again).values()] == ["painted"]


async def test_a_crash_fails_the_run_as_retryable_and_the_process_is_replaced() -> None:
    job = offered(prompt="noop: crash_at=2")
    async with hosted() as host:
        end = ends(await run(host, job))[job.attempt_id]
        first = host.pid
        again = await run(host, offered())
        assert host.pid != first
        assert host.restarts == 1
    assert (end.outcome, end.code, end.retryable, end.lone) == ("failed", "engine_crashed", True, True)
    assert "status 70" in end.message
    assert [each.outcome for each in ends(again).values()] == ["painted"]


async def test_the_crash_of_a_group_is_laid_at_nobodys_door() -> None:
    async with hosted() as host:
        found = ends(await run(host, offered(prompt="noop: crash_at=1"), offered()))
    assert [(end.code, end.retryable, end.lone) for end in found.values()] == [("engine_crashed", True, False)] * 2


async def test_a_hung_process_is_told_from_a_slow_one_by_the_steps_before() -> None:
    slow, hung = offered(prompt="noop: step_ms=400", steps=3), offered(prompt="noop: hang_at=3")
    async with hosted() as host:
        # Each of its steps takes longer than the floor allows, as the ones before did: it is slow, not hung.
        assert [end.outcome for end in ends(await run(host, slow)).values()] == ["painted"]
        assert [end.outcome for end in ends(await run(host, slow)).values()] == ["painted"]
        assert host.restarts == 0
    async with hosted() as host:
        end = ends(await run(host, hung))[hung.attempt_id]
        again = await run(host, offered())
    assert (end.outcome, end.code, end.retryable) == ("failed", "engine_hung", True)
    assert [each.outcome for each in ends(again).values()] == ["painted"]


async def test_a_frozen_process_is_replaced() -> None:
    job = offered(steps=50, prompt="noop: step_ms=5")

    async with hosted() as host:

        def on(heard: Heard) -> None:
            if isinstance(heard.report, wire.Stepped) and heard.report.step == 3:
                os.kill(pid_of(host), signal.SIGSTOP)

        end = ends(await run(host, job, on=on))[job.attempt_id]
    assert end.code == "engine_hung"


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [("oom", "out_of_memory", False), ("retryable", "engine_error", True), ("permanent", "bad_settings", False)],
)
async def test_a_failure_keeps_the_process(fault: str, code: str, retryable: bool) -> None:
    job = offered(prompt=f"noop: fail={fault} fail_at=2")
    async with hosted() as host:
        end = ends(await run(host, job))[job.attempt_id]
        pid = host.pid
        await run(host, offered())
        assert host.pid == pid
    assert (end.outcome, end.code, end.retryable) == ("failed", code, retryable)


async def test_a_poisoned_process_is_replaced_after_its_failure() -> None:
    job = offered(prompt="noop: fail=poisoned")
    async with hosted() as host:
        end = ends(await run(host, job))[job.attempt_id]
        pid = host.pid
        assert [each.outcome for each in ends(await run(host, offered())).values()] == ["painted"]
        assert host.pid != pid
    assert (end.code, end.lone) == ("device_error", True)


async def test_settings_the_model_cannot_do_are_refused_one_by_one() -> None:
    wrong, right = offered(width=65, height=65), offered(width=65, height=64)
    good = offered()
    async with hosted() as host:
        found = ends(await run(host, wrong, right, good))
    assert found[wrong.attempt_id].code == "bad_settings"
    assert found[wrong.attempt_id].message == "width: noop needs a multiple of 8 pixels, not 65"
    assert found[right.attempt_id].retryable is False
    assert found[good.attempt_id].outcome == "painted"


async def test_models_are_evicted_least_recently_used_first_and_given_up_on_request() -> None:
    # 85 % of 100 MiB holds two models of 40 MiB.
    specs = [noop_spec(key, memory=40 << 20) for key in ("one", "two", "three")]
    async with hosted(*specs, device="simulated:100") as host:
        for key in ("one", "two", "one", "three"):
            await run(host, offered(model=key))
        assert list(host.resident) == ["one", "three"]
        assert [host.tier(key) for key in ("one", "two", "three", "four")] == ["device", "host", "device", None]
        host.give_up(None)
        await run(host, offered(model="two"))
        assert list(host.resident) == ["two"]
        told = {each.key: each for each in host.residency}
        assert (told["one"].tier, told["one"].reason) == (None, "given up: as ordered")
        assert (told["two"].bytes, told["two"].measured, told["two"].reason) == (40 << 20, True, "drew the last job")


async def test_idle_models_yield_to_another_program_and_come_back(tmp_path: Path) -> None:
    script = tmp_path / "card.json"
    specs = [noop_spec("one", memory=40 << 20).model_copy(update={"preload": True}), noop_spec("two", memory=40 << 20)]
    async with hosted(*specs, device=f"simulated:100:{script}", calm=0.05) as host:
        await eventually(lambda: host.resident == ("one",))
        await run(host, offered(model="two"))
        script.write_text('{"others_mb": 58}')
        await eventually(lambda: host.resident == ())
        assert host.device is not None
        assert host.device.memory_free == 42 << 20
        assert host.residency[-1].reason.startswith("given up: another program took")
        script.write_text('{"others_mb": 5}')
        await eventually(lambda: host.resident == ("one",))
        assert host.restarts == 0


async def test_a_limit_that_memory_has_shown_is_told(tmp_path: Path) -> None:
    script = tmp_path / "card.json"
    script.write_text('{"faults": [{"phase": "sampling", "step": 2, "over": 1, "times": 0}]}')
    async with hosted(device=f"simulated:100:{script}") as host:
        found = ends(await run(host, offered(), offered()))
        assert [end.outcome for end in found.values()] == ["painted", "painted"]
        assert host.batch_limits == {"noop": 1}


async def test_a_lost_context_replaces_the_process(tmp_path: Path) -> None:
    script = tmp_path / "card.json"
    script.write_text('{"faults": [{"phase": "sampling", "step": 2, "kind": "context"}]}')
    job = offered()

    def mend(heard: Heard) -> None:
        if isinstance(heard.report, wire.Ended):
            script.unlink()

    async with hosted(device=f"simulated:100:{script}") as host:
        end = ends(await run(host, job, on=mend))[job.attempt_id]
        assert (end.code, end.retryable) == ("device_error", True)
        again = ends(await run(host, offered()))
        assert [each.outcome for each in again.values()] == ["painted"]
        assert host.restarts == 1


async def test_a_load_that_hangs_is_told_from_one_of_many_bytes(tmp_path: Path) -> None:
    patience = Patience(start=60, load=0.3, load_rate=100 << 20, step=60, floor=0.3)
    large = noop_spec("large", memory=150 << 20, options={"load_ms": 900})
    hung = noop_spec("hung", memory=1 << 20, options={"load_ms": 60_000})
    async with hosted(large, hung, device="simulated:1000", patience=patience) as host:
        first, second = offered(model="large"), offered(model="hung")
        assert ends(await run(host, first))[first.attempt_id].outcome == "painted"
        assert ends(await run(host, second))[second.attempt_id].code == "engine_hung"


async def test_the_process_dies_with_the_service_and_ignores_its_signals() -> None:
    async with hosted() as host:
        await run(host, offered())
        pid = pid_of(host)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        await run(host, offered())
        assert host.pid == pid
        assert os.getsid(pid) != os.getsid(0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_unusable_device_ends_the_service() -> None:
    config = wire.Configure(
        device="cuda:99",
        device_id=None,
        models=(noop_spec(),),
        embedding_cache=0,
        preview_every=3,
        preview_size=256,
    )
    host = EngineHost(HostOptions(config, (), dict(os.environ)), lambda: None)
    with pytest.raises(EngineUnusable):
        async with asyncio.timeout(60):
            await host.serve()


async def test_a_run_does_not_wait_for_ever_for_a_process_that_does_not_start() -> None:
    config = wire.Configure(
        device="cpu", device_id=None, models=(noop_spec(),), embedding_cache=0, preview_every=3, preview_size=256
    )
    host = EngineHost(HostOptions(config, (), dict(os.environ), Patience(start=0.05)), lambda: None)
    job = offered()
    end = ends(await run(host, job))[job.attempt_id]
    assert (end.code, end.retryable, end.lone) == ("engine_unavailable", True, False)


async def test_the_real_model_is_preloaded_and_draws() -> None:
    spec = sprite_spec()
    async with hosted(spec) as host:
        await eventually(lambda: host.resident == ("sprite",), within=90)
        heard = await run(host, offered(model="sprite", width=128, height=128, steps=6))
    assert [end.outcome for end in ends(heard).values()] == ["painted"]
    [picture] = [each.blob for each in heard if isinstance(each.report, wire.Painted)]
    record = read_png(picture)
    assert record is not None
    assert record["settings"]["steps"] == 6


async def test_a_run_for_a_model_that_has_left_the_registry_may_be_tried_elsewhere() -> None:
    job = offered(model="gone")
    async with hosted() as host:
        end = ends(await run(host, job))[job.attempt_id]
    assert (end.code, end.retryable) == ("model_unavailable", True)


async def test_a_changed_registry_is_taken_between_runs_and_by_the_next_process() -> None:
    first, second = noop_spec(), noop_spec("second")
    async with hosted(first) as host:
        await host.wait_usable()
        host.reconfigure((second,), ("second",))
        assert host.models == ()  # what is gone is not announced a moment longer
        await eventually(lambda: [model.key for model in host.models] == ["second"], within=15)
        await eventually(lambda: host.resident == ("second",), within=15)
        pid = host.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: host.pid != pid and host.resident == ("second",), within=30)
        assert [each.outcome for each in ends(await run(host, offered(model="second"))).values()] == ["painted"]
