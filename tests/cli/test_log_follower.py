"""The merged log: every line once, behind the name of its service."""

from __future__ import annotations

import io
from pathlib import Path

from anime_cli.log_follower import LogFollower
from anime_cli.process import rotate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_once_whole_and_with_their_names(tmp_path: Path) -> None:
    out = io.StringIO()
    jobs, files = tmp_path / "jobs.log", tmp_path / "files.log"
    follower = LogFollower({"jobs": jobs, "files": files}, out)
    follower.print_new()
    jobs.write_text("one\ntw")
    follower.print_new()
    assert out.getvalue() == "jobs  | one\n"
    with jobs.open("a") as log:
        log.write("o\n")
    files.write_text("three\n")
    follower.print_new()
    assert out.getvalue() == "jobs  | one\njobs  | two\nfiles | three\n"


def test_the_last_words_of_a_killed_service_are_printed_without_their_line_end(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / "jobs.log").write_text("cut of")
    follower = LogFollower({"jobs": tmp_path / "jobs.log"}, out)
    follower.print_new(whole_lines=False)
    assert out.getvalue() == "jobs | cut of\n"


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    out = Terminal()
    (tmp_path / "jobs.log").write_text("one\n")
    LogFollower({"jobs": tmp_path / "jobs.log"}, out).print_new()
    assert out.getvalue() == "\x1b[36mjobs |\x1b[0m one\n"


def test_a_follower_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / "jobs.log").write_bytes(b"\xff\xfe\n")
    LogFollower({"jobs": tmp_path / "jobs.log"}, out).print_new()
    assert out.getvalue() == "jobs | ��\n"


def test_the_log_of_the_last_run_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "jobs.log"
    rotate(log)
    for text in ("first", "second"):
        log.write_text(text)
        rotate(log)
    assert not log.exists()
    assert (tmp_path / "jobs.log.1").read_text() == "second"
