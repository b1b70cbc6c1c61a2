"""What a worker decides: every order in every stage, and properties of any sequence of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.generator import (
    AbandonAttempt,
    Action,
    AttemptCancelled,
    AttemptFact,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
    CancelAttempt,
    Drain,
    OfferedJob,
    Renew,
    UnloadModel,
)
from anime_common.contracts.vocabulary import AttemptProgress, Phase, Reached, StagedOutput
from anime_common.messages import uuid7
from anime_generator import model
from anime_generator.model import Decision, Failure, Forget, Interrupt, Made, Report, Stage, Unload, Worker
from tests.generator.builders import offer_to, offered

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
MADE = Made("noop", "CPU", (), {Phase.SAMPLING: 1.0})
OUTPUT = StagedOutput(index=0, seed=1, sha256="0" * 64, size=1, media_type="image/png", width=64, height=64)


def worker(**changes: object) -> Worker:
    return Worker(**({"name": "tower", "incarnation": uuid7(), "started_at": NOW} | changes))  # type: ignore[arg-type]


def holding(*jobs: OfferedJob, base: Worker | None = None, stage: Stage = Stage.WAITING) -> Worker:
    """A worker that holds one offer of these jobs, all in the same stage."""
    base = base or worker()
    held, _ = model.take_offer(base, offer_to(*jobs, incarnation=base.incarnation), NOW)
    ids = [job.attempt_id for job in jobs]
    if stage is not Stage.WAITING:
        held, _ = model.begin(held, ids, "noop", NOW)
    if stage in {Stage.SAVING, Stage.REPORTING}:
        for each in ids:
            held = model.painted(held, each)
    if stage is Stage.REPORTING:
        for each in ids:
            held, _ = model.finish(held, each, MADE, NOW)
    return held


def order(held: Worker, action: Action) -> Decision:
    return model.obey(held, action, NOW, uuid7())


def facts(decision: Decision) -> list[AttemptFact]:
    return [effect.fact for effect in decision[1] if isinstance(effect, Report)]


class TestOffers:
    def test_its_jobs_wait_to_run_together(self) -> None:
        jobs = [offered(), offered()]
        held = holding(*jobs)
        assert [each.id for each in held.next_run()] == [job.attempt_id for job in jobs]
        assert {each.stage for each in held.attempts.values()} == {Stage.WAITING}
        assert held.busy() == 1

    def test_a_repeat_changes_nothing(self) -> None:
        base, job = worker(), offered()
        offer = offer_to(job, incarnation=base.incarnation)
        once, _ = model.take_offer(base, offer, NOW)
        again = model.take_offer(once, offer.model_copy(update={"repeat": 1}), NOW)
        assert again == (once, ())

    def test_a_repeat_after_the_end_does_not_run_twice(self) -> None:
        job = offered()
        held = holding(job, stage=Stage.REPORTING)
        ended = model.confirmed(held, job.attempt_id)
        again, effects = model.take_offer(ended, offer_to(job, incarnation=held.incarnation), NOW)
        assert again.attempts == {}
        assert effects == ()

    @pytest.mark.parametrize("changes", [{"incarnation": uuid7()}, {"worker": "other"}, {"epoch": 1}])
    def test_offers_to_others_and_of_a_lost_future_change_nothing(self, changes: dict[str, object]) -> None:
        base = worker(epoch=2)
        offer = offer_to(offered(), incarnation=base.incarnation, epoch=2).model_copy(update=changes)
        assert model.take_offer(base, offer, NOW) == (base, ())

    def test_a_newer_epoch_is_the_one_from_now_on(self) -> None:
        base = worker(epoch=2)
        held, _ = model.take_offer(base, offer_to(offered(), incarnation=base.incarnation, epoch=5), NOW)
        assert held.epoch == 5

    def test_a_draining_worker_gives_it_back(self) -> None:
        base = worker(draining=True)
        decision = model.take_offer(base, offer_to(offered(), incarnation=base.incarnation), NOW)
        assert [type(fact) for fact in facts(decision)] == [AttemptReleased]
        assert decision[0].busy() == 0


class TestRuns:
    def test_offers_run_one_after_another_in_their_order(self) -> None:
        first, second = offered(), offered()
        held = holding(second, base=holding(first))
        assert [each.id for each in held.next_run()] == [first.attempt_id]
        held, _ = model.begin(held, [first.attempt_id], "noop", NOW)
        assert held.next_run() == ()
        held = model.painted(held, first.attempt_id)
        assert [each.id for each in held.next_run()] == [second.attempt_id]

    def test_a_start_says_who_and_with_what(self) -> None:
        job = offered()
        held = holding(job)
        decision = model.begin(held, [job.attempt_id], "noop", NOW)
        (started,) = facts(decision)
        assert started == AttemptStarted(
            job_id=job.job_id,
            attempt_id=job.attempt_id,
            epoch=1,
            worker="tower",
            incarnation=held.incarnation,
            engine="noop",
            started_at=NOW,
        )
        assert decision[0].attempts[job.attempt_id].held().started

    def test_beginning_twice_says_so_once(self) -> None:
        job = offered()
        held = holding(job, stage=Stage.RUNNING)
        assert model.begin(held, [job.attempt_id], "noop", NOW) == (held, ())

    def test_a_finished_attempt_is_listed_until_its_fact_is_confirmed(self) -> None:
        job = offered()
        held, effects = model.finish(holding(job, stage=Stage.SAVING), job.attempt_id, MADE, NOW)
        (finished,) = facts((held, effects))
        assert isinstance(finished, AttemptFinished)
        assert (finished.engine, finished.settings, finished.timings) == ("noop", job.settings, MADE.timings)
        assert held.attempts[job.attempt_id].held().ended
        assert held.busy() == 0
        assert model.confirmed(held, job.attempt_id).attempts == {}

    def test_a_confirmation_of_a_start_does_not_end_it(self) -> None:
        job = offered()
        held = holding(job, stage=Stage.RUNNING)
        assert model.confirmed(held, job.attempt_id) == held

    @pytest.mark.parametrize(
        ("lone", "code", "told"),
        [
            (True, "engine_crashed", (True, True)),
            (True, "bad_settings", (False, True)),
            (False, "engine_crashed", (True, False)),
            (False, "bad_settings", (True, False)),
        ],
    )
    def test_a_group_fails_at_nobodys_cost(self, lone: bool, code: str, told: tuple[bool, bool]) -> None:
        job = offered()
        failure = Failure(code, "it went wrong", lone)
        (failed,) = facts(model.fail(holding(job, stage=Stage.RUNNING), job.attempt_id, failure, NOW))
        assert isinstance(failed, AttemptFailed)
        assert failed.code == code
        assert failed.reached == Reached(phase=Phase.LOADING)
        assert (failed.retryable, failed.counts) == told

    def test_a_stopped_attempt_names_what_was_finished(self) -> None:
        job = offered()
        far = AttemptProgress(
            job_id=job.job_id, attempt_id=job.attempt_id, phase=Phase.SAMPLING, step=3, steps=8, percent=40
        )
        held = model.advance(holding(job, stage=Stage.RUNNING), far)
        decision = model.stopped(held, job.attempt_id, (OUTPUT,), NOW)
        (cancelled,) = facts(decision)
        assert isinstance(cancelled, AttemptCancelled)
        assert (cancelled.outputs, cancelled.settings) == ((OUTPUT,), job.settings)
        assert cancelled.reached == Reached(phase=Phase.SAMPLING, step=3, steps=8, percent=40)

    @pytest.mark.parametrize("stage", [Stage.WAITING, Stage.REPORTING])
    def test_what_does_not_run_cannot_end(self, stage: Stage) -> None:
        job = offered()
        held = holding(job, stage=stage)
        failure = Failure("engine_error", "y")
        assert model.finish(held, job.attempt_id, MADE, NOW) == (held, ())
        assert model.fail(held, job.attempt_id, failure, NOW) == (held, ())
        assert model.stopped(held, job.attempt_id, (), NOW) == (held, ())

    def test_progress_of_what_is_not_held_is_dropped(self) -> None:
        progress = AttemptProgress(job_id=uuid7(), attempt_id=uuid7(), phase=Phase.SAMPLING)
        held = holding(offered())
        assert model.advance(held, progress) == held


class TestOrders:
    """Each order against each stage: what is said, and what is done to the engine."""

    @pytest.mark.parametrize(
        ("stage", "said", "done"),
        [
            (Stage.WAITING, [AttemptCancelled], []),
            (Stage.RUNNING, [], [Interrupt]),
            (Stage.SAVING, [], []),
            (Stage.REPORTING, [], []),
        ],
    )
    def test_cancel(self, stage: Stage, said: list[type], done: list[type]) -> None:
        job = offered()
        held = holding(job, stage=stage)
        decision = order(held, CancelAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
        assert [type(fact) for fact in facts(decision)] == said
        assert [type(effect) for effect in decision[1] if not isinstance(effect, Report)] == done
        assert job.attempt_id in decision[0].attempts

    @pytest.mark.parametrize(
        ("stage", "done"),
        [
            (Stage.WAITING, [Forget]),
            (Stage.RUNNING, [Interrupt, Forget]),
            (Stage.SAVING, [Forget]),
            (Stage.REPORTING, [Forget]),
        ],
    )
    def test_abandon(self, stage: Stage, done: list[type]) -> None:
        job, other = offered(), offered()
        held = holding(job, other, stage=stage)
        decision = order(held, AbandonAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
        assert [type(effect) for effect in decision[1]] == done
        assert set(decision[0].attempts) == {other.attempt_id}
        offer = offer_to(job, incarnation=held.incarnation)
        assert model.take_offer(decision[0], offer, NOW)[0].attempts.keys() == {other.attempt_id}

    @pytest.mark.parametrize("stage", list(Stage))
    def test_renew_drops_everything(self, stage: Stage) -> None:
        held = holding(offered(), offered(), stage=stage)
        fresh = uuid7()
        after, effects = model.obey(held, Renew(incarnation=held.incarnation), NOW, fresh)
        assert (after.attempts, after.incarnation) == ({}, fresh)
        assert any(isinstance(effect, Forget) for effect in effects)
        assert not facts((after, effects))

    def test_renew_of_another_incarnation_changes_nothing(self) -> None:
        held = holding(offered())
        assert order(held, Renew(incarnation=uuid7())) == (held, ())

    @pytest.mark.parametrize(
        ("stage", "said"),
        [(Stage.WAITING, [AttemptReleased]), (Stage.RUNNING, []), (Stage.SAVING, []), (Stage.REPORTING, [])],
    )
    def test_drain(self, stage: Stage, said: list[type]) -> None:
        held = holding(offered(), stage=stage)
        decision = order(held, Drain())
        assert [type(fact) for fact in facts(decision)] == said
        assert decision[0].draining
        assert not order(decision[0], Drain(resume=True))[0].draining

    def test_unload(self) -> None:
        held = holding(offered())
        assert order(held, UnloadModel(model="sprite")) == (held, (Unload("sprite"),))

    @pytest.mark.parametrize("kind", [CancelAttempt, AbandonAttempt])
    def test_orders_about_what_is_not_held_change_nothing(self, kind: type[CancelAttempt | AbandonAttempt]) -> None:
        held = holding(offered())
        assert order(held, kind(job_id=uuid7(), attempt_id=uuid7())) == (held, ())


POOL = [offered() for _ in range(4)]
STEPS = st.lists(st.tuples(st.sampled_from(sorted({*"obpfxscadrkw"})), st.integers(0, 3)), max_size=40)


@given(STEPS)
def test_no_attempt_ends_twice_or_before_it_began_and_none_is_listed_that_is_gone(steps: list[tuple[str, int]]) -> None:
    """Random lives: o offer, b begin, p painted, f finish, x fail, s stopped, c cancel, a abandon, d drain,
    r release, k confirm, w renew.
    """
    held = worker()
    said: list[AttemptFact] = []
    for step, number in steps:
        job = POOL[number]
        held, effects = _step(held, step, job)
        said += facts((held, effects))
    for job in POOL:
        mine = [fact for fact in said if fact.attempt_id == job.attempt_id]
        assert sum(isinstance(fact, AttemptStarted) for fact in mine) <= 1
        ends = [fact for fact in mine if not isinstance(fact, AttemptStarted)]
        assert len(ends) <= 1
        if ends and isinstance(ends[0], AttemptFinished | AttemptFailed):
            assert isinstance(mine[0], AttemptStarted)
        if job.attempt_id in held.attempts:
            assert (held.attempts[job.attempt_id].stage is Stage.REPORTING) == bool(ends)
    assert held.busy() >= 0


def _step(held: Worker, step: str, job: OfferedJob) -> Decision:
    attempt = job.attempt_id
    failure = Failure("engine_error", "y")
    lives: dict[str, Callable[[], Decision]] = {
        "o": lambda: model.take_offer(held, offer_to(job, incarnation=held.incarnation), NOW),
        "b": lambda: model.begin(held, [attempt], "noop", NOW),
        "p": lambda: (model.painted(held, attempt), ()),
        "f": lambda: model.finish(held, attempt, MADE, NOW),
        "x": lambda: model.fail(held, attempt, failure, NOW),
        "s": lambda: model.stopped(held, attempt, (), NOW),
        "c": lambda: order(held, CancelAttempt(job_id=job.job_id, attempt_id=attempt)),
        "a": lambda: order(held, AbandonAttempt(job_id=job.job_id, attempt_id=attempt)),
        "d": lambda: order(held, Drain(resume=held.draining)),
        "r": lambda: model.release(held, [attempt], "the worker stops", NOW),
        "k": lambda: (model.confirmed(held, attempt), ()),
        "w": lambda: order(held, Renew(incarnation=held.incarnation)),
    }
    return lives[step]()
