"""`anime demo` on an empty home: starts everything, makes a picture, leaves nothing running."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from anime_cli.errors import ExitStatus
from anime_cli.process import command_line
from anime_cli.stack_file import read_stack_file
from tests.stacks import FREE_PORTS, PROGRAMS, Ran, ended, start


async def demo(home: Path, *arguments: str) -> Ran:
    env = {"ANIME_HOME": str(home), **{f"ANIME_{name.upper()}": "0" for name in FREE_PORTS}}
    return await ended(await start(str(PROGRAMS / "anime"), "demo", *arguments, cwd=home.parent, env=env), within=110)


def left_running(home: Path) -> list[str]:
    """The command lines of processes that still name this home."""
    pids = [
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and int(path.name) != os.getpid()
    ]
    return [line for pid in pids if str(home) in (line := command_line(pid))]


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what was left running")
async def test_a_first_picture_and_a_clear_refusal(tmp_path: Path) -> None:
    status, out, err = await demo(tmp_path / "home", "1girl, pink hair, night sky", "--seed", "7", "--steps", "8")
    assert status == ExitStatus.OK, err
    lines = out.splitlines()
    picture = Path(lines[-1].removeprefix("picture: "))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.is_relative_to(tmp_path / "home" / "artifacts" / "default")
    assert [line.split()[0] for line in lines if line.startswith(("loading", "sampling", "saving", "all"))]
    assert read_stack_file(tmp_path / "home") is None
    assert left_running(tmp_path / "home") == []

    status, out, err = await demo(tmp_path / "home", "1girl", "--steps", "900")
    assert status == ExitStatus.USAGE
    assert "steps: " in err
    assert "picture: " not in out
    assert left_running(tmp_path / "home") == []
