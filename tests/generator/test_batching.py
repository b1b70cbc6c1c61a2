"""How many pictures fit into a pass is learned from what did not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anime_generator.batching import FIRST_ROW, BatchLimits, Pass
from anime_generator.sizes import size_class

SMALL, LARGE = 512 * 512, 1024 * 1024


def draw(limits: BatchLimits, fits: int, pixels: int = SMALL, *, configured: int = 8) -> int:
    """A run in which so many pictures fit into a pass; returns how often it ran out of memory."""
    failed = 0
    while (planned := limits.plan("anime", pixels, configured)).pictures > fits:
        limits.overflowed("anime", pixels, planned, halve=True)
        failed += 1
    limits.fitted("anime", pixels, planned, full=True)
    return failed


def test_the_registry_is_believed_until_memory_says_otherwise() -> None:
    limits = BatchLimits()
    assert limits.plan("anime", SMALL, 8) == Pass(8)
    assert limits.announced({"anime": 8}) == {}


def test_running_out_halves_the_limit_and_it_is_announced() -> None:
    limits = BatchLimits()
    assert draw(limits, fits=3) == 2
    assert limits.plan("anime", SMALL, 8) == Pass(2)
    assert limits.announced({"anime": 8, "other": 4}) == {"anime": 2}
    assert limits.announced({"other": 4}) == {}  # the registry has lost the model
    assert limits.plan("other", SMALL, 4) == Pass(4)


@given(fits=st.integers(1, 12), configured=st.integers(1, 12), runs=st.integers(1, 400))
def test_it_finds_what_fits_and_tries_more_ever_less_often(fits: int, configured: int, runs: int) -> None:
    limits = BatchLimits()
    failed = [draw(limits, fits, configured=configured) for _ in range(runs)]
    later = sum(failed[1:])
    assert all(each <= 1 for each in failed[1:])
    # Rows of 8, 16, 32, … full runs lie between two failures.
    assert 2**later <= runs / FIRST_ROW + 1
    assert limits.plan("anime", SMALL, configured).pictures <= max(configured, 1)
    if runs >= 300:
        assert limits.plan("anime", SMALL, configured).pictures >= min(fits, configured) // 2


def test_larger_pictures_are_never_drawn_in_larger_passes() -> None:
    limits = BatchLimits()
    draw(limits, fits=2)
    assert limits.plan("anime", LARGE, 8) == Pass(2)
    limits = BatchLimits()
    draw(limits, fits=2, pixels=LARGE)
    assert limits.plan("anime", SMALL, 8) == Pass(8)


def test_larger_pictures_that_fit_speak_for_smaller_ones() -> None:
    limits = BatchLimits()
    draw(limits, fits=1)
    for _ in range(FIRST_ROW):
        draw(limits, fits=8, pixels=LARGE)
    assert limits.plan("anime", SMALL, 8) == Pass(2)


def test_passes_with_room_left_teach_nothing() -> None:
    limits = BatchLimits()
    limits.overflowed("anime", SMALL, Pass(8), halve=True)
    for _ in range(10 * FIRST_ROW):
        limits.fitted("anime", SMALL, Pass(4), full=False)
    assert limits.plan("anime", SMALL, 8) == Pass(4)


def test_slices_and_tiles_are_left_again_after_a_row_of_runs() -> None:
    limits = BatchLimits()
    limits.overflowed("anime", SMALL, Pass(1), halve=False)
    assert limits.plan("anime", SMALL, 8).economical
    for _ in range(FIRST_ROW):
        limits.fitted("anime", SMALL, limits.plan("anime", SMALL, 8), full=True)
    assert not limits.plan("anime", SMALL, 8).economical


def test_sizes_are_grouped_by_half_octaves() -> None:
    assert [size_class(side * side) for side in (128, 512, 768, 1024)] == [28, 36, 38, 40]
    assert size_class(512 * 520) == size_class(512 * 512)
    assert size_class(0) == 0
