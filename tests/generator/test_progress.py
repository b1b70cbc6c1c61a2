from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.generation import SampledPass
from anime_common.contracts.vocabulary import Phase
from anime_common.messages import uuid7
from anime_generator.progress import Costs, History, Pacer, Tracker
from anime_generator.residency import Tier

MEASURED = Costs(loading=4.0, encoding=1.0, step=1.0, decoding=2.0, saving=1.0, measured=True)


def tracker(images: int = 1, steps: int = 4, costs: Costs = MEASURED, *, cold: bool = False) -> Tracker:
    return Tracker(uuid7(), uuid7(), images, (SampledPass(steps, 100),), costs, cold=cold)


def draw(subject: Tracker, *, width: int, seconds: float = 1.0) -> list[float]:
    """Run all pictures in passes of `width`; returns the percent after every event."""
    seen = [subject.view().percent]
    now = 0.0
    for start in range(0, subject.images, width):
        indexes = range(start, min(start + width, subject.images))
        for phase in (Phase.ENCODING, Phase.SAMPLING):
            subject.begin(phase, now)
            seen.append(subject.view().percent)
        for step in range(1, subject.steps + 1):
            now += seconds
            subject.stepped(indexes, step, len(indexes), now)
            seen.append(subject.view().percent)
        subject.begin(Phase.DECODING, now)
        for index in indexes:
            subject.painted(index)
            seen.append(subject.view().percent)
            subject.saved(index)
            seen.append(subject.view().percent)
    subject.begin(Phase.SAVING, now)
    return [*seen, subject.view().percent]


@given(
    images=st.integers(1, 16),
    width=st.integers(1, 16),
    steps=st.integers(1, 60),
    cold=st.booleans(),
    costs=st.builds(
        Costs,
        loading=st.floats(0, 100),
        encoding=st.floats(0, 10),
        step=st.floats(0, 60),
        decoding=st.floats(0, 60),
        saving=st.floats(0, 10),
        measured=st.booleans(),
    ),
)
def test_percent_never_falls_stays_below_a_hundred_and_starts_at_nothing(
    images: int, width: int, steps: int, cold: bool, costs: Costs
) -> None:
    seen = draw(tracker(images, steps, costs, cold=cold), width=width)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] <= 99


@given(events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0, 9)), max_size=40))
def test_percent_is_monotonic_whatever_the_engine_says(events: list[tuple[int, int, float]]) -> None:
    subject = tracker(images=3, steps=5)
    before, now = 0.0, 0.0
    for kind, number, later in events:
        now += later
        if kind == 0:
            subject.begin(list(Phase)[number], now)
        elif kind == 1:
            subject.stepped([number % 3], number, 1, now)
        elif kind == 2:
            subject.painted(number % 3)
        else:
            subject.saved(number % 3)
        view = subject.view()
        assert before <= view.percent <= 99
        assert view.eta_seconds is None or view.eta_seconds >= 0
        before = view.percent


def test_percent_is_work_done_over_work_expected() -> None:
    subject = tracker(cold=True)  # 4 loading + 1 encoding + 4 steps + 2 decoding + 1 saving = 12 s
    assert subject.view().percent == 0
    subject.begin(Phase.ENCODING, 0)
    assert subject.view().percent == pytest.approx(100 * 4 / 12, abs=0.1)
    subject.begin(Phase.SAMPLING, 0)
    subject.stepped([0], 2, 1, 2)
    assert subject.view().percent == pytest.approx(100 * 7 / 12, abs=0.1)
    subject.painted(0)
    assert subject.view().percent == pytest.approx(100 * 11 / 12, abs=0.1)


def test_a_loading_time_that_is_not_known_counts_nothing() -> None:
    subject = tracker(costs=Costs(), cold=True)
    subject.begin(Phase.ENCODING, 0)
    assert subject.view().percent == 0


def test_steps_are_those_of_the_picture_in_work() -> None:
    subject = tracker(images=2, steps=4)
    assert subject.view().step is None
    subject.begin(Phase.SAMPLING, 0)
    assert (subject.view().step, subject.view().steps) == (0, 4)
    subject.stepped([0], 4, 1, 1)
    subject.painted(0)
    subject.begin(Phase.SAMPLING, 1)
    subject.stepped([1], 1, 1, 2)
    view = subject.view()
    assert (view.image, view.images, view.step, view.steps) == (1, 2, 1, 4)


