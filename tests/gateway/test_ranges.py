"""Ranges and conditions of file content (RFC 9110)."""

import pytest

from anime_gateway.ranges import ByteRange, Unsatisfiable, matches, parse_range, range_applies


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=10-", 10, 100),
        ("bytes=90-1000", 90, 100),
        ("bytes=-1", 99, 100),
        ("bytes=-1000", 0, 100),
        ("Bytes = 5 - 6", 5, 7),
    ],
)
def test_one_range_is_understood(header: str, start: int, end: int) -> None:
    assert parse_range(header, 100) == ByteRange(start, end, 100)


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 99 + "-"],
)
def test_anything_else_sends_the_whole(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_of_the_content_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable) as found:
        parse_range(header, 100)
    assert found.value.size == 100


def test_the_length_and_the_header_of_a_range_agree() -> None:
    chosen = ByteRange(10, 20, 100)
    assert (chosen.length, chosen.content_range) == (10, "bytes 10-19/100")


@pytest.mark.parametrize(
    ("header", "same"),
    [(None, False), ("*", True), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ('"b"', False), ("a", False)],
)
def test_if_none_match(header: str | None, same: bool) -> None:
    assert matches(header, '"a"') is same


def test_if_range_compares_strongly() -> None:
    assert range_applies(None, '"a"')
    assert range_applies('"a"', '"a"')
    assert not range_applies('W/"a"', '"a"')
    assert not range_applies('"b"', '"a"')
