"""Failpoints: inert unless armed, act as often as told, and leave a record that a test can read."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anime_common import failpoints
from anime_common.failpoints import FailpointError, configure, hit, hit_sync
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    configure("")


async def strikes(name: str, tries: int) -> list[bool]:
    struck = []
    for _ in range(tries):
        try:
            await hit(name)
        except FailpointError:
            struck.append(True)
        else:
            struck.append(False)
    return struck


async def test_inert_unless_armed() -> None:
    assert await strikes("jobs.before_commit", 3) == [False] * 3
    hit_sync("jobs.before_commit")


@pytest.mark.parametrize(
    ("spec", "struck"),
    [
        ("here=error", [True, False, False]),
        ("here=error*2", [True, True, False]),
        ("here=error*0", [True, True, True]),
        ("elsewhere=error, here=error", [True, False, False]),
        ("elsewhere=error", [False, False, False]),
    ],
)
async def test_acts_as_often_as_told(spec: str, struck: list[bool]) -> None:
    configure(spec)
    assert await strikes("here", 3) == struck


def test_both_kinds_share_the_count() -> None:
    configure("here=error")
    with pytest.raises(FailpointError):
        hit_sync("here")
    asyncio.run(hit("here"))


@pytest.mark.parametrize(
    "spec",
    [
        "here", "here=", "here=explode", "=kill", "here=error*often", "here=error*-1", "here=sleep", "here=sleep:long",
        "here=hold",
    ],
)  # fmt: skip
def test_bad_syntax_is_refused_and_names_the_part(spec: str) -> None:
    with pytest.raises(ValueError, match="failpoint"):
        configure(f"fine=error,{spec}")


async def test_delays() -> None:
    configure("here=sleep:0.05*2")
    began = time.monotonic()
    await hit("here")
    hit_sync("here")
    assert time.monotonic() - began >= 0.1


async def test_holds_while_the_file_exists(tmp_path: Path) -> None:
    gate, record = tmp_path / "gate", tmp_path / "record"
    gate.touch()
    configure(f"here=hold:{gate}", record)
    holding = asyncio.create_task(hit("here"))
    await eventually(record.exists)
    assert not holding.done()
    gate.unlink()
    await asyncio.wait_for(holding, 5)


def test_says_that_it_acted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "record"
    configure("here=error*2,there=error", record)
    for name in ("here", "there", "here", "here", "nowhere"):
        try:
            hit_sync(name)
        except FailpointError:
            continue
    lines = "failpoint here error\nfailpoint there error\nfailpoint here error\n"
    assert record.read_text() == lines
    assert capsys.readouterr().err == lines


def test_a_new_process_goes_on_counting(tmp_path: Path) -> None:
    record = tmp_path / "record"
    code = (
        "import sys; from pathlib import Path; from anime_common import failpoints;"
        " failpoints.configure('here=kill*2', Path(sys.argv[1])); failpoints.hit_sync('here'); print('survived')"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, record], capture_output=True, text=True, check=False)
        for _ in range(3)
    ]
    assert [run.returncode for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert runs[2].stdout == "survived\n"
    assert record.read_text() == "failpoint here kill\n" * 2


def test_a_line_cut_short_by_a_crash_is_ignored(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text("failpoint here error\nfailp")
    configure("here=error*2", record)
    with pytest.raises(FailpointError):
        failpoints.hit_sync("here")
    hit_sync("here")
