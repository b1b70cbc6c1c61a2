"""The benchmark of scheduling: it tells what was simulated, and says when the plan broke its word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.peers import environment
from tests.bench.scheduling import __main__ as bench
from tests.stacks import ROOT


def test_a_quick_run_prints_a_table_and_records_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records = ROOT / "docs" / f"{tmp_path.name}-not-written"
    monkeypatch.setattr(bench, "RECORDS", records)
    monkeypatch.setattr(bench, "FLEETS", (1, 4))
    assert bench.main(["--quick"]) == 0
    said = capsys.readouterr().out
    assert "| workers | served " in said
    assert "factor p50" in said
    assert not records.exists()


def test_a_plan_that_breaks_its_word_has_a_problem_in_place_of_a_rate() -> None:
    found = bench.simulate(200, (1,))
    assert bench.result(found, 200).problem is None
    found[0].passed_by = 1
    assert bench.result(found, 200).problem == "the plan broke its word over [1] workers"


def test_what_is_drawn_are_the_waits_of_each_class_in_order() -> None:
    panels = bench.drawing(bench.simulate(300, (4,)))["panels"]
    assert [panel["policy"] for panel in panels] == ["plan", "first come, first served"]
    for panel in panels:
        assert set(panel["waits"]) == {"interactive", "normal", "batch"}
        for waits in panel["waits"].values():
            assert waits == sorted(waits)


def test_without_its_environment_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "python", lambda: Path("/bin/false"))
    with pytest.raises(environment.Absent, match="could not be drawn"):
        bench.draw({"panels": []}, tmp_path / "x.svg")
