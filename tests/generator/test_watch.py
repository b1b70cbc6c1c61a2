"""Previews: the first one early, all of them together for next to nothing. Time is the test's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Phase
from anime_common.messages import uuid7
from anime_generator.engines.beginnings import Beginning
from anime_generator.engines.protocol import Cancelled, EngineOptions, Picture, Previewed, Stepped
from anime_generator.engines.watch import PREVIEW_SHARE, Watch
from anime_generator.memory import Demand
from anime_generator.simulated import Simulated
from tests.generator.builders import Told


class Machine:
    """A sampler and a preview map that take as long as they are told, on a clock of their own."""

    def __init__(self, step: float, preview: float, *, every: int = 3, steps: int = 30, pictures: int = 1) -> None:
        self.now = 0.0
        self.step, self.preview, self.steps = step, preview, steps
        self.told = Told()
        self.pictures = tuple(Picture(uuid7(), index, index) for index in range(pictures))
        self.spent: list[float] = []
        self.watch = Watch(
            Simulated("card", 1 << 30),
            Demand("anime", Phase.SAMPLING, pictures),
            self,  # type: ignore[arg-type]
            self.pictures,
            Beginning(128, 128, steps, steps, steps),
            EngineOptions(preview_every=every),
            self.told,
            self.told,
            clock=lambda: self.now,
        )

    def jpeg(self, latent: Any, longer_side: int) -> bytes:
        del latent, longer_side
        self.now += self.preview
        self.spent.append(self.preview)
        return b"jpeg"

    def run(self) -> None:
        self.watch.begin()
        for index in range(self.steps):
            self.now += self.step
            self.watch.estimated([None] * len(self.pictures))
            self.watch.stepped(None, index, None, {})


@given(
    step=st.floats(0.001, 10),
    preview=st.floats(0.0001, 1),
    every=st.integers(1, 10),
    steps=st.integers(1, 100),
    pictures=st.integers(1, 4),
)
def test_previews_after_the_first_take_less_than_their_share(
    step: float, preview: float, every: int, steps: int, pictures: int
) -> None:
    machine = Machine(step, preview, every=every, steps=steps, pictures=pictures)
    machine.run()
    first = machine.spent[:pictures]
    assert sum(machine.spent) <= max(PREVIEW_SHARE * machine.now, sum(first))
    kinds = [type(event) for event in machine.told.events]
    if steps > 3:
        assert Stepped in kinds[: kinds.index(Previewed)]
        assert kinds[: kinds.index(Previewed)].count(Stepped) <= 3
    if kinds[-1] is not Stepped:
        pytest.fail("the last step has a preview")


def test_cheap_previews_come_every_few_steps() -> None:
    machine = Machine(step=0.2, preview=0.0002, every=3, steps=12)
    machine.run()
    steps = [event.step if isinstance(event, Stepped) else "preview" for event in machine.told.events]
    assert steps == [1, 2, 3, "preview", 4, 5, 6, "preview", 7, 8, 9, "preview", 10, 11, 12]


def test_dear_ones_come_once() -> None:
    machine = Machine(step=0.01, preview=1.0, every=1, steps=50)
    machine.run()
    assert len(machine.told.previews) == 1


def test_it_stops_when_every_picture_is_cancelled() -> None:
    machine = Machine(step=1, preview=0.1, pictures=2)
    machine.told.victims, machine.told.cancel_on = tuple(each.attempt_id for each in machine.pictures), (4,)
    with pytest.raises(Cancelled):
        machine.run()
    assert machine.told.steps == [1, 2, 3, 4]
