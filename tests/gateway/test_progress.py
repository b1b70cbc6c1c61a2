"""The one progress contract, from what the ledger says and the worker tells."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.jobs import JobView, QueueEntry
from anime_common.contracts.vocabulary import AttemptProgress, JobState, Phase, Reached
from anime_common.messages import uuid7
from anime_gateway import progress
from anime_gateway.attempts import MAX_PREVIEW_SIZE, MAX_PREVIEWS, Attempts
from tests import builders

JOB, ATTEMPT = uuid7(builders.NOON), uuid7(builders.NOON)


def job(state: JobState, attempt: UUID | None = ATTEMPT, **fields: Any) -> JobView:
    found = builders.job(id=JOB, state=state, attempt_id=attempt, **fields)
    return progress.with_progress(found, progress.of_job(found))


def told(percent: float, attempt: UUID = ATTEMPT, **fields: Any) -> AttemptProgress:
    return AttemptProgress.model_validate(
        {"job_id": JOB, "attempt_id": attempt, "phase": "sampling", "step": 3, "steps": 8, "percent": percent} | fields
    )


def place(**fields: Any) -> QueueEntry:
    return QueueEntry.model_validate(
        {
            "job_id": JOB,
            "code": "abcd2345",
            "position": 4,
            "eta_seconds": 12.5,
            "state": "queued",
            "priority": "normal",
            "project": "default",
            **fields,
        }
    )


@pytest.mark.parametrize("state", [JobState.PREPARING, JobState.QUEUED, JobState.DISPATCHED])
def test_a_job_that_has_not_begun_is_at_zero(state: JobState) -> None:
    assert progress.of_job(job(state)).percent == 0


def test_a_waiting_job_shows_its_place() -> None:
    found = progress.of_job(job(JobState.QUEUED, None), None, place(message="waits for a worker"))
    assert (found.position, found.eta_seconds, found.message) == (4, 12.5, "waits for a worker")


def test_a_running_job_shows_what_its_worker_tells() -> None:
    found = progress.of_job(job(JobState.RUNNING), told(40, eta_seconds=2.5), None, "/preview?n=1")
    assert (found.state, found.phase, found.step, found.steps) == (JobState.RUNNING, Phase.SAMPLING, 3, 8)
    assert (found.percent, found.eta_seconds, found.preview_url) == (40, 2.5, "/preview?n=1")


def test_what_another_attempt_told_is_not_shown() -> None:
    assert progress.of_job(job(JobState.RUNNING), told(40, uuid7())).percent == 0


def test_only_a_completed_job_is_at_100() -> None:
    assert progress.of_job(job(JobState.COMPLETED)).percent == 100
    for state in set(JobState) - {JobState.COMPLETED}:
        assert progress.of_job(job(state), told(99)).percent <= 99, state


@given(st.lists(st.floats(0, 99), min_size=1))
def test_within_an_attempt_the_percentage_never_falls(percents: list[float]) -> None:
    attempts = Attempts()
    attempts.see(job(JobState.RUNNING))
    shown = []
    for percent in percents:
        known = attempts.tell(told(percent))
        assert known is not None
        shown.append(progress.of_job(known.job, known.told).percent)
    assert shown == sorted(shown)


class TestAttempts:
    def test_frames_of_an_attempt_that_is_over_are_dropped(self) -> None:
        attempts = Attempts()
        attempts.see(job(JobState.RUNNING))
        assert attempts.tell(told(10)) is not None
        attempts.see(job(JobState.QUEUED, None, version=2))
        assert attempts.tell(told(20)) is None
        attempts.see(job(JobState.RUNNING, uuid7(), version=3))
        assert attempts.tell(told(30)) is None

    def test_frames_of_an_unknown_job_are_dropped(self) -> None:
        assert Attempts().tell(told(10)) is None

    def test_what_was_told_before_the_start_was_heard_is_kept(self) -> None:
        attempts = Attempts()
        attempts.see(job(JobState.DISPATCHED))
        attempts.tell(told(1, phase="loading"))
        running = job(JobState.RUNNING, version=2)
        attempts.see(running)
        assert attempts.compose(running).progress.phase is Phase.LOADING

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
    def test_how_far_a_stopped_job_came_is_what_the_ledger_says_in_events_and_answers(self, state: JobState) -> None:
        stopped = job(state, version=2, reached=Reached(phase=Phase.SAMPLING, step=4, steps=8, percent=57))
        heard, deaf = Attempts(), Attempts()
        heard.see(job(JobState.RUNNING))
        heard.tell(told(55))
        heard.see(stopped)
        for attempts in (heard, deaf):
            for found in (attempts.view(stopped), attempts.compose(stopped)):
                shown = found.progress
                assert (shown.phase, shown.step, shown.steps, shown.percent) == (Phase.SAMPLING, 4, 8, 57)
            assert len(attempts) == 0

    def test_an_answer_gets_the_newest_progress_of_the_same_attempt(self) -> None:
        attempts = Attempts()
        attempts.see(job(JobState.RUNNING))
        attempts.tell(told(60))
        assert attempts.view(job(JobState.RUNNING)).progress.percent == 60

    def test_the_ledger_may_know_more_and_then_frames_may_not_fall_behind_it(self) -> None:
        attempts = Attempts()
        running = job(JobState.RUNNING)
        attempts.see(running)
        attempts.tell(told(20))
        heard = running.progress.model_copy(update={"phase": Phase.SAMPLING, "percent": 30.0})
        assert attempts.view(running.model_copy(update={"progress": heard})).progress.percent == 30
        known = attempts.tell(told(25))
        assert known is not None
        assert known.told is not None
        assert known.told.percent == 30

    def test_what_happens_while_the_ledger_is_asked_outdates_its_answer(self) -> None:
        attempts = Attempts()
        attempts.begin_learning()
        attempts.see(job(JobState.COMPLETED, version=9))
        attempts.learn([job(JobState.RUNNING, version=5)])
        assert len(attempts) == 0

    def test_running_attempts_are_learned_from_the_ledger(self) -> None:
        attempts = Attempts()
        attempts.begin_learning()
        running = job(JobState.RUNNING)
        heard = running.progress.model_copy(update={"phase": Phase.SAMPLING, "percent": 30.0})
        attempts.learn([running.model_copy(update={"progress": heard})])
        assert [known.told.percent for known in attempts.running() if known.told] == [30]

    def test_the_last_preview_of_the_current_attempt_is_kept(self) -> None:
        attempts = Attempts()
        attempts.see(job(JobState.RUNNING))
        attempts.show(JOB, uuid7(), b"another attempt's")
        assert attempts.preview(JOB) is None
        attempts.show(JOB, ATTEMPT, b"first")
        first_url = attempts.preview_url(JOB)
        attempts.show(JOB, ATTEMPT, b"second")
        attempts.show(JOB, ATTEMPT, b"x" * (MAX_PREVIEW_SIZE + 1))
        found = attempts.preview(JOB)
        assert found is not None
        assert found.data == b"second"
        assert attempts.preview_url(JOB) != first_url
        attempts.see(job(JobState.COMPLETED, version=2))
        assert attempts.preview(JOB) is None

    def test_previews_are_bounded(self) -> None:
        attempts = Attempts()
        for _ in range(MAX_PREVIEWS + 3):
            running = builders.job(id=uuid7(), state=JobState.RUNNING, attempt_id=ATTEMPT)
            attempts.see(running)
            attempts.show(running.id, ATTEMPT, b"picture")
        assert len(attempts._previews) == MAX_PREVIEWS
