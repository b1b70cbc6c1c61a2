"""The place of a client in both streams, as `id:` and `Last-Event-ID`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_gateway.cursor import Cursor, Mark, incarnation

LEDGER, FACTS = incarnation("2026-06-01T12:00:00.123456789Z"), incarnation("2026-06-01T12:00:00.223456789Z")


def at(ledger: int, facts: int) -> Cursor:
    return Cursor(Mark(LEDGER, ledger), Mark(FACTS, facts))


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1), st.none() | st.integers(0, 10**9 - 1))
def test_a_token_brings_back_the_cursor(ledger: int, facts: int, end: int | None) -> None:
    cursor = Cursor(Mark(LEDGER, ledger), Mark(FACTS, facts), end)
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text())
def test_whatever_else_comes_back_is_no_cursor_or_a_whole_one(text: str) -> None:
    found = Cursor.parse(text)
    assert found is None or str(found).split(".")[0] in text


@pytest.mark.parametrize(
    "token", ["", "12", "x", "00000000.1", "0000000g.1-00000000.2", "00000000.-1-00000000.2", "a" * 400]
)
def test_other_tokens_are_refused(token: str) -> None:
    assert Cursor.parse(token) is None


def test_a_stream_made_at_another_time_is_another_stream() -> None:
    assert LEDGER != FACTS
    other = Cursor(Mark(incarnation("2026-06-02T12:00:00Z"), 3), Mark(FACTS, 3))
    assert other.problem(at(5, 5)) == "other_stream"


def test_a_place_after_the_last_event_is_in_the_future() -> None:
    assert at(6, 5).problem(at(5, 5)) == "future"
    assert at(5, 6).problem(at(5, 5)) == "future"
    assert at(5, 5).problem(at(5, 5)) is None


def test_how_far_behind_counts_both_streams() -> None:
    assert at(2, 3).behind(at(5, 9)) == 9
