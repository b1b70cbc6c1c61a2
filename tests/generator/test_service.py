"""The whole service on a real NATS server: offers in, facts, heartbeats, progress and pictures out."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anime_cli.nats_server import NatsServer
from anime_common.artifacts import Artifacts, staging_key
from anime_common.contracts.generator import (
    AbandonAttempt,
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
    CancelAttempt,
    Drain,
    Heartbeat,
    OfferedJob,
    Renew,
    UnloadModel,
)
from anime_common.contracts.vocabulary import Phase
from anime_common.messages import uuid7
from anime_common.outcomes import Unavailable
from anime_common.service import Runtime
from anime_common.topology import FACTS
from anime_generator.metadata import read_png
from tests.generator.builders import offered, write_registry
from tests.generator.conftest import NOOP, Ledger, working
from tests.waiting import eventually


def held_at(tmp_path: Path, step: int = 2, **changes: Any) -> tuple[OfferedJob, Path]:
    """A job that is held at a step until its file is removed."""
    hold = tmp_path / f"hold-{uuid7()}"
    hold.touch()
    return offered(prompt=f"noop: hold_at={step} hold={hold}", **changes), hold


def at_step(ledger: Ledger, job: OfferedJob, step: int) -> Callable[[], bool]:
    return lambda: any(each.step == step for each in ledger.of(job))


async def test_an_offer_becomes_pictures_facts_and_honest_progress(
    generator: Runtime[Any], ledger: Ledger, artifacts: Artifacts
) -> None:
    job = offered(count=2, seed=40, steps=4, prompt="noop: step_ms=160")
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    started, finished = await ledger.facts(job)
    assert isinstance(started, AttemptStarted)
    assert isinstance(finished, AttemptFinished)
    assert (finished.worker, finished.incarnation, finished.epoch) == ("tower", ledger.last.incarnation, 1)
    assert (finished.engine, finished.settings) == ("noop", job.settings)
    assert set(finished.timings) == set(Phase) - {Phase.UPSCALING}
    assert [(each.index, each.seed) for each in finished.outputs] == [(0, 40), (1, 41)]
    for output in finished.outputs:
        data = await artifacts.get(staging_key(job.job_id, job.attempt_id, output.index, output.media_type))
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (output.sha256, output.size)
        record = read_png(data)
        assert record is not None
        assert (record["job_id"], record["seed"]) == (str(job.job_id), output.seed)
    seen = ledger.of(job)
    assert list(dict.fromkeys(each.phase for each in seen)) == [
        Phase.LOADING,
        Phase.ENCODING,
        Phase.SAMPLING,
        Phase.DECODING,
        Phase.SAVING,
    ]
    percents = [each.percent for each in seen]
    assert percents == sorted(percents)
    assert percents[-1] <= 99
    assert [each.step for each in seen if each.phase is Phase.SAMPLING and each.step] == [1, 2, 3, 4]
    assert ledger.previews[0].subject == f"anime.tel.preview.{job.job_id}.{job.attempt_id}"
    assert ledger.previews[0].data.startswith(b"\xff\xd8")
    # Its fact is confirmed: it is listed no more, and the heartbeat names where the fact lies.
    await eventually(lambda: not ledger.held())
    state = await ledger.bus.stream_state(FACTS)
    position = ledger.last.last_fact
    assert position is not None
    assert (position.stream_created, position.sequence) == (state.created, state.last)


async def test_progress_is_held_at_the_step_that_is_held(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    job, hold = held_at(tmp_path, step=3, steps=4)
    await ledger.offer(job)
    await eventually(at_step(ledger, job, 2))
    await eventually(lambda: job.attempt_id in ledger.held() and ledger.held()[job.attempt_id].step == 2)
    held = ledger.held()[job.attempt_id]
    assert held.started
    assert not held.ended
    assert 0 < held.percent < 60
    assert ledger.last.free_slots == 0
    hold.unlink()
    await ledger.sees(job, "started", "finished")
    await eventually(lambda: ledger.last.free_slots == 1)


async def test_a_waiting_offer_is_listed_at_once_and_runs_next(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    first, hold = held_at(tmp_path)
    await ledger.offer(first)
    await eventually(at_step(ledger, first, 1))
    second = offered()
    await ledger.offer(second)
    await eventually(lambda: second.attempt_id in ledger.held())
    assert not ledger.held()[second.attempt_id].started
    hold.unlink()
    await ledger.sees(first, "started", "finished")
    await ledger.sees(second, "started", "finished")


async def test_repeats_and_offers_to_others_change_nothing(generator: Runtime[Any], ledger: Ledger) -> None:
    job, foreign = offered(), offered()
    made = await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    await ledger.send(made.model_copy(update={"repeat": 1}))
    await ledger.offer(foreign, incarnation=uuid7())
    last = offered()
    await ledger.offer(last)
    await ledger.sees(last, "started", "finished")
    assert await ledger.kinds(job) == ["started", "finished"]
    assert await ledger.kinds(foreign) == []


async def test_a_running_attempt_is_cancelled_between_two_steps(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    # Five pictures in passes of four: the first four are done when the fifth is held.
    job, hold = held_at(tmp_path, step=2, count=5)
    hold.unlink()
    slow = job.model_copy(update={"settings": job.settings.model_copy(update={"prompt": "noop: step_ms=150"})})
    await ledger.offer(slow)
    await eventually(lambda: any(each.image == 4 for each in ledger.of(slow)), within=20)
    await ledger.order(CancelAttempt(job_id=slow.job_id, attempt_id=slow.attempt_id))
    await ledger.sees(slow, "started", "cancelled")
    _, cancelled = await ledger.facts(slow)
    assert isinstance(cancelled, AttemptCancelled)
    assert [output.index for output in cancelled.outputs] == [0, 1, 2, 3]
    await eventually(lambda: not ledger.held())


async def test_a_waiting_attempt_is_cancelled_without_a_start(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    first, hold = held_at(tmp_path)
    second = offered()
    await ledger.offer(first)
    await ledger.offer(second)
    await eventually(lambda: second.attempt_id in ledger.held())
    order = CancelAttempt(job_id=second.job_id, attempt_id=second.attempt_id)
    await ledger.order(order)
    await ledger.order(order)
    await ledger.sees(second, "cancelled")
    hold.unlink()
    await ledger.sees(first, "started", "finished")


async def test_an_abandoned_attempt_ends_without_a_word(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    job, _ = held_at(tmp_path)
    await ledger.offer(job)
    await eventually(at_step(ledger, job, 1))
    await ledger.order(AbandonAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
    await eventually(lambda: not ledger.held())
    after = offered()
    await ledger.offer(after)
    await ledger.sees(after, "started", "finished")
    assert await ledger.kinds(job) == ["started"]


async def test_renewing_drops_everything_and_takes_a_new_incarnation(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    running_job, _ = held_at(tmp_path)
    waiting = offered()
    await ledger.offer(running_job)
    await ledger.offer(waiting)
    await eventually(lambda: waiting.attempt_id in ledger.held() and at_step(ledger, running_job, 1)())
    old = ledger.last.incarnation
    await ledger.order(Renew(incarnation=uuid7()))
    await ledger.order(Renew(incarnation=old))
    await eventually(lambda: ledger.last.incarnation != old and not ledger.held())
    after = offered()
    await ledger.offer(after)
    await ledger.sees(after, "started", "finished")
    assert await ledger.kinds(waiting) == []


async def test_a_draining_worker_gives_back_what_waits_and_what_comes(
    generator: Runtime[Any], ledger: Ledger, tmp_path: Path
) -> None:
    first, hold = held_at(tmp_path)
    second, third = offered(), offered()
    await ledger.offer(first)
    await ledger.offer(second)
    await eventually(lambda: second.attempt_id in ledger.held() and at_step(ledger, first, 1)())
    await ledger.order(Drain())
    await ledger.sees(second, "released")
    await eventually(lambda: ledger.last.draining)
    await ledger.offer(third)
    await ledger.sees(third, "released")
    hold.unlink()
    await ledger.sees(first, "started", "finished")
    await ledger.order(Drain(resume=True))
    await eventually(lambda: not ledger.last.draining)


async def test_jobs_of_one_offer_run_as_one_batch_with_a_fact_each(generator: Runtime[Any], ledger: Ledger) -> None:
    jobs = [offered(seed=seed) for seed in (1, 2, 3)]
    await ledger.offer(*jobs)
    for job in jobs:
        await ledger.sees(job, "started", "finished")
    runs = [fact for fact in await ledger.facts() if isinstance(fact, AttemptFinished)]
    assert sorted(fact.outputs[0].seed for fact in runs) == [1, 2, 3]
    assert len({fact.timings[Phase.ENCODING] for fact in runs}) == 1


async def test_a_crash_of_the_engine_fails_the_attempt_and_the_next_one_runs(
    generator: Runtime[Any], ledger: Ledger
) -> None:
    job, after = offered(prompt="noop: crash_at=2"), offered()
    await ledger.offer(job)
    await ledger.sees(job, "started", "failed")
    failed = (await ledger.facts(job))[1]
    assert isinstance(failed, AttemptFailed)
    assert (failed.code, failed.retryable, failed.counts) == ("engine_crashed", True, True)
    await ledger.offer(after)
    await ledger.sees(after, "started", "finished")


async def test_the_crash_of_a_group_counts_against_nobody(generator: Runtime[Any], ledger: Ledger) -> None:
    jobs = [offered(prompt="noop: crash_at=2"), offered()]
    await ledger.offer(*jobs)
    for job in jobs:
        await ledger.sees(job, "started", "failed")
        failed = (await ledger.facts(job))[1]
        assert isinstance(failed, AttemptFailed)
        assert (failed.code, failed.retryable, failed.counts) == ("engine_crashed", True, False)


async def test_facts_wait_for_a_broker_that_was_away(
    generator: Runtime[Any], ledger: Ledger, nats: NatsServer, tmp_path: Path
) -> None:
    job, hold = held_at(tmp_path)
    await ledger.offer(job)
    await eventually(at_step(ledger, job, 1))
    await nats.stop()
    hold.unlink()
    await eventually(lambda: not generator.bus.connected)
    await nats.start()

    async def both() -> bool:
        try:
            return await ledger.kinds(job) == ["started", "finished"]
        except Unavailable:
            return False

    await eventually(both, within=30)
    await eventually(lambda: not ledger.held(), within=20)


async def test_a_resident_model_is_given_up_on_request(generator: Runtime[Any], ledger: Ledger) -> None:
    job = offered()
    await ledger.offer(job)
    await eventually(lambda: ledger.last.resident == ("noop",))
    await eventually(lambda: ledger.last.residency[0].reason == "drew the last job")
    await ledger.order(UnloadModel(model="nobody"))
    await ledger.order(UnloadModel())
    await eventually(lambda: ledger.last.resident == ())
    [told] = ledger.last.residency
    assert (told.key, told.tier, told.reason) == ("noop", None, "given up: as ordered")


SMALLER = """
[models.smaller]
engine = "noop"
[models.smaller.defaults]
width = 64
height = 64
steps = 4
sampler = "dpm++ 2m"
"""


async def test_a_job_that_does_not_fit_is_drawn_with_the_fallback_and_says_so(
    nats: NatsServer, ledger: Ledger, tmp_path: Path
) -> None:
    larger = NOOP.replace('engine = "noop"', 'engine = "noop"\nfallback = "smaller"', 1)
    card, folder = tmp_path / "card.json", tmp_path / "registry"
    card.write_text('{"faults": [{"phase": "decoding", "model": "noop", "times": 0}]}')
    folder.mkdir()
    changes: dict[str, Any] = {
        "models": write_registry(folder, larger, SMALLER),
        "device": f"simulated:100:{card}",
    }
    async with working(nats, ledger, tmp_path, **changes):
        job = offered(count=2)
        await ledger.offer(job)
        await ledger.sees(job, "started", "finished")
        _, finished = await ledger.facts(job)
        assert isinstance(finished, AttemptFinished)
        assert finished.settings == job.settings.model_copy(update={"model": "smaller"})
        assert finished.warnings == ("noop ran out of memory: drawn with smaller",)
        await eventually(lambda: "smaller" in ledger.last.resident)


async def test_a_limit_that_memory_has_shown_is_announced(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text('{"faults": [{"phase": "sampling", "over": 2, "times": 0}]}')
    async with working(nats, ledger, tmp_path, device=f"simulated:100:{card}"):
        jobs = [offered() for _ in range(4)]
        await ledger.offer(*jobs)
        for job in jobs:
            await ledger.sees(job, "started", "finished")
        await eventually(lambda: ledger.last.batch_limits == {"noop": 2})


async def test_stopping_releases_what_waits_lets_what_runs_end_and_says_goodbye(
    nats: NatsServer, ledger: Ledger, tmp_path: Path
) -> None:
    first, hold = held_at(tmp_path)
    second = offered()
    async with working(nats, ledger, tmp_path) as runtime:
        await ledger.offer(first)
        await ledger.offer(second)
        await eventually(lambda: second.attempt_id in ledger.held() and at_step(ledger, first, 1)())
        runtime.stop.set()
        await ledger.sees(second, "released")
        hold.unlink()
        await ledger.sees(first, "started", "finished")
    await eventually(lambda: ledger.last.goodbye)
    assert ledger.last.attempts == ()


async def test_stopping_gives_back_what_does_not_end_in_time(nats: NatsServer, ledger: Ledger, tmp_path: Path) -> None:
    job, _ = held_at(tmp_path)
    async with working(nats, ledger, tmp_path, generator_finish_grace=0.1) as runtime:
        await ledger.offer(job)
        await eventually(at_step(ledger, job, 1))
        runtime.stop.set()
        await ledger.sees(job, "started", "released")
    released = (await ledger.facts(job))[1]
    assert isinstance(released, AttemptReleased)
    await eventually(lambda: ledger.last.goodbye)


async def test_a_worker_whose_engine_dies_announces_no_models_until_it_is_back(
    generator: Runtime[Any], ledger: Ledger
) -> None:
    def without_models() -> list[Heartbeat]:
        return [beat for beat in ledger.beats if not beat.models]

    assert not without_models()
    job = offered(prompt="noop: crash_at=1")
    await ledger.offer(job)
    await eventually(lambda: bool(without_models()))
    await eventually(lambda: bool(ledger.last.models))


async def test_a_started_fact_that_failed_to_leave_still_comes_before_the_end(
    generator: Runtime[Any], ledger: Ledger, armed: Callable[[str], None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    armed(f"generator.before_finished=hold:{gate}")
    job = offered()
    await ledger.offer(job)
    await ledger.sees(job, "started")
    await eventually(lambda: any(each.phase is Phase.SAVING for each in ledger.of(job)))
    # What is being saved occupies no slot: the next offer may run meanwhile.
    await eventually(lambda: ledger.last.free_slots == 1 and job.attempt_id in ledger.held())
    gate.unlink()
    await ledger.sees(job, "started", "finished")


async def test_signals_of_a_terminal_do_not_reach_the_engine_process(generator: Runtime[Any], ledger: Ledger) -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    engines = [int(pid) for pid in children if "anime_generator.child" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGINT)
    job = offered()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
