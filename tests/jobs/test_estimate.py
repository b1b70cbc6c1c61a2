"""How long jobs take, as it is learned from samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_jobs.estimate import PRIOR, Estimates, Sample, learn, size_class

SMALL, LARGE = 2.0**20, 2.0**24


def sample(seconds: float, *, worker: str = "w", size: float = SMALL, pictures: int = 1, **fields: object) -> Sample:
    known = {"engine": "e", "model": "a", "loading": 0.0} | fields
    return Sample(worker=worker, size=size, work=size * pictures, seconds=seconds, **known)  # type: ignore[arg-type]


def seconds(found: Estimates, worker: str = "w", size: float = SMALL, model: str = "a") -> float | None:
    return found.seconds(worker, "e", model, size, size)


def test_what_was_never_measured_is_not_known() -> None:
    found = learn([sample(3.0)])
    assert seconds(found, model="b") is None
    assert found.seconds("w", "another", "a", SMALL, SMALL) is None
    assert found.loading("w", "e", "a") == 0.0
    assert seconds(Estimates()) is None


def test_the_median_stands_whatever_the_tail_does() -> None:
    found = learn([sample(each) for each in (2.0, 2.0, 2.0, 900.0, 2.0)])
    assert seconds(found) == pytest.approx(2.0)


def test_the_seconds_of_several_pictures_are_those_of_their_work() -> None:
    found = learn([sample(8.0, pictures=4)])
    assert found.seconds("w", "e", "a", SMALL, SMALL) == pytest.approx(2.0)
    assert found.seconds("w", "e", "a", SMALL, 3 * SMALL) == pytest.approx(6.0)


def test_few_samples_of_a_worker_stay_near_the_model_and_many_are_its_own() -> None:
    others = [sample(10.0, worker=f"o{n}") for n in range(40)]
    few = learn([*others, sample(2.0, worker="fast")])
    many = learn([*others, *[sample(2.0, worker="fast")] * 30])
    one, all_ = seconds(few, "fast"), seconds(many, "fast")
    assert one is not None
    assert all_ is not None
    shrunk = 1 / (1 + PRIOR)
    assert one == pytest.approx(10.0 * (2.0 / 10.0) ** (shrunk + (1 - shrunk) * shrunk))
    assert 2.0 < all_ < 2.4
    assert seconds(few, "never seen") == pytest.approx(10.0)


def test_a_size_that_a_worker_never_made_takes_what_is_known_of_both() -> None:
    """A fast worker, and large pictures that cost twice as much a unit: fast at large ones was never seen."""
    many = range(50)
    found = learn(
        [sample(4.0, worker="slow") for _ in many]
        + [sample(1.0, worker="fast") for _ in many]
        + [sample(4.0 * 16 * 2, worker="slow", size=LARGE) for _ in many]
    )
    guessed, seen = seconds(found, "fast", LARGE), seconds(found, "slow", LARGE)
    assert guessed is not None
    assert seen is not None
    assert seen == pytest.approx(128.0, rel=0.1)
    assert guessed < 0.6 * seen


def test_loading_is_learned_of_those_who_loaded() -> None:
    found = learn([sample(5.0, loading=0.0), sample(5.0, loading=12.0), sample(5.0, loading=0.0)])
    assert found.loading("w", "e", "a") == pytest.approx(12.0)
    assert seconds(found) == pytest.approx(5.0)


@given(st.floats(1.0, 1e12), st.floats(1.0, 1e12))
def test_sizes_of_one_class_differ_by_no_more_than_two(one: float, other: float) -> None:
    ratio = max(one, other) / min(one, other)
    if size_class(one) == size_class(other):
        assert ratio <= 2.0 * (1 + 1e-12)
    else:
        assert ratio > 1.0
    assert size_class(0.0) == 0


@given(
    st.lists(
        st.builds(
            sample,
            st.floats(0.0, 1e5),
            worker=st.sampled_from("uvw"),
            size=st.sampled_from([SMALL, LARGE]),
            model=st.sampled_from("ab"),
            loading=st.floats(0.0, 1e3),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_an_estimate_lies_within_what_was_measured_by_no_more_than_what_shrinks_it(samples: list[Sample]) -> None:
    found = learn(samples)
    for each in samples:
        speeds = [max(s.seconds, 1e-3) / s.work for s in samples if s.model == each.model]
        spread = math.log(max(speeds) / min(speeds))
        told = found.seconds(each.worker, "e", each.model, each.size, each.size)
        assert told is not None
        assert math.log(min(speeds)) - 3 * spread - 1e-6 <= math.log(told / each.size)
        assert math.log(told / each.size) <= math.log(max(speeds)) + 3 * spread + 1e-6
