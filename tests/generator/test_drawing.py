"""What is tried when memory runs out, in the engine process's own code: faults come from a simulated card."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase, SizeLimits
from anime_generator.batching import FIRST_ROW
from anime_generator.drawing import IN_SLICES
from anime_generator.registry import ModelSpec
from tests.generator.bench import Bench, at_bench
from tests.generator.builders import noop_spec, offered, sprite_spec

MB = 1 << 20


def model(key: str, megabytes: int = 40, **changes: Any) -> ModelSpec:
    return noop_spec(key, memory=megabytes * MB).model_copy(update=changes)


def fault(phase: Phase, **how: Any) -> dict[str, Any]:
    return {"phase": phase.value, **how}


def job(key: str = "large", **changes: Any) -> OfferedJob:
    return offered(model=key, **changes)


def outcome(bench: Bench, *jobs: OfferedJob) -> list[tuple[str, str]]:
    drawn = bench.draw(*jobs)
    return [(drawn.end(each).outcome, drawn.end(each).code) for each in jobs]


PAINTED, FAILED = ("painted", ""), ("failed", "out_of_memory")

LARGE, SMALL = model("large", fallback="small"), model("small", 10)
ALONE = model("large")


class TestLoading:
    def test_others_leave_for_host_memory_and_the_load_is_tried_again(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE, SMALL) as bench:
            bench.draw(job("small"))
            bench.say(fault(Phase.LOADING, model="large", times=1))
            drawn = bench.draw(one := job())
            assert (drawn.end(one).outcome, drawn.end(one).warnings) == ("painted", ())
            assert drawn.loaded == ["large", "large"]
            assert (bench.tier("large"), bench.tier("small")) == ("device", "host")

    def test_the_fallback_stands_in_and_the_result_says_so(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            bench.say(fault(Phase.LOADING, model="large", times=0))
            drawn = bench.draw(one := job(count=2, seed=7))
            end = drawn.end(one)
            assert (end.outcome, end.warnings) == ("painted", ("large ran out of memory: drawn with small",))
            assert end.settings == one.settings.model_copy(update={"model": "small"})
            for record in drawn.pictures(one).values():
                assert record["settings"]["model"] == "small"
                assert record["warnings"] == list(end.warnings)
            assert bench.tier("large") is None
            assert bench.models["large"].reason.startswith("could not be loaded: out of memory")

    def test_without_a_fallback_it_fails_for_good_with_advice(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.LOADING, times=0), others_mb=30)
            drawn = bench.draw(one := job())
            end = drawn.end(one)
            assert (end.outcome, end.code, end.retryable, end.lone) == ("failed", "out_of_memory", False, True)
            assert "large does not fit into memory at 64 x 64" in end.message
            assert "100 MB, 30 MB of it in other programs' hands" in end.message
            assert "models.large.fallback" in end.message
            assert not drawn.leaving

    def test_a_model_larger_than_the_card_is_tried_all_the_same(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("large", 95), model("huge", 101)) as bench:
            assert outcome(bench, job()) == [PAINTED]
            assert outcome(bench, job("huge")) == [FAILED]
            assert outcome(bench, job()) == [PAINTED]


class TestSampling:
    def test_others_leave_before_anything_is_given_up(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE, SMALL) as bench:
            bench.draw(job("small"))
            bench.say(fault(Phase.SAMPLING, step=3, times=1))
            drawn = bench.draw(*(jobs := [job() for _ in range(4)]))
            assert {end.outcome for end in drawn.ends.values()} == {"painted"}
            assert set(drawn.widths) == {4}
            assert [drawn.end(each).warnings for each in jobs] == [()] * 4
            assert (bench.limits, bench.tier("small")) == ({}, "host")

    @pytest.mark.parametrize(("fits", "widths"), [(3, {4, 2}), (1, {4, 2, 1})])
    def test_a_batch_is_halved_until_it_fits_and_the_limit_is_learned(
        self, tmp_path: Path, fits: int, widths: set[int]
    ) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.SAMPLING, step=2, over=fits, times=0))
            jobs = [job() for _ in range(4)]
            drawn = bench.draw(*jobs)
            assert [drawn.end(each).outcome for each in jobs] == ["painted"] * 4
            assert set(drawn.widths) == widths
            assert bench.limits == {"large": min(widths)}
            again = bench.draw(*(job() for _ in range(4)))
            assert set(again.widths) == {min(widths)}

    def test_a_limit_that_was_learned_grows_again_when_there_is_room(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.SAMPLING, over=2, times=1))
            bench.draw(*(job() for _ in range(4)))
            assert bench.limits == {"large": 2}
            for _ in range(2 * FIRST_ROW):
                bench.draw(*(job() for _ in range(4)))
            bench.tell()
            assert bench.limits == {}

    def test_pictures_that_are_done_stay_done(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.SAMPLING, step=1, skip=1, times=1))  # the second pass
            drawn = bench.draw(one := job(count=6, seed=40))
            assert drawn.end(one).outcome == "painted"
            assert {index: record["seed"] for index, record in drawn.pictures(one).items()} == {
                index: 40 + index for index in range(6)
            }
            assert drawn.widths == [4] * 4 + [1] * 8

    def test_a_single_picture_is_drawn_in_slices(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.SAMPLING, step=2, frugal=False, times=0))
            drawn = bench.draw(one := job())
            assert (drawn.end(one).outcome, drawn.end(one).warnings) == ("painted", (IN_SLICES,))
            assert drawn.pictures(one)[0]["warnings"] == [IN_SLICES]
            again = bench.draw(two := job())  # known by now: no second failure
            assert again.end(two).warnings == (IN_SLICES,)
            assert len(again.widths) == 4

    def test_what_a_card_has_decides_not_a_guess(self, tmp_path: Path) -> None:
        """Passes take memory: 4 pictures of 64 x 64 at 2000 bytes a pixel are 31 MB, two are 16, the card has 20."""
        with at_bench(tmp_path, model("large", 80)) as bench:
            bench.say(activation_bytes=2000)
            jobs = [job() for _ in range(4)]
            assert outcome(bench, *jobs) == [PAINTED] * 4
            assert bench.limits == {"large": 2}

    def test_one_member_that_cannot_be_drawn_spoils_none_of_the_others(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            jobs = [job(), job(prompt="noop: fail=oom fail_at=2"), job()]
            assert outcome(bench, *jobs) == [PAINTED, FAILED, PAINTED]


class TestEncodingAndDecoding:
    @pytest.mark.parametrize("phase", [Phase.ENCODING, Phase.DECODING])
    def test_a_batch_is_not_halved_for_what_is_done_one_by_one(self, tmp_path: Path, phase: Phase) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(phase, frugal=False, times=0))
            jobs = [job() for _ in range(4)]
            drawn = bench.draw(*jobs)
            assert [drawn.end(each).warnings for each in jobs] == [(IN_SLICES,)] * 4
            assert set(drawn.widths) == {4}
            assert bench.limits == {}

    @pytest.mark.parametrize("phase", [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING])
    @pytest.mark.parametrize(
        ("times", "model_used", "warnings"),
        [(1, "large", ()), (2, "large", (IN_SLICES,)), (3, "small", ("large ran out of memory: drawn with small",))],
    )
    def test_once_twice_thrice(
        self, tmp_path: Path, phase: Phase, times: int, model_used: str, warnings: tuple[str, ...]
    ) -> None:
        """Another model leaves; then slices and tiles; then the fallback."""
        with at_bench(tmp_path, LARGE, SMALL, model("idle", 10)) as bench:
            bench.draw(job("idle"))
            bench.say(fault(phase, model="large", times=times))
            drawn = bench.draw(one := job())
            end = drawn.end(one)
            assert (end.outcome, end.warnings) == ("painted", warnings)
            assert drawn.pictures(one)[0]["settings"]["model"] == model_used
            assert (end.settings is None) == (model_used == "large")

    def test_pictures_drawn_before_the_fallback_stay_and_the_rest_is_told(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            bench.say(fault(Phase.DECODING, model="large", skip=1, times=0))
            drawn = bench.draw(one := job(count=3))
            end = drawn.end(one)
            assert (end.outcome, end.settings) == ("painted", None)
            assert end.warnings == ("large ran out of memory: drawn with small (of the pictures: 2, 3)",)
            makers = {index: record["settings"]["model"] for index, record in drawn.pictures(one).items()}
            assert makers == {0: "large", 1: "small", 2: "small"}


class TestFallback:
    def test_one_that_cannot_draw_the_size_is_not_used(self, tmp_path: Path) -> None:
        tiny = SMALL.model_copy(update={"sizes": SizeLimits(minimum=8, maximum=32, multiple=8)})
        with at_bench(tmp_path, LARGE, tiny) as bench:
            bench.say(fault(Phase.SAMPLING, model="large", times=0))
            drawn = bench.draw(one := job())
            assert drawn.end(one).retryable is False
            assert "width: small draws sides of 8 to 32 pixels in steps of 8, not 64" in drawn.end(one).message
            assert drawn.loaded == ["large"]

    def test_a_chain_is_followed_to_its_end(self, tmp_path: Path) -> None:
        middle = model("middle", 20, fallback="small")
        with at_bench(tmp_path, model("large", fallback="middle"), middle, SMALL) as bench:
            bench.say(fault(Phase.SAMPLING, model="large", times=0), fault(Phase.LOADING, model="middle", times=0))
            drawn = bench.draw(one := job())
            assert drawn.end(one).warnings == (
                "large ran out of memory: drawn with middle",
                "middle ran out of memory: drawn with small",
            )
            assert drawn.pictures(one)[0]["settings"]["model"] == "small"

    def test_a_circle_ends(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, model("small", 10, fallback="large")) as bench:
            bench.say(fault(Phase.SAMPLING, times=0))
            drawn = bench.draw(one := job())
            assert drawn.end(one).code == "out_of_memory"
            assert "its fallback large had no room either" in drawn.end(one).message

    def test_a_group_falls_back_together(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            bench.say(fault(Phase.LOADING, model="large", times=0))
            drawn = bench.draw(*(jobs := [job(), job(), job()]))
            assert {drawn.end(each).outcome for each in jobs} == {"painted"}
            assert set(drawn.widths) == {3}
            assert drawn.loaded == ["large", "small"]


class TestTheRest:
    def test_a_lost_context_replaces_the_process_and_nothing_more_is_tried(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            bench.say(fault(Phase.SAMPLING, step=2, kind="context"))
            drawn = bench.draw(one := job())
            end = drawn.end(one)
            assert (end.code, end.retryable, drawn.leaving) == ("device_error", True, True)
            assert drawn.loaded == ["large"]

    def test_a_cancel_ends_the_search(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            bench.say(fault(Phase.SAMPLING, step=2, times=0))
            one = job()
            bench.cancel.add((one.attempt_id,))
            drawn = bench.draw(one)
            assert drawn.end(one).outcome == "cancelled"
            assert drawn.widths == []

    def test_other_failures_are_not_tried_again(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, LARGE, SMALL) as bench:
            assert outcome(bench, job(prompt="noop: fail=retryable")) == [("failed", "engine_error")]

    def test_it_works_as_before_once_there_is_room(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, ALONE) as bench:
            bench.say(fault(Phase.SAMPLING, times=0))
            assert outcome(bench, job()) == [FAILED]
            bench.say()
            assert outcome(bench, job()) == [PAINTED]


FAULTS = st.lists(
    st.builds(
        fault,
        st.sampled_from([Phase.LOADING, Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]),
        step=st.integers(0, 4),
        model=st.sampled_from(["", "large", "small", "idle"]),
        over=st.integers(0, 4),
        frugal=st.booleans(),
        times=st.integers(0, 4),
        skip=st.integers(0, 3),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.tuples(FAULTS, st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=3))
def test_whatever_fails_every_job_has_one_end_and_no_picture_is_painted_twice(
    runs: list[tuple[list[dict[str, Any]], list[int]]],
) -> None:
    with (
        TemporaryDirectory() as folder,
        at_bench(Path(folder), LARGE, SMALL, model("idle", 30, pin=True)) as bench,
    ):
        bench.prepare("idle")
        for faults, counts in runs:
            bench.say(*faults)
            jobs = [job(count=count) for count in counts]
            drawn = bench.draw(*jobs)
            assert drawn.ends.keys() == {each.attempt_id for each in jobs}
            assert not drawn.leaving
            for each in jobs:
                end, pictures = drawn.end(each), drawn.pictures(each)
                assert end.outcome in {"painted", "failed"}
                assert (end.outcome == "painted") == (set(pictures) == set(range(each.settings.count)))
                makers = {record["settings"]["model"] for record in pictures.values()}
                used = (end.settings or each.settings).model
                assert end.outcome == "failed" or makers in ({used}, {"large", "small"})
                assert end.outcome == "failed" or (makers == {"large"}) == (not any("small" in w for w in end.warnings))
            resident = sum(each.bytes for each in bench.models.values() if each.tier == "device")
            assert resident == bench.card.held() <= 85 * MB
        bench.say()
        assert outcome(bench, job()) == [PAINTED]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
class TestRealModels:
    """The same with real pipelines, whose calls run through torch."""

    def sprite(self, key: str, **changes: Any) -> ModelSpec:
        return sprite_spec().model_copy(update={"key": key, "preload": False, "memory": 30 * MB} | changes)

    def job(self, key: str = "large", **changes: Any) -> OfferedJob:
        usual: dict[str, Any] = {"model": key, "width": 64, "height": 64, "steps": 4}
        return offered(**usual | changes)

    @pytest.mark.parametrize("phase", [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING])
    def test_once_twice_thrice(self, tmp_path: Path, phase: Phase) -> None:
        specs = [self.sprite("large", fallback="small"), self.sprite("small"), self.sprite("idle")]
        with at_bench(tmp_path, *specs, megabytes=1000) as bench:
            seen = []
            for times in (1, 2, 3):
                bench.give_up()
                bench.draw(self.job("idle"))
                bench.say(fault(phase, model="large", step=3 if phase is Phase.SAMPLING else 0, times=times))
                drawn = bench.draw(one := self.job(seed=5))
                seen.append((drawn.end(one).outcome, drawn.end(one).warnings))
                bench.workshop._limits._fits.clear()
            assert seen == [
                ("painted", ()),
                ("painted", (IN_SLICES,)),
                ("painted", ("large ran out of memory: drawn with small",)),
            ]

    def test_a_batch_is_halved_and_the_seeds_stay(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, self.sprite("large"), megabytes=1000) as bench:
            bench.say(fault(Phase.SAMPLING, step=2, over=2, times=0))
            drawn = bench.draw(*(jobs := [self.job(seed=seed) for seed in (1, 2, 3)]))
            assert [drawn.pictures(each)[0]["seed"] for each in jobs] == [1, 2, 3]
            assert bench.limits == {"large": 1}


def test_a_fault_file_that_is_being_written_is_looked_at_again(tmp_path: Path) -> None:
    with at_bench(tmp_path, ALONE) as bench:
        bench.script.write_text('{"others_mb": 5')
        assert bench.card.memory().free == 100 * MB
        bench.script.write_text(json.dumps({"others_mb": 5}))
        assert bench.card.memory().free == 95 * MB
