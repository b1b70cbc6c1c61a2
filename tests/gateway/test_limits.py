"""Token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_gateway.limits import RateLimit, neighbourhood


def test_a_burst_then_the_rate() -> None:
    limit = RateLimit(rate=2.0, burst=3)
    assert [limit.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limit.take("a", 0.5) == 0.0
    assert limit.take("a", 0.5) == 0.5


def test_each_key_has_its_own() -> None:
    limit = RateLimit(rate=1.0, burst=1)
    assert limit.take("a", 0.0) == 0.0
    assert limit.take("b", 0.0) == 0.0
    assert limit.take("a", 0.0) > 0


def test_it_remembers_so_many_and_no_more() -> None:
    limit = RateLimit(rate=1.0, burst=1, most=3)
    for key in "abcd":
        limit.take(key, 0.0)
    assert len(limit) == 3
    assert limit.take("d", 0.0) > 0
    assert limit.take("a", 0.0) == 0.0


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.floats(0, 2, allow_nan=False), max_size=200),
)
def test_never_more_than_burst_and_rate_allow_and_waiting_helps(rate: float, burst: int, pauses: list[float]) -> None:
    limit = RateLimit(rate, burst)
    now = 0.0
    for taken, pause in enumerate(pauses, 1):
        now += pause
        wait = limit.take("a", now)
        if wait:
            assert limit.take("a", now + wait + 1e-6) == 0.0
            now += wait + 1e-6
        assert taken <= burst + rate * now + 1e-3


def test_a_clock_that_steps_back_gives_nothing() -> None:
    limit = RateLimit(rate=1.0, burst=1)
    assert limit.take("a", 10.0) == 0.0
    assert limit.take("a", 5.0) > 0
    assert limit.take("a", 10.5) > 0


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.168.1.10", "192.168.1.10"),
        ("::ffff:192.168.1.10", "192.168.1.10"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_who_has_many_addresses_has_one_limit(address: str, counts_as: str) -> None:
    assert neighbourhood(address) == counts_as
