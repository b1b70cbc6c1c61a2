import numpy as np
import pytest

from tools.sprite.measures import UNSEEN, accuracy, balanced_accuracy, frechet, interval


def test_what_cannot_be_seen_does_not_count() -> None:
    asked, found = np.array([0, 1, UNSEEN, 1]), np.array([0, 0, 1, 1])
    assert accuracy(found, asked) == pytest.approx(2 / 3)
    assert balanced_accuracy(found, asked) == pytest.approx((1 + 1 / 2) / 2)


def test_always_the_common_answer_is_no_better_than_chance() -> None:
    asked = np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(np.zeros(100, np.int64), asked) == 0.5


def test_the_interval_narrows_with_more_pictures() -> None:
    assert interval(0.5, 100) == pytest.approx(0.096, abs=0.002)
    assert interval(0.5, 400) < interval(0.5, 100) / 1.9
    assert interval(1.0, 100) > 0


def test_the_distance_of_normal_distributions_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, (60_000, 3))
    other = rng.normal(0, 1, (60_000, 3)) * [1, 2, 3] + [1, 0, 0]
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, other) == pytest.approx(1 + 0 + 1 + 4, rel=0.03)
    assert frechet(one, other) == pytest.approx(frechet(other, one))
