from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anime_generator.device import Memory
from anime_generator.residency import budget, to_evict

RESIDENTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 100), max_size=6)


@given(resident=RESIDENTS, incoming=st.integers(0, 200), limit=st.integers(0, 300))
def test_what_stays_fits_and_no_more_goes_than_must(resident: dict[str, int], incoming: int, limit: int) -> None:
    evicted = to_evict(resident, incoming, limit)
    assert evicted == tuple(resident)[: len(evicted)]
    left = sum(size for key, size in resident.items() if key not in evicted)
    assert left + incoming <= limit or len(evicted) == len(resident)
    if evicted:
        assert left + resident[evicted[-1]] + incoming > limit


def test_two_models_that_fit_are_never_swapped() -> None:
    assert to_evict({"one": 4, "two": 4}, 0, 8) == ()


def test_a_card_is_for_models_and_the_machines_memory_for_everything() -> None:
    assert budget(Memory(1000, 10), host=False) == 850
    assert budget(Memory(1000, 10), host=True) == 500
