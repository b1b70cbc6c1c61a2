from __future__ import annotations

from collections.abc import Callable

import pytest

from anime_generator.watchdog import Patience, Watchdog

PATIENCE = Patience(start=100, load=600, step=300, floor=20, factor=20)


def watchdog() -> Watchdog:
    return Watchdog(PATIENCE)


def run_steps(subject: Watchdog, *, work: float, length: float, steps: int = 3, model: str = "anime") -> float:
    """Run some steps; returns when the last one ended."""
    subject.running(model, work, 0.0)
    subject.sampling(0.0)
    for step in range(1, steps + 1):
        subject.stepped(step * length)
    return steps * length


def test_each_state_has_its_own_patience() -> None:
    subject = watchdog()
    deadlines = [subject.deadline]
    moments: tuple[Callable[[], None], ...] = (
        lambda: subject.starting(1),
        lambda: subject.loading(1),
        lambda: subject.running("anime", 100, 1),
        lambda: subject.other_sign(5),
        subject.idle,
    )
    for say in moments:
        say()
        deadlines.append(subject.deadline)
    assert deadlines == [None, 101, 601, 301, 305, None]


def test_a_first_step_may_take_long() -> None:
    subject = watchdog()
    subject.running("anime", 100, 0)
    subject.sampling(2)
    assert subject.deadline == 302


def test_quick_steps_make_it_strict() -> None:
    subject = watchdog()
    now = run_steps(subject, work=100, length=0.1)
    assert subject.deadline == pytest.approx(now + 20)


def test_slow_steps_make_it_patient() -> None:
    subject = watchdog()
    now = run_steps(subject, work=100, length=30.0)
    assert subject.deadline == pytest.approx(now + 600)


def test_more_pixels_may_take_longer() -> None:
    subject = watchdog()
    run_steps(subject, work=100, length=2.0)
    subject.running("anime", 400, 0)
    subject.sampling(0)
    assert subject.deadline == pytest.approx(20 * 8.0)


def test_another_model_is_not_judged_by_this_one() -> None:
    subject = watchdog()
    run_steps(subject, work=100, length=0.1)
    subject.running("other", 100, 0)
    subject.sampling(0)
    assert subject.deadline == 300


def test_the_slowest_step_is_remembered_for_a_while() -> None:
    subject = watchdog()
    run_steps(subject, work=1, length=10.0, steps=1)
    run_steps(subject, work=1, length=1.0, steps=1)
    subject.running("anime", 1, 0)
    subject.sampling(0)
    assert subject.deadline == pytest.approx(20 * 9.8)
