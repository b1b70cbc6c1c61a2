"""The state machine: every state × message against a table written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.echo import Change, OptimizedPrompt, OptimizeFailed, OptimizePrompt, PromptOptimized
from anime_common.contracts.files import Filed, FileDeleted, FilingFailed
from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import CancelJob, JobChanges, JobFiling, PrioritizeJob, RetryJob
from anime_common.contracts.vocabulary import JobState, Phase, Priority, Reached
from anime_common.messages import Model, uuid7
from anime_common.outcomes import Refused
from anime_jobs.model import (
    TABLE,
    Adopted,
    DeadlinePassed,
    Dispatch,
    IllegalTransition,
    ModelAnnounced,
    Moment,
    OfferFenced,
    OfferRepeated,
    Placed,
    Policy,
    Record,
    WorkerLost,
    decide,
    retry_delay,
)
from anime_jobs.queue import view
from tests.builders import NOON, job, later, model_info, output, request, settings, staged

ATTEMPT, OTHER = uuid7(NOON), uuid7(NOON)
INCARNATION = uuid7(NOON)
AT = Moment(now=later(1), today=NOON.date(), policy=Policy())
OUTPUT = output()
OWNED = (JobState.DISPATCHED, JobState.RUNNING, JobState.FILING)
ENDED = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


def record(state: JobState, **fields: Any) -> Record:
    """A job in a state, as it gets there."""
    private = {name: fields.pop(name) for name in list(fields) if name in Record.__dataclass_fields__}
    found: dict[str, Any] = {"state": state}
    if state in (*OWNED, *ENDED):
        found |= {"attempt_id": ATTEMPT, "worker": "w1", "attempt": 1, "dispatched_at": NOON}
    if state is JobState.COMPLETED:
        found |= {"outputs": (OUTPUT,)}
    if state in ENDED:
        found |= {"ended_at": NOON}
    base = Record(
        job=job(**(found | fields)),
        request_hash="",
        prompt="1girl, blue hair",
        negative_prompt=None,
        seed=7,
        incarnation=INCARNATION,
        offer_id=OTHER,
        staged=(staged(),) if state is JobState.FILING else (),
        filing_date=NOON.date() if state is JobState.FILING else None,
    )
    return replace(base, **private)


def fact(cls: type[Any], attempt: UUID = ATTEMPT, **fields: Any) -> Any:
    common: dict[str, Any] = {
        "job_id": OTHER, "attempt_id": attempt, "epoch": 1, "worker": "w1", "incarnation": INCARNATION,
        "engine": "noop", "device": "cpu", "settings": settings(), "outputs": (staged(),),
        "timings": {Phase.SAMPLING: 1.0}, "code": "boom", "message": "it broke", "retryable": True, "reason": "drain",
        "started_at": NOON, "finished_at": NOON, "failed_at": NOON, "cancelled_at": NOON, "released_at": NOON,
    }  # fmt: skip
    if cls is Filed:
        common["outputs"] = (OUTPUT,)
    if cls is OptimizeFailed or cls is PromptOptimized:
        common |= {"job_version": 1, "result": OptimizedPrompt(prompt="1girl, blue hair, masterpiece", provider="x")}
    return cls.model_validate({k: v for k, v in (common | fields).items() if k in cls.model_fields})


MESSAGES: dict[str, Any] = {
    "cancel": CancelJob(job=str(OTHER)),
    "retry": RetryJob(job=str(OTHER)),
    "prioritize": PrioritizeJob(job=str(OTHER), changes=JobChanges(priority=Priority.INTERACTIVE)),
    "placed": Placed(12.5),
    "optimized": fact(PromptOptimized),
    "optimize_failed": fact(OptimizeFailed),
    "model": ModelAnnounced(model_info()),
    "deadline": DeadlinePassed(),
    "dispatch": Dispatch("w1", INCARNATION, uuid7(NOON), uuid7(NOON)),
    "repeat_offer": OfferRepeated(),
    "fence": OfferFenced(),
    "started": fact(AttemptStarted),
    "finished": fact(AttemptFinished),
    "failed": fact(AttemptFailed),
    "stopped": fact(AttemptCancelled),
    "released": fact(AttemptReleased),
    "lost": WorkerLost("gone", counts=True),
    "adopted": Adopted(uuid7(NOON)),
    "filed": fact(Filed),
    "filing_failed": fact(FilingFailed),
    "file_deleted": FileDeleted(file_id=OUTPUT.file_id, key=OUTPUT.key),
}

# What becomes of a job: the new state with the event told; `-` nothing changes and nothing is told; `~` stays, but the
# ledger notes something; `!` refused (409); `X` can never happen.
EXPECTED = """
message          preparing   queued      dispatched  running     filing      completed   failed      cancelled
cancel           cancelled   cancelled   cancelled   updated     !           !           !           -
retry            !           !           !           !           !           !           queued      queued
prioritize       updated     updated     updated     !           !           !           !           !
placed           updated     updated     X           X           X           X           X           X
optimized        queued      -           -           -           -           -           -           -
optimize_failed  queued      -           -           -           -           -           -           -
model            updated     updated     X           X           X           X           X           X
deadline         optimize    X           X           X           filing      X           X           X
dispatch         X           dispatched  X           X           X           X           X           X
repeat_offer     X           X           ~           X           X           X           X           X
fence            X           X           queued      X           X           X           X           X
started          -           -           started     -           -           -           -           -
finished         -           -           filing      filing      -           -           -           -
failed           -           -           queued      queued      -           -           -           -
stopped          -           -           queued      queued      -           -           -           -
released         -           -           queued      queued      -           -           -           -
lost             X           X           queued      queued      X           X           X           X
adopted          X           X           ~           ~           X           X           X           X
filed            -           -           X           X           completed   -           X           -
filing_failed    -           -           X           X           queued      -           -           -
file_deleted     -           -           -           -           -           updated     -           -
"""


def cases() -> list[tuple[str, JobState, str]]:
    head, *rows = EXPECTED.strip().splitlines()
    states = [JobState(name) for name in head.split()[1:]]
    return [
        (name, state, expected)
        for name, *cells in (row.split() for row in rows)
        for state, expected in zip(states, cells, strict=True)
    ]


@pytest.mark.parametrize(("name", "state", "expected"), cases())
def test_every_state_and_message(name: str, state: JobState, expected: str) -> None:
    before, message = record(state), MESSAGES[name]
    if expected == "X":
        with pytest.raises(IllegalTransition):
            decide(before, message, AT)
        return
    if expected == "!":
        with pytest.raises(Refused) as refusal:
            decide(before, message, AT)
        assert refusal.value.status == 409
        return
    after, told = decide(before, message, AT)
    if expected == "-":
        assert (after, told) == (before, [])
    elif expected == "~":
        assert (after.job, told) == (before.job, [])
        assert after != before
    else:
        assert [each.wire.rpartition(".")[2] for each in told] == [expected]
        if expected not in {"updated", "optimize", "started"}:
            assert after.state == JobState(expected)
        elif expected == "started":
            assert after.state is JobState.RUNNING
        else:
            assert after.state is state


def test_the_table_by_hand_knows_every_message_and_state() -> None:
    known = {type(message) for message in MESSAGES.values()}
    assert {cls for rules in TABLE.values() for cls in rules} == known
    assert set(TABLE) == set(JobState)
    assert {(name, state) for name, state, _ in cases()} == {(name, state) for name in MESSAGES for state in JobState}


@pytest.mark.parametrize("state", [*OWNED, *ENDED])
@pytest.mark.parametrize(
    "cls", [AttemptStarted, AttemptFinished, AttemptFailed, AttemptCancelled, AttemptReleased, Filed, FilingFailed]
)
def test_facts_of_another_attempt_change_nothing(state: JobState, cls: type[Model]) -> None:
    before = record(state)
    assert decide(before, fact(cls, attempt=OTHER), AT) == (before, [])


def test_each_change_raises_the_version_and_owns_its_event() -> None:
    before = record(JobState.QUEUED)
    after, (event,) = decide(before, MESSAGES["dispatch"], AT)
    assert after.job.version == before.job.version + 1
    assert event.job == after.job  # type: ignore[attr-defined]
    assert (after.job.worker, after.job.attempt, after.job.attempt_id) == ("w1", 1, MESSAGES["dispatch"].attempt_id)


def test_a_failure_waits_longer_each_time_and_ends_with_the_budget() -> None:
    current = record(JobState.RUNNING)
    waits = []
    for _ in range(AT.policy.max_failures - 1):
        current, _ = decide(current, fact(AttemptFailed), AT)
        assert current.state is JobState.QUEUED
        assert current.next_try_at is not None
        waits.append((current.next_try_at - AT.now).total_seconds())
        current, _ = decide(current, Dispatch("w1", INCARNATION, ATTEMPT, OTHER), AT)
    ended, _ = decide(current, fact(AttemptFailed), AT)
    assert ended.state is JobState.FAILED
    assert ended.job.failures == AT.policy.max_failures
    assert ended.job.error is not None
    assert ended.job.error.code == "boom"
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_a_final_failure_is_not_tried_again() -> None:
    ended, _ = decide(record(JobState.RUNNING), fact(AttemptFailed, retryable=False), AT)
    assert ended.state is JobState.FAILED


@pytest.mark.parametrize(
    ("code", "told", "state"),
    [
        ("bad_settings", True, JobState.FAILED),
        ("engine_error", False, JobState.QUEUED),
        ("of_a_newer_worker", True, JobState.QUEUED),
        ("of_a_newer_worker", False, JobState.FAILED),
    ],
)
def test_the_table_of_errors_decides_and_an_unknown_code_keeps_what_its_sender_says(
    code: str, told: bool, state: JobState
) -> None:
    for before, kind in ((JobState.RUNNING, AttemptFailed), (JobState.FILING, FilingFailed)):
        after, _ = decide(record(before), fact(kind, code=code, retryable=told), AT)
        assert after.state is state


def test_members_of_a_group_are_tried_alone_whatever_the_code_says() -> None:
    failed = fact(AttemptFailed, code="bad_settings", retryable=True, counts=False)
    after, _ = decide(record(JobState.RUNNING), failed, AT)
    assert (after.state, after.run_alone) == (JobState.QUEUED, True)


def test_the_crash_of_a_group_counts_for_nobody_and_its_members_run_alone() -> None:
    after, _ = decide(record(JobState.RUNNING), fact(AttemptFailed, counts=False), AT)
    assert (after.state, after.job.failures, after.run_alone, after.next_try_at) == (JobState.QUEUED, 0, True, None)


@pytest.mark.parametrize("name", ["released", "fence"])
def test_what_is_given_back_does_not_count(name: str) -> None:
    after, _ = decide(record(JobState.DISPATCHED), MESSAGES[name], AT)
    assert (after.job.failures, after.job.attempt_id, after.job.worker) == (0, None, None)


def test_a_manual_retry_has_a_fresh_budget_and_the_same_seed() -> None:
    after, _ = decide(record(JobState.FAILED, failures=3), MESSAGES["retry"], AT)
    assert (after.job.failures, after.job.error, after.seed, after.job.attempt_id) == (0, None, 7, None)


@pytest.mark.parametrize("name", ["failed", "stopped", "released", "lost"])
def test_a_requested_cancel_wins_over_every_end_but_a_finished_picture(name: str) -> None:
    after, _ = decide(record(JobState.RUNNING, cancel_requested=True), MESSAGES[name], AT)
    assert after.state is JobState.CANCELLED


FAR = Reached(phase=Phase.SAMPLING, step=9, steps=20, percent=46.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failed", fact(AttemptFailed, reached=FAR, retryable=False)),
        ("lost", WorkerLost("gone", counts=True, reached=FAR)),
        ("stopped", fact(AttemptCancelled, reached=FAR)),
    ],
)
def test_a_job_that_ends_in_work_keeps_how_far_it_came(name: str, message: Any) -> None:
    asked = record(JobState.RUNNING, cancel_requested=name == "stopped", failures=Policy().max_failures - 1)
    after, (event,) = decide(asked, message, AT)
    assert after.state is (JobState.CANCELLED if name == "stopped" else JobState.FAILED)
    assert after.job.reached == FAR
    assert event.job.reached == FAR  # type: ignore[attr-defined]
    shown = view(after, None, None).progress
    assert (shown.phase, shown.step, shown.steps, shown.percent) == (Phase.SAMPLING, 9, 20, 46.0)
    again, _ = decide(after, MESSAGES["retry"], AT)
    assert again.job.reached is None
    assert view(again, None, None).progress.percent == 0


def test_a_job_that_is_tried_again_starts_from_nothing() -> None:
    after, _ = decide(record(JobState.RUNNING), fact(AttemptFailed, reached=FAR), AT)
    assert (after.state, after.job.reached) == (JobState.QUEUED, None)


def test_a_job_whose_pictures_could_not_be_filed_was_almost_there() -> None:
    before = record(JobState.FILING, failures=Policy().max_failures - 1)
    after, _ = decide(before, fact(FilingFailed), AT)
    shown = view(after, None, None).progress
    assert (shown.state, shown.phase, shown.percent) == (JobState.FAILED, Phase.SAVING, 99.0)


def test_the_kept_pictures_of_a_cancelled_job_do_not_hide_how_far_it_came() -> None:
    before = record(JobState.RUNNING, cancel_requested=True, request=request(count=3, keep_partial=True))
    filing, _ = decide(before, fact(AttemptCancelled, reached=FAR), AT)
    for message in (fact(Filed), fact(FilingFailed)):
        after, _ = decide(filing, message, AT)
        assert (after.state, after.job.reached) == (JobState.CANCELLED, FAR)


def test_a_picture_that_finished_first_wins_and_says_so() -> None:
    after, _ = decide(record(JobState.RUNNING, cancel_requested=True), MESSAGES["finished"], AT)
    assert after.state is JobState.FILING
    assert after.job.message == "finished before the cancel reached it"


def test_pictures_of_a_cancelled_job_are_kept_if_asked_for() -> None:
    before = record(JobState.RUNNING, cancel_requested=True, request=request(count=3, keep_partial=True))
    filing, (event,) = decide(before, MESSAGES["stopped"], AT)
    assert filing.state is JobState.FILING
    assert isinstance(event, JobFiling)
    after, _ = decide(filing, MESSAGES["filed"], AT)
    assert (after.state, after.job.outputs) == (JobState.CANCELLED, (OUTPUT,))
    lost, _ = decide(filing, fact(FilingFailed), AT)
    assert (lost.state, lost.job.outputs) == (JobState.CANCELLED, ())


def test_only_the_last_answer_may_take_a_job_out_of_filing() -> None:
    asked_again, (event,) = decide(record(JobState.FILING), DeadlinePassed(), AT)
    assert isinstance(event, JobFiling)
    assert event.repeat == 1
    assert decide(asked_again, fact(FilingFailed, repeat=0), AT) == (asked_again, [])
    assert decide(asked_again, fact(FilingFailed, repeat=1), AT)[0].state is JobState.QUEUED
    assert decide(asked_again, fact(Filed, repeat=0), AT)[0].state is JobState.COMPLETED


def test_filing_names_project_and_date_as_of_the_first_time() -> None:
    filing, (first,) = decide(record(JobState.RUNNING), MESSAGES["finished"], AT)
    tomorrow = replace(AT, now=later(86400), today=later(86400).date())
    _, (again,) = decide(filing, DeadlinePassed(), tomorrow)
    assert isinstance(first, JobFiling)
    assert isinstance(again, JobFiling)
    assert (first.date, first.staged, first.attempt_id) == (again.date, again.staged, again.attempt_id)


def test_echo_never_fails_a_job() -> None:
    before = record(JobState.PREPARING, queued_at=None)
    asked, (question,) = decide(before, DeadlinePassed(), AT)
    assert isinstance(question, OptimizePrompt)
    assert question.repeat == 1
    late = replace(AT, now=later(AT.policy.prepare_bound + 1))
    after, _ = decide(asked, DeadlinePassed(), late)
    assert after.state is JobState.QUEUED
    assert after.job.settings is not None
    assert after.job.settings.prompt == "1girl, blue hair"
    assert "no answer from Echo" in (after.job.prompt_note or "")


def test_an_optimised_prompt_is_what_is_drawn() -> None:
    answer = fact(
        PromptOptimized,
        result=OptimizedPrompt(prompt="1girl, solo", provider="builtin", changes=(Change(kind="added", text="solo"),)),
    )
    after, _ = decide(record(JobState.PREPARING), answer, AT)
    assert after.job.settings is not None
    assert (after.job.settings.prompt, after.job.request.prompt) == ("1girl, solo", "1girl, blue hair")
    assert after.job.prompt_note == "builtin: solo"


def test_a_job_without_a_model_settles_when_one_is_announced() -> None:
    after, _ = decide(record(JobState.QUEUED, settings=None), MESSAGES["model"], AT)
    assert after.job.settings is not None
    assert (after.job.settings.model, after.job.settings.seed) == ("noop", 7)
    nobody, _ = decide(record(JobState.QUEUED, settings=None), ModelAnnounced(None), AT)
    assert nobody.state is JobState.FAILED
    too_wide = record(JobState.QUEUED, settings=None, request=request(width=4096))
    refused, _ = decide(too_wide, MESSAGES["model"], AT)
    assert refused.state is JobState.FAILED
    assert refused.job.error is not None
    assert "width" in refused.job.error.message


def test_a_deleted_file_leaves_the_outputs() -> None:
    after, _ = decide(record(JobState.COMPLETED), MESSAGES["file_deleted"], AT)
    assert after.job.outputs == ()


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_the_retry_delay_is_bounded_and_never_nothing(failures: int, chance: float) -> None:
    policy = Policy()
    delay = retry_delay(failures, chance, policy)
    assert policy.retry_base / 2 <= delay <= policy.retry_cap


@given(st.lists(st.sampled_from(sorted(MESSAGES)), max_size=30), st.sampled_from(list(JobState)))
def test_whatever_happens_invariants_hold(names: list[str], start: JobState) -> None:
    current = record(start)
    for name in names:
        before = current
        try:
            current, told = decide(before, MESSAGES[name], AT)
        except (IllegalTransition, Refused):
            continue
        assert current.job.version == before.job.version + (1 if current.job != before.job else 0)
        assert (current.state in OWNED) <= (current.job.attempt_id is not None and current.job.worker is not None)
        assert (current.state in ENDED) == (current.job.ended_at is not None)
        assert before.state is not JobState.COMPLETED or current.state is JobState.COMPLETED
        assert (current.job != before.job) <= bool(told)
