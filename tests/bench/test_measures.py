"""Percentiles and rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.measures import Spread, percentile, rate, sustained

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def test_percentiles_are_values_that_were_measured() -> None:
    spread = Spread.of(range(1, 101))
    assert (spread.count, spread.p50, spread.p99, spread.worst) == (100, 50, 99, 100)
    assert Spread.of([3.0]) == Spread(1, 3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


@given(VALUES, st.floats(0.01, 1))
def test_a_percentile_is_not_exceeded_by_its_share(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_the_total_rate_counts_from_the_first_submit() -> None:
    assert rate([3.0, 4.0, 5.0], began=1.0) == 0.75


def test_the_sustained_rate_leaves_out_a_slow_beginning_and_a_slow_end() -> None:
    middle = [10 + number / 100 for number in range(80)]
    ends = [float(number) for number in range(10)] + middle + [100.0 + number for number in range(10)]
    assert sustained(ends) == pytest.approx(100)


def test_a_run_without_a_middle_has_no_sustained_rate() -> None:
    with pytest.raises(ValueError, match="no middle"):
        sustained([1.0, 2.0])
