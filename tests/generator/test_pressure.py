"""When models are given up because another program needs the card."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_generator.memory import Memory
from anime_generator.pressure import Pressure, Thresholds

TOTAL = 1000
RULES = Thresholds(low=0.05, high=0.1, calm=60)


def card(ours: int, others: int) -> Memory:
    return Memory(TOTAL, max(TOTAL - ours - others, 0))


def test_nothing_is_given_up_while_there_is_room() -> None:
    rule = Pressure(RULES)
    rule.settle(card(600, 0), 600)
    assert rule.look(card(600, 340), 600, 0.0) == 0


def test_what_is_missing_is_given_up_when_another_program_has_grown() -> None:
    rule = Pressure(RULES)
    rule.settle(card(600, 50), 600)
    assert rule.look(card(600, 380), 600, 0.0) == 80  # 20 are free, 100 are wanted
    assert rule.grown == 330


def test_a_card_that_we_alone_have_filled_stays_full() -> None:
    rule = Pressure(RULES)
    rule.settle(card(980, 0), 980)
    assert rule.look(card(980, 10), 980, 0.0) == 0  # what the driver takes is no other program


def test_a_program_that_was_there_before_the_model_was_loaded_is_no_news() -> None:
    rule = Pressure(RULES)
    rule.settle(card(400, 580), 400)
    assert rule.look(card(400, 580), 400, 0.0) == 0
    assert rule.look(card(400, 100), 400, 0.0) == 0  # it left
    assert rule.look(card(400, 590), 400, 0.0) == 90  # and came back


def test_it_can_be_switched_off() -> None:
    rule = Pressure(Thresholds(low=0.0))
    rule.settle(card(600, 0), 600)
    assert rule.look(card(600, 400), 600, 0.0) == 0


def test_models_come_back_only_after_there_was_room_for_a_while() -> None:
    rule = Pressure(RULES)
    rule.look(card(100, 300), 100, 0.0)
    assert rule.room(card(100, 300), 59.0) == 0
    assert rule.room(card(100, 300), 60.0) == 500
    rule.look(card(100, 850), 100, 61.0)  # back under pressure
    rule.look(card(100, 300), 100, 62.0)
    assert rule.room(card(100, 300), 120.0) == 0
    assert rule.room(card(100, 300), 122.0) == 500


@given(
    changes=st.lists(st.integers(0, 1000), min_size=1, max_size=40),
    ours=st.integers(0, 900),
    model=st.integers(1, 300),
)
def test_it_does_not_flap(changes: list[int], ours: int, model: int) -> None:
    """Whatever others do, nothing is given up and brought back within the time of calm."""
    rule = Pressure(RULES)
    rule.settle(card(ours, 0), ours)
    given_up: float | None = None
    for now, others in enumerate(changes):
        memory = card(ours, others)
        wanted = rule.look(memory, ours, float(now))
        if wanted:
            assert memory.free < RULES.low * TOTAL
            ours, given_up = max(ours - max(wanted, model), 0), float(now)
        elif rule.room(memory, float(now)) >= model:
            assert given_up is None or now - given_up >= RULES.calm
            ours += model
            rule.settle(card(ours, others), ours)
            assert card(ours, others).free >= RULES.low * TOTAL


@pytest.mark.parametrize("others", [380, 400])
def test_enough_given_up_is_enough(others: int) -> None:
    rule = Pressure(RULES)
    rule.settle(card(600, 0), 600)
    wanted = rule.look(card(600, others), 600, 0.0)
    assert wanted > 0
    assert rule.look(card(600 - wanted, others), 600 - wanted, 1.0) == 0