def test_steps_that_are_made_anew_are_told_as_they_are_while_percent_waits() -> None:
    subject = tracker(steps=4)
    subject.begin(Phase.SAMPLING, 0)
    subject.stepped([0], 3, 1, 3)
    before = subject.view()
    subject.begin(Phase.LOADING, 3)
    subject.begin(Phase.SAMPLING, 4)
    assert (subject.view().step, subject.view().percent) == (0, before.percent)
    subject.stepped([0], 1, 1, 5)
    assert (subject.view().step, subject.view().percent) == (1, before.percent)


def test_the_remaining_time_follows_the_steps_of_this_attempt() -> None:
    subject = tracker(images=1, steps=10)
    subject.begin(Phase.SAMPLING, 0)
    for step in range(1, 5):
        subject.stepped([0], step, 1, step * 3.0)  # three seconds a step, where one was expected
    assert subject.view().eta_seconds == pytest.approx(6 * 3.0 + 2 + 1)


def test_the_remaining_time_counts_the_passes_to_come() -> None:
    subject = tracker(images=5, steps=4)
    subject.begin(Phase.SAMPLING, 0)
    subject.stepped([0, 1], 1, 2, 1.0)
    # Three steps of this pass, two more passes for three pictures, five pictures to decode and save.
    assert subject.view().eta_seconds == pytest.approx(3 + 8 + 5 * 3)


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert tracker(costs=Costs()).view().eta_seconds is None
    assert tracker().view().eta_seconds == pytest.approx(4 + 2 + 1)
    assert tracker(cold=True).view().eta_seconds == pytest.approx(4 + 4 + 2 + 1)


class TestHistory:
    TIMINGS: ClassVar = {
        Phase.LOADING: 8.0,
        Phase.ENCODING: 0.5,
        Phase.SAMPLING: 10.0,
        Phase.DECODING: 4.0,
        Phase.SAVING: 2.0,
    }

    def test_costs_grow_with_the_pixels(self) -> None:
        history = History()
        history.learn("anime", 100, pictures=2, step=0.5, timings=self.TIMINGS)
        costs = history.costs("anime", 400)
        assert costs.measured
        assert (costs.loading, costs.encoding) == (8.0, 0.5)
        assert (costs.step, costs.decoding, costs.saving) == pytest.approx((2.0, 8.0, 4.0))

    def test_each_class_of_sizes_has_its_own_measure(self) -> None:
        """Attention grows faster than pixels do."""
        history = History()
        history.learn("anime", 512 * 512, pictures=1, step=1.0, timings=self.TIMINGS)
        history.learn("anime", 1024 * 1024, pictures=1, step=8.0, timings=self.TIMINGS)
        assert history.costs("anime", 512 * 512).step == pytest.approx(1.0)
        assert history.costs("anime", 1024 * 1024).step == pytest.approx(8.0)
        assert history.costs("anime", 2048 * 2048).step == pytest.approx(32.0)

    def test_models_that_were_never_run_are_guessed(self) -> None:
        assert not History().costs("anime", 100).measured

    def test_a_warm_run_says_nothing_about_loading(self) -> None:
        history = History()
        warm = {**self.TIMINGS, Phase.LOADING: 0.001}
        history.learn("anime", 100, pictures=1, step=1.0, timings=self.TIMINGS)
        history.learn("anime", 100, pictures=1, step=1.0, timings=warm, source=Tier.DEVICE)
        assert history.costs("anime", 100).loading == 8.0

    def test_a_copy_from_host_memory_takes_less_than_the_disk(self) -> None:
        history = History()
        copied = {**self.TIMINGS, Phase.LOADING: 0.5}
        history.learn("anime", 100, pictures=1, step=1.0, timings=self.TIMINGS)
        history.learn("anime", 100, pictures=1, step=1.0, timings=copied, source=Tier.HOST)
        assert history.costs("anime", 100).loading == 8.0
        assert history.costs("anime", 100, Tier.HOST).loading == 0.5

    def test_the_newest_run_moves_the_mean(self) -> None:
        history = History()
        history.learn("anime", 1, pictures=1, step=1.0, timings={})
        history.learn("anime", 1, pictures=1, step=2.0, timings={})
        assert 1.0 < history.costs("anime", 1).step < 2.0


