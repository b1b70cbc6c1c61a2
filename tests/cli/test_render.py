"""Texts for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_cli import render
from anime_common.contracts.files import FileView
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState
from tests.cli.fake_gateway import view


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.041, "0.04 s"), (1.44, "1.4 s"), (9.96, "10.0 s"), (59.6, "1 min"), (61, "1 min 1 s"),
     (3600, "1 h"), (7500, "2 h 5 min"), (90000, "25 h")],
)  # fmt: skip
def test_durations(value: float | None, text: str) -> None:
    assert render.seconds(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (418_503, "408.7 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({"width": 64, "height": 48}, "64x48"),
        ({"width": 64, "height": 48, "duration": 1.5}, "64x48, 1.5 s"),
        ({"width": 0, "height": 0, "duration": 75.0}, "1 min 15 s"),
    ],
)
def test_measures(known: dict[str, Any], text: str) -> None:
    assert render.measures(FileView.model_construct(**known)) == text


@given(st.text(), st.integers(2, 80))
def test_one_line_is_one_line_of_that_length(text: str, length: int) -> None:
    line = render.one_line(text, length)
    assert len(line) <= length
    assert line == " ".join(line.split())


def test_what_people_wrote_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("job", "prompt"), [("a", "[bold]1girl[/bold] :smile:")], "")
    render.fields([("prompt", "[red]x[/red]"), ("absent", None), ("empty", "")])
    said = capsys.readouterr().out
    assert "[bold]1girl[/bold] :smile:" in said
    assert "[red]x[/red]" in said
    assert "absent" not in said


def test_ids_are_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "WIDE", 60)
    ident = "0198c5a0-7c10-7a3e-9d51-3f6b2c8e4a10"
    render.table(("id", "prompt"), [(ident, "a long prompt " * 10)], "")
    assert ident in capsys.readouterr().out


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("job",), [], "no jobs")
    assert capsys.readouterr().out == "no jobs\n"


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (view(JobState.QUEUED, position=3), "place 3"),
        (view(JobState.QUEUED, message="paused"), "paused"),
        (view(JobState.RUNNING, phase="sampling", step=7, steps=20, percent=41.4), "41 % sampling 7/20"),
        (view(JobState.FILING, percent=99.0), "99 %"),
        (view(JobState.COMPLETED), "0 pictures"),
        (view(JobState.FAILED) | {"error": {"code": "x", "message": "no memory", "retryable": False}}, "no memory"),
        (view(JobState.CANCELLED) | {"message": "cancelled by tower"}, "cancelled by tower"),
    ],
)
def test_progress_in_a_few_words(job: dict[str, object], text: str) -> None:
    assert render.progress(JobView.model_validate(job)) == text


def test_ago() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert render.ago(at, datetime(2026, 3, 1, 12, 0, 42, tzinfo=UTC)) == "42 s ago"
    assert render.ago(at, datetime(2026, 3, 1, 11, tzinfo=UTC)) == "0.00 s ago", "clocks differ"
