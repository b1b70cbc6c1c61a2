from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Phase
from anime_generator.watchdog import Patience, Watchdog

PATIENCE = Patience(start=100, load=60, load_rate=10, compile=900, step=300, floor=20, factor=20)


def watchdog() -> Watchdog:
    return Watchdog(PATIENCE)


def run_steps(
    subject: Watchdog, *, pixels: float, length: float, width: int = 1, steps: int = 3, model: str = "anime"
) -> float:
    """Run some steps; returns when the last one ended."""
    subject.running(model, pixels, width, 0.0)
    subject.began(Phase.SAMPLING, 0.0)
    for step in range(1, steps + 1):
        subject.stepped(step * length)
    return steps * length


def next_step(subject: Watchdog, *, pixels: float, width: int = 1, model: str = "anime") -> float | None:
    """How long the second step of a further run may take."""
    subject.running(model, pixels, width, 0.0)
    subject.began(Phase.SAMPLING, 0.0)
    subject.stepped(0.0)
    return subject.deadline


def test_each_state_has_its_own_patience() -> None:
    subject = watchdog()
    deadlines = [subject.deadline]
    moments: tuple[Callable[[], None], ...] = (
        lambda: subject.starting(1),
        lambda: subject.loading("anime", 0, 1),
        lambda: subject.running("anime", 100, 1, 1),
        lambda: subject.other_sign(5),
        subject.idle,
    )
    for say in moments:
        say()
        deadlines.append(subject.deadline)
    assert deadlines == [None, 101, 61, 301, 305, None]


@given(size=st.integers(0, 10_000), more=st.integers(0, 10_000))
def test_loading_may_take_as_long_as_its_bytes_do(size: int, more: int) -> None:
    one, other = watchdog(), watchdog()
    one.loading("anime", size, 0)
    other.loading("anime", size + more, 0)
    assert one.deadline == 60 + size / 10
    assert other.deadline is not None
    assert other.deadline - one.deadline == pytest.approx(more / 10)


def test_a_first_step_may_take_long() -> None:
    subject = watchdog()
    subject.running("anime", 100, 1, 0)
    subject.began(Phase.SAMPLING, 2)
    assert subject.deadline == 302


def test_a_first_step_that_compiles_does_not_make_the_others_lenient() -> None:
    subject = watchdog()
    subject.running("anime", 100, 1, 0)
    subject.began(Phase.SAMPLING, 0)
    subject.stepped(100)
    for step in range(1, 4):
        subject.stepped(100 + step * 0.1)
    assert subject.deadline == pytest.approx(100.3 + 20)
    subject.began(Phase.SAMPLING, 200)
    assert subject.deadline == 200 + 20 * 100


def test_a_compiled_model_may_take_long_to_load_and_at_every_first_step() -> None:
    subject = watchdog()
    subject.loading("anime", 100, 0.0, compiled=True)
    assert subject.deadline == PATIENCE.load + 10 + PATIENCE.compile
    run_steps(subject, pixels=1.0, length=0.1)
    subject.began(Phase.SAMPLING, 0.0)  # of another size, say: it compiles anew
    assert subject.deadline == PATIENCE.compile
    subject.stepped(1.0)
    assert subject.deadline == 1.0 + PATIENCE.floor
    subject.loading("anime", 100, 0.0)  # as the registry has it now
    assert subject.deadline == PATIENCE.load + 10


def test_quick_steps_make_it_strict() -> None:
    subject = watchdog()
    now = run_steps(subject, pixels=100, length=0.1)
    assert subject.deadline == pytest.approx(now + 20)


def test_slow_steps_make_it_patient() -> None:
    subject = watchdog()
    now = run_steps(subject, pixels=100, length=30.0)
    assert subject.deadline == pytest.approx(now + 600)


@pytest.mark.parametrize(("pixels", "width"), [(400, 1), (100, 4), (200, 2)])
def test_more_pixels_may_take_longer(pixels: float, width: int) -> None:
    subject = watchdog()
    run_steps(subject, pixels=100, length=2.0)
    assert next_step(subject, pixels=pixels, width=width) == pytest.approx(20 * 8.0)


def test_another_model_is_not_judged_by_this_one() -> None:
    subject = watchdog()
    run_steps(subject, pixels=100, length=0.1)
    assert next_step(subject, pixels=100, model="other") == 300


def test_a_model_that_stands_in_is_judged_by_its_own_work() -> None:
    subject = watchdog()
    run_steps(subject, pixels=100, length=0.1, model="small")
    subject.running("large", 100, 1, 0)
    subject.loading("small", 0, 0)
    subject.began(Phase.SAMPLING, 0)
    subject.stepped(1)
    assert subject.deadline == pytest.approx(21)


def test_the_slowest_step_is_remembered_for_a_while() -> None:
    subject = watchdog()
    run_steps(subject, pixels=1, length=10.0, steps=2)
    run_steps(subject, pixels=1, length=1.0, steps=2)
    assert next_step(subject, pixels=1) == pytest.approx(20 * 9.8)


def test_decoding_and_encoding_are_judged_by_what_they_took_before() -> None:
    subject = watchdog()
    subject.running("anime", 100, 1, 0)
    subject.began(Phase.ENCODING, 0)
    assert subject.deadline == 300
    subject.began(Phase.SAMPLING, 2)
    subject.stepped(3)
    subject.began(Phase.DECODING, 3)
    assert subject.deadline == 303
    subject.painted(8)
    assert subject.deadline == pytest.approx(8 + 20 * 5)
    subject.running("anime", 200, 1, 10)
    subject.began(Phase.ENCODING, 10)
    assert subject.deadline == pytest.approx(10 + 20 * 2)
    subject.began(Phase.DECODING, 11)
    assert subject.deadline == pytest.approx(11 + 20 * 10)


def test_a_preview_does_not_excuse_a_step_that_hangs() -> None:
    subject = watchdog()
    now = run_steps(subject, pixels=100, length=0.1)
    subject.other_sign(now + 10)
    assert subject.deadline == pytest.approx(now + 20)