class TestPacer:
    @given(gaps=st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=200))
    def test_never_more_than_ten_in_any_second(self, gaps: list[tuple[float, bool]]) -> None:
        pacer, now, sent = Pacer(), 0.0, []
        for gap, urgent in gaps:
            now += gap
            if pacer.admit(now, urgent=urgent):
                sent.append(now)
        assert all(sent[i + 10] - sent[i] >= 1.0 for i in range(len(sent) - 10))

    def test_ordinary_ones_are_spread_over_the_second(self) -> None:
        pacer = Pacer()
        sent = [index for index in range(100) if pacer.admit(index / 100)]
        assert len(sent) == 7
        assert {after - before for before, after in pairwise(sent)} == {15}

    def test_some_are_kept_for_what_is_urgent(self) -> None:
        pacer = Pacer()
        for index in range(7):
            assert pacer.admit(index * 0.15)
        assert not pacer.admit(0.95)
        assert [pacer.admit(0.95, urgent=True) for _ in range(5)].count(True) == 3

    @given(gap=st.floats(0.0, 0.3))
    def test_what_has_to_wait_is_admitted_when_told(self, gap: float) -> None:
        pacer, now = Pacer(), 0.0
        for _ in range(20):
            pacer.admit(now)
            now += gap
        wait = pacer.wait(now)
        assert pacer.admit(now + wait + 1e-9)


class TestTwoPasses:
    """A second pass over a picture of four times the pixels: its steps cost four times as much."""

    PASSES = (SampledPass(4, 100), SampledPass(2, 400))

    def drawn(self) -> tuple[Tracker, list[tuple[float, int | None, float | None]]]:
        subject = Tracker(uuid7(), uuid7(), 1, self.PASSES, MEASURED)
        seen, now = [], 0.0
        for phase, steps, seconds in ((Phase.SAMPLING, (1, 2, 3, 4), 1.0), (Phase.UPSCALING, (), 0.0)):
            subject.begin(phase, now)
            for step in steps:
                now += seconds
                subject.stepped((0,), step, 1, now)
                seen.append((subject.view().percent, subject.view().step, subject.view().eta_seconds))
        subject.begin(Phase.SAMPLING, now)
        seen.append((subject.view().percent, subject.view().step, subject.view().eta_seconds))
        for step in (5, 6):
            now += 4.0
            subject.stepped((0,), step, 1, now)
            seen.append((subject.view().percent, subject.view().step, subject.view().eta_seconds))
        return subject, seen

    def test_steps_are_counted_through_and_never_fall(self) -> None:
        subject, seen = self.drawn()
        assert [step for _, step, _ in seen] == [1, 2, 3, 4, 4, 5, 6]
        assert subject.view().steps == 6

    def test_percent_follows_the_work_and_the_rest_is_foreseen(self) -> None:
        _, seen = self.drawn()
        percents = [percent for percent, _, _ in seen]
        # 4 + 8 units of sampling, 1 of encoding, 2 of decoding, 1 of saving.
        assert percents[3] == pytest.approx(100 * 5 / 16, abs=0.1)
        assert percents[-1] == pytest.approx(100 * 13 / 16, abs=0.1)
        assert percents == sorted(percents)
        assert [eta for _, _, eta in seen[3:]] == [11.0, 11.0, 7.0, 3.0]

    def test_what_is_learnt_of_a_step_does_not_depend_on_the_pass(self) -> None:
        subject, _ = self.drawn()
        assert subject.step_seconds() == pytest.approx(1.0)


def test_a_picture_that_is_only_enlarged_has_no_steps() -> None:
    subject = Tracker(uuid7(), uuid7(), 1, (), MEASURED)
    subject.begin(Phase.UPSCALING, 0.0)
    subject.painted(0)
    assert subject.view().steps is None
    subject.saved(0)
    assert subject.view().percent == 99.0


def test_a_workflow_that_makes_other_steps_than_asked_for_is_believed() -> None:
    subject = tracker(images=1, steps=1)
    subject.begin(Phase.SAMPLING, 0.0)
    seen = []
    for step in range(1, 21):
        subject.expect(20)
        subject.stepped((0,), step, 1, float(step))
        seen.append((subject.view().step, subject.view().steps, subject.view().percent))
    assert [each[:2] for each in seen] == [(step, 20) for step in range(1, 21)]
    percents = [each[2] for each in seen]
    assert percents == sorted(set(percents))
    assert percents[0] < 15
