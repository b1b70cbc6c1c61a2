"""The benchmark itself: it measures a real stack, and tells no rate of what does not add up."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import page, sse_client, streams, throughput
from tests.bench.__main__ import QUICK, Sizes, arguments, sizes_of
from tests.bench.peers import environment, measuring
from tests.bench.tables import Result
from tests.stacks import Product

TINY = Sizes(samples=2, jobs=40, at_once=20, clients=5, seconds=1, held=20)

on_a_stack = pytest.mark.stack


def test_a_full_run_is_recorded_and_no_other() -> None:
    assert arguments([]).record == bench.RECORDS
    for words in (["--quick"], ["--only", "sse"], ["--jobs", "5"]):
        assert arguments(words).record is None
    assert arguments(["--quick", "--record", "there"]).record == Path("there")


def test_parts_and_sizes_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--only", "sse,throughput"]).only == ("sse", "throughput")
    assert sizes_of(arguments(["--quick", "--jobs", "7"])) == Sizes(**{**_as_dict(QUICK), "jobs": 7})
    with pytest.raises(SystemExit):
        arguments(["--only", "nothing"])
    assert "no part nothing" in capsys.readouterr().err


def _as_dict(sizes: Sizes) -> dict[str, int]:
    return {name: getattr(sizes, name) for name in Sizes.__slots__}


@on_a_stack
@pytest.mark.parametrize("part", ["started", "throughput", "accepted"])
async def test_a_part_measures_and_audits(part: str) -> None:
    (found,) = await bench.measure(arguments(["--only", part]), TINY)
    assert found.problem is None
    assert all(value >= 0 for value in found.numbers.values())
    text = page.markdown({}, [found])
    assert "Audit: " in text
    assert "no dead letters" in text
    if part == "throughput":
        assert found.numbers["sustained jobs/s"] > 0
        assert "Bottleneck: " in text
        assert {row["process"] for row in found.tables[1].records()} > {
            "jobs",
            "files",
            "generator",
            "nats",
            "postgres",
        }


@on_a_stack
async def test_streams_are_measured_and_audited(tmp_path: Path) -> None:
    found = await streams.run(tmp_path, TINY.clients, TINY.seconds, TINY.held, rates=(5, 20))
    assert found.numbers["held connections"] == TINY.held
    assert [row["offered events/s"] for row in found.tables[0].records()] == ["25", "100", "100 events at once"]


@on_a_stack
async def test_no_rate_is_told_when_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Path] = []

    async def remove_one(found: Product) -> None:
        removed.append(next(path for path in found.artifacts.rglob("*.png") if "staging" not in path.parts))
        removed[0].unlink()

    async def part(_given: argparse.Namespace, sizes: Sizes, _done: Mapping[str, Result]) -> Result:
        return await throughput.run(tmp_path, sizes.jobs, remove_one, within=1)

    monkeypatch.setattr(bench, "PARTS", {"throughput": part})
    (found,) = await bench.measure(arguments(["--quick"]), TINY)
    assert f"{removed[0].name} is not there" in str(found.problem)
    assert found.numbers == {}
    assert "jobs/s" not in page.markdown({}, [found])


async def test_a_client_that_missed_or_doubled_an_event_is_found() -> None:
    rounds: defaultdict[int, sse_client.Round] = defaultdict(sse_client.Round)
    whole, missing, doubled = (sse_client.Client(b"", rounds) for _ in range(3))
    for client, heard in ((whole, (0, 1, 2)), (missing, (0, 2)), (doubled, (0, 1, 1, 2))):
        text = b"".join(b'event: job\ndata: {"note":"bench-4-%d-%d"}\n\n' % (index, index + 1) for index in heard)
        for at in range(0, len(text), 7):  # however the bytes are cut
            client.data_received(text[at : at + 7])
    assert sse_client.complete([whole, doubled], 4, 3)
    assert not sse_client.complete([whole, missing], 4, 3)
    told = sse_client.report([whole, missing, doubled], 4, 3, rounds)
    assert (told["wrong"], told["events"]) == (2, 9)


async def test_peers_that_are_not_there_are_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> Path:
        raise environment.Absent("the peers could not be installed: no network")

    monkeypatch.setattr(environment, "python", absent)
    found = await measuring.run(tmp_path, 10, None, lambda _text: None)
    assert found.problem == "the peers could not be installed: no network"
    monkeypatch.setattr(environment, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(environment.Absent, match="redis-server not found"):
        environment.redis()
