"""What becomes of models in memory, in the engine process's own code on a simulated card."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anime_generator import wire
from anime_generator.registry import ModelSpec
from tests.generator.bench import Bench, at_bench
from tests.generator.builders import noop_spec, offered

MB = 1 << 20


def model(key: str, megabytes: int = 40, **changes: Any) -> ModelSpec:
    return noop_spec(key, memory=megabytes * MB).model_copy(update=changes)


def use(bench: Bench, *keys: str) -> None:
    for key in keys:
        drawn = bench.draw(offered(model=key))
        assert [end.outcome for end in drawn.ends.values()] == ["painted"]


def on(bench: Bench, tier: str | None) -> list[str]:
    return [each.key for each in bench.models.values() if each.tier == tier]


def test_the_least_recently_used_waits_in_host_memory_and_comes_back_from_there(tmp_path: Path) -> None:
    with at_bench(tmp_path, model("one"), model("two"), model("three")) as bench:
        use(bench, "one", "two", "one", "three")
        assert on(bench, "device") == ["one", "three"]
        assert on(bench, "host") == ["two"]
        assert bench.models["two"].reason == "made room for three"
        use(bench, "two")
        assert on(bench, "device") == ["three", "two"]
        assert on(bench, "host") == ["one"]


def test_the_host_tier_has_a_budget_of_its_own(tmp_path: Path) -> None:
    with at_bench(tmp_path, model("one"), model("two"), model("three"), model("four"), host_cache=50 * MB) as bench:
        use(bench, "one", "two", "three", "four")
        assert on(bench, "device") == ["three", "four"]
        assert on(bench, "host") == ["two"]
        assert on(bench, None) == ["one"]


def test_without_a_host_tier_models_are_dropped(tmp_path: Path) -> None:
    with at_bench(tmp_path, model("one"), model("two"), model("three"), host_cache=0) as bench:
        use(bench, "one", "two", "three")
        assert (on(bench, "device"), on(bench, "host"), on(bench, None)) == (["two", "three"], [], ["one"])


def test_what_is_told_of_a_model(tmp_path: Path) -> None:
    specs = model("one", preload=True), model("two", pin=True)
    with at_bench(tmp_path, *specs) as bench:
        bench.prepare("one")
        use(bench, "two")
        one, two = bench.models["one"], bench.models["two"]
        assert (one.tier, one.bytes, one.measured, one.reason) == ("device", 40 * MB, True, "preloaded")
        assert (one.preloaded, one.pinned, two.preloaded, two.pinned) == (True, False, False, True)
        assert two.reason == "drew the last job"
        assert one.last_used is not None
        assert two.last_used is not None
        assert one.last_used <= two.last_used


def test_pinned_and_preloaded_models_stay_while_others_can_go(tmp_path: Path) -> None:
    specs = model("pinned", 30, pin=True), model("preloaded", 30, preload=True), model("one", 20), model("two", 20)
    with at_bench(tmp_path, *specs) as bench:
        use(bench, "pinned", "preloaded")
        use(bench, "one", "two", "one", "two")
        assert set(on(bench, "device")) == {"pinned", "preloaded", "two"}


def test_models_are_given_up_as_ordered_from_both_tiers(tmp_path: Path) -> None:
    with at_bench(tmp_path, model("one"), model("two"), model("three")) as bench:
        use(bench, "one", "two", "three")
        bench.give_up("one")
        assert (on(bench, "host"), bench.models["one"].reason) == ([], "given up: as ordered")
        bench.give_up()
        assert (on(bench, "device"), bench.card.held()) == ([], 0)
        bench.give_up("nobody")
        use(bench, "one")


def test_models_whose_files_changed_are_loaded_anew_and_others_stay(tmp_path: Path) -> None:
    with at_bench(tmp_path, model("one"), model("two", 30)) as bench:
        use(bench, "one", "two")
        bench.configure(model("one", 50, stamp="later"), model("two", 30, pin=True))
        assert on(bench, "device") == ["two"]
        drawn = bench.draw(offered(model="one"))
        assert drawn.loaded == ["one"]
        assert (bench.models["one"].bytes, bench.models["two"].pinned) == (50 * MB, True)
        assert bench.card.held() == 80 * MB


class TestPressure:
    def test_idle_models_yield_to_another_program_least_recently_used_first(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30), model("two", 30)) as bench:
            use(bench, "one", "two")
            bench.say(others_mb=38)
            bench.look()
            assert (on(bench, "device"), on(bench, "host")) == (["two"], ["one"])
            assert bench.models["one"].reason == "given up: another program took 38 MB"
            bench.look()
            assert on(bench, "device") == ["two"]

    def test_a_little_is_no_reason(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30), model("two", 30)) as bench:
            use(bench, "one", "two")
            bench.say(others_mb=34)
            bench.look()
            assert on(bench, "device") == ["one", "two"]

    def test_pinned_ones_go_last(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30, pin=True), model("two", 30)) as bench:
            use(bench, "one", "two")
            bench.say(others_mb=38)
            bench.look()
            assert on(bench, "device") == ["one"]
            bench.say(others_mb=68)
            bench.look()
            assert on(bench, "device") == []

    def test_what_was_given_up_runs_again_beside_the_other_program(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30), model("two", 30)) as bench:
            use(bench, "one", "two")
            bench.say(others_mb=38)
            bench.look()
            use(bench, "one")  # two must go for it: the other program is still there
            assert (on(bench, "device"), on(bench, "host")) == (["one"], ["two"])
            bench.look()
            assert on(bench, "device") == ["one"]

    def test_preloaded_models_come_back_when_there_is_room_again(self, tmp_path: Path) -> None:
        with at_bench(
            tmp_path, model("one", 30, preload=True), model("two", 30), calm=0.0, host_cache=90 * MB
        ) as bench:
            bench.prepare("one")
            use(bench, "two")
            bench.say(others_mb=69)
            bench.look()
            bench.look()
            assert on(bench, "device") == []
            bench.say(others_mb=20)
            bench.look()
            assert (on(bench, "device"), on(bench, "host")) == (["one"], ["two"])
            assert bench.models["one"].reason == "preloaded again: there is room"

    def test_a_model_given_up_as_ordered_does_not_come_back_by_itself(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30, preload=True), calm=0.0) as bench:
            bench.prepare("one")
            bench.say(others_mb=69)
            bench.look()
            bench.give_up()
            bench.say()
            bench.look()
            assert on(bench, "device") == []

    def test_free_memory_is_told_when_it_changes(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30)) as bench:
            use(bench, "one")
            bench.say(others_mb=20)
            bench.workshop.look()
            [told] = [report for report, _ in bench.reports(until=wire.Residents)]
            assert isinstance(told, wire.Residents)
            assert told.device.memory_free == 50 * MB

    def test_nothing_is_told_while_nothing_changes(self, tmp_path: Path) -> None:
        with at_bench(tmp_path, model("one", 30)) as bench:
            use(bench, "one")
            for _ in range(3):
                bench.workshop.look()
            assert bench.told.empty()


SIZES = {"a": 10, "b": 25, "c": 40, "d": 60, "e": 90}
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.sampled_from("abcde")),
        st.tuples(st.just("others"), st.integers(0, 70)),
        st.tuples(st.just("give up"), st.sampled_from("abcde")),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, host=st.integers(0, 100))
def test_whatever_happens_accounts_and_budgets_hold(events: list[tuple[str, Any]], host: int) -> None:
    specs = [model(key, size, pin=key == "a", preload=key == "b") for key, size in SIZES.items()]
    with TemporaryDirectory() as folder, at_bench(Path(folder), *specs, host_cache=host * MB) as bench:
        others = 0
        for what, which in events:
            if what == "use":
                drawn = bench.draw(offered(model=which))
                [end] = drawn.ends.values()
                assert end.outcome == ("painted" if SIZES[which] + others <= 100 else "failed")
            elif what == "others":
                others = min(which, 100 - bench.card.held() // MB)
                bench.say(others_mb=others)
                bench.look()
            else:
                bench.give_up(which)
            bench.tell()
            resident = [each.bytes // MB for each in bench.models.values() if each.tier == "device"]
            waiting = [each.bytes // MB for each in bench.models.values() if each.tier == "host"]
            assert sum(resident) * MB == bench.card.held()
            assert sum(resident) <= 85 or len(resident) == 1
            assert sum(waiting) <= host
