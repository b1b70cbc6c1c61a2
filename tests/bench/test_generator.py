"""The generator's benchmark: a tiny real run, what its audit refuses, and records of machines side by side."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from anime_common.contracts.generator import OfferedJob
from anime_generator import wire
from tests.bench.generator import __main__ as bench
from tests.bench.generator import report
from tests.bench.generator.__main__ import QUICK, arguments, measure, subjects
from tests.bench.generator.audit import AuditError, Pixels, Reports, alike, audited, decoded
from tests.bench.generator.expected import METRICS
from tests.bench.generator.report import Measured, Record
from tests.bench.generator.subjects import Amount, Subject, fresh, from_registry, job, sprite
from tests.bench.generator.switching import ballast_bytes
from tests.bench.generator.timing import Lap, Range, alternately, percent_over, timed
from tests.bench.tables import Result, Table

TINY = Amount(cold=1, rounds=2, batches=(1, 2), batch_rounds=1, switches=1)

real_run = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def tiny() -> Subject:
    subject = sprite(TINY)
    defaults = subject.spec.defaults.model_copy(update={"width": 64, "height": 64})
    return replace(subject, spec=subject.spec.model_copy(update={"defaults": defaults}))


@real_run
def test_a_tiny_run_measures_audits_and_reports() -> None:
    parts = ["overhead", "batches", "embeddings", "previews"]
    found = measure(tiny(), parts)
    assert [(result.name, result.problem) for result in found.results] == [(name, None) for name in parts]
    assert all("Audit: " in result.remarks[-1] for result in found.results)
    expected = [metric for metric in METRICS if metric.part in parts and not metric.key.endswith((" at 4", " at 8"))]
    numbers = {metric.key: found.number(metric) for metric in expected}
    assert None not in numbers.values()
    assert numbers["pictures/s at 2"] > 0  # type: ignore[operator]
    text = report.markdown({"cpu": Record({"cores": 2}, [found])})
    assert "Nothing here was measured on a GPU" in text
    assert "#### Pictures a second by batch" in text
    assert text.count("\n| ") > len(METRICS)


@real_run
def test_a_switch_is_cheap_in_memory_and_dearer_from_the_disk() -> None:
    (found,) = measure(tiny(), ["switch"]).results
    assert found.problem is None
    resident, parked, read_again = (found.numbers[f"switch ms, {place}"] for place in ("device", "host", "disk"))
    assert resident < parked < read_again
    assert "Audit: 3 pictures" in found.remarks[-1]


@pytest.mark.slow
@real_run
def test_a_cold_process_draws_what_the_engine_draws() -> None:
    (found,) = measure(tiny(), ["cold"]).results
    assert found.problem is None
    assert found.numbers["times as quick"] > 2
    assert found.numbers["cold, import s"] > 0


@pytest.mark.slow
@real_run
@pytest.mark.parametrize("kind", ["single file", "sdxl folder"])
def test_models_of_the_owner_are_measured(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.generator.checkpoints import single_file, tiny_sd, tiny_sdxl

    if kind == "single file":
        config = tiny_sd(tmp_path / "sd")
        single_file(config, tmp_path / "mine.safetensors")
        lines = ['source = "mine.safetensors"', 'config = "sd"', "clip_skip = 2"]
    else:
        tiny_sdxl(tmp_path / "mine")
        lines = ['source = "mine"', "zero_terminal_snr = true"]
    defaults = ["[models.mine.defaults]", "width = 64", "height = 64", "steps = 4"]
    (tmp_path / "models.toml").write_text("\n".join(["[models.mine]", *lines, *defaults]))
    monkeypatch.setenv("ANIME_MODELS", str(tmp_path / "models.toml"))
    subject = from_registry("mine", TINY, "cpu")
    found = measure(subject, ["cold", "overhead", "switch"])
    assert [(result.name, result.problem) for result in found.results] == [
        (name, None) for name in ("cold", "overhead", "switch")
    ]


def test_a_full_run_is_recorded_and_no_other() -> None:
    assert arguments([]).record == bench.RECORDS
    assert arguments(["--device", "cuda", "--model", "mine"]).record == bench.RECORDS
    for words in (["--quick"], ["--only", "cold"], ["--rounds", "5"], ["--model", "mine"]):
        assert arguments(words).record is None
    assert arguments(["--quick", "--record", "there"]).record == Path("there")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "no part nothing"),
        (["--device", "simulated:100"], "cpu, cuda or cuda:<index>"),
        (["--rounds", "0"], "--rounds: must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert said in capsys.readouterr().err


def test_the_models_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick,) = subjects(arguments(["--quick"]), tmp_path)
    assert (quick.name, quick.amount, quick.device) == ("sprite", QUICK, "cpu")
    (named,) = subjects(arguments(["--model", "sprite", "--rounds", "7"]), tmp_path)
    assert (named.spec.defaults.width, named.amount.rounds) == (128, 7)
    monkeypatch.delenv("ANIME_MODELS", raising=False)
    with pytest.raises(ValueError, match="--model: there is no model 'mine'"):
        subjects(arguments(["--model", "mine"]), tmp_path)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


NOISE: Pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def reports_of(wanted: OfferedJob, *pictures: tuple[int, bytes], steps: int = 4) -> Reports:
    known: list[tuple[UUID, int]] = [(wanted.attempt_id, index) for index in range(wanted.settings.count)]
    found: list[tuple[wire.Report, bytes]] = [
        (wire.Stepped(run=1, pictures=tuple(known), step=step, steps=4), b"") for step in range(1, steps + 1)
    ]
    for index, blob in pictures:
        seed = wanted.settings.seed + index
        painted = wire.Painted(run=1, attempt_id=wanted.attempt_id, index=index, seed=seed, width=64, height=64)
        found.append((painted, blob))
    return [*found, (wire.Ended(run=1, attempt_id=wanted.attempt_id, outcome="painted"), b"")]


def test_the_audit_takes_whole_runs_and_no_others() -> None:
    wanted = job(tiny().settings(count=2))
    whole = reports_of(wanted, (0, png(NOISE)), (1, png(NOISE)))
    run = audited(wanted, whole)
    assert (len(run.pictures), run.widest, run.previews) == (2, 2, 0)
    for reports, said in (
        (whole[:-1], "not once painted"),
        (reports_of(wanted, (0, png(NOISE))), "1 pictures with the indexes"),
        (reports_of(wanted, (0, png(NOISE)), (0, png(NOISE)), (1, png(NOISE))), "3 pictures"),
        (reports_of(wanted, (0, png(NOISE)), (1, png(NOISE)), steps=3), "6 steps of single pictures, not 8"),
        (reports_of(wanted, (0, png(NOISE)), (1, png(NOISE[:32]))), "64 x 32 pixels, not 64 x 64"),
    ):
        with pytest.raises(AuditError, match=said):
            audited(wanted, reports)


def test_the_audit_refuses_pictures_that_show_nothing_or_something_else() -> None:
    with pytest.raises(AuditError, match="of one colour"):
        decoded(png(np.zeros_like(NOISE)), 64, 64)
    with pytest.raises(AuditError, match="cannot be read"):
        decoded(png(NOISE)[:-40], 64, 64)
    alike(NOISE, NOISE, "same")
    with pytest.raises(AuditError, match="other: the pictures differ"):
        alike(NOISE, NOISE[::-1], "other")


def test_a_part_that_fails_says_so_and_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench._guarded(tiny(), "cold", lambda: _raise(AuditError("a picture is missing")))
    text = report.markdown({"cpu": Record({}, [Measured("sprite", "sprite", {}, [found])])})
    assert "**Not measured:** AuditError: a picture is missing" in text
    assert found.numbers == {}


def _raise(error: Exception) -> Result:
    raise error


def test_a_run_on_a_card_fills_its_column_and_leaves_the_other(tmp_path: Path) -> None:
    def run(overhead: float) -> Record:
        numbers, table = {"overhead %": overhead}, Table(("what", "s"), [("a", 1.0)])
        result = Result("overhead", "Overhead", {}, numbers, [table], ["Audit: 1 picture."])
        return Record({"cores": 2}, [Measured("some", "Some", {"steps": 4}, [result])])

    report.record(tmp_path, "cpu", run(5.0))
    before = (tmp_path / report.PAGE).read_text()
    assert "GPU, measured" in before
    assert "Above the goal: over a bare pipeline call, like with like, wall (some, cpu): 5.00 %." in before
    report.record(tmp_path, "cuda", run(0.5))
    after = (tmp_path / report.PAGE).read_text()
    assert "some, cuda" in after
    assert "0.50 %" in after
    assert "Measured on a CPU" in after
    assert "Nothing here was measured on a GPU" not in after
    assert "GPU, measured" not in after
    report.record(tmp_path, "cpu", run(1.0))
    assert "No number is above its goal." in (tmp_path / report.PAGE).read_text()
    assert report.known(tmp_path)["cuda"].models == run(0.5).models
    assert json.loads((tmp_path / report.DATA).read_text())["cuda"]["machine"] == {"cores": 2}


def test_a_miss_by_the_clock_of_a_shared_machine_is_told_as_such() -> None:
    numbers = {"overhead %": 5.0, "overhead, CPU %": 4.0}
    found = Measured("some", "Some", {}, [Result("overhead", "Overhead", numbers=numbers)])
    text = report.markdown({"cpu": Record({report.OTHERS: "70 %", report.SHARED: "look elsewhere"}, [found])})
    assert "Above the goal by the clock, while other programs took 70 % of the machine: over a bare pipeline" in text
    assert "Above the goal: over a bare call, like with like, processor time (some, cpu): 4.00 %." in text


def test_contestants_take_turns_and_another_one_begins_each_round() -> None:
    calls: list[tuple[str, int]] = []

    def contestant(name: str, number: int) -> str:
        calls.append((name, number))
        return f"{name}{number}"

    found = alternately([lambda number: contestant("a", number), lambda number: contestant("b", number)], 2)
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert found == [["a0", "a1"], ["b0", "b1"]]


def test_percentages_are_medians_of_the_ratios_of_rounds() -> None:
    found = percent_over([1.5, 3.0, 9.0], [1.0, 2.0, 4.5])
    assert found == Range(50, 50, 100)
    with pytest.raises(ValueError, match="nothing was measured"):
        Range.of([])


def test_work_is_timed_by_both_clocks() -> None:
    lap = timed(lambda: sum(range(200_000)))
    assert isinstance(lap, Lap)
    assert lap.wall > 0
    assert lap.cpu > 0


def test_a_fresh_picture_has_texts_and_a_seed_of_its_own() -> None:
    settings = tiny().settings()
    made = [fresh(settings, number) for number in range(3)]
    assert len({each.prompt for each in made} | {settings.prompt}) == 4
    assert len({each.negative_prompt for each in made} | {settings.negative_prompt}) == 4
    assert {each.batch_key() for each in made} == {settings.batch_key()}


def test_a_card_is_left_room_for_one_model_and_not_for_two() -> None:
    total, free, size = 12_000, 11_500, 2_000
    left = free - ballast_bytes(free, total, size)
    limit = left - 0.15 * total  # what the policy lets models occupy of it
    assert size < limit < 2 * size
    assert ballast_bytes(3_000, 12_000, 2_000) == 0
