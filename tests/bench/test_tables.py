"""How results are shown and recorded."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench import page
from tests.bench.tables import Cell, Result, Table, shown

MACHINE: dict[str, Cell] = {"cores": 2, "python": "3.11.7"}


def result() -> Result:
    return Result("some", "Some part", {"jobs": 20}, {"jobs/s": 12.345}, [Table(("what", "jobs/s"), [("all", 12.345)])])


def test_numbers_keep_three_digits_that_count() -> None:
    assert [shown(each) for each in (1234.5, 123.4, 12.34, 1.234, 0.0, 1000, None, "a|b")] == [
        "1,234", "123", "12.3", "1.23", "0.00", "1,000", "–", "a\\|b",
    ]  # fmt: skip


def test_a_table_is_aligned_with_numbers_to_the_right() -> None:
    table = Table(("what", "ms"), [("first", 1.0), ("second one", 100.0)], "Title")
    assert table.markdown().splitlines() == [
        "**Title**",
        "",
        "| what       |   ms |",
        "|------------|-----:|",
        "| first      | 1.00 |",
        "| second one |  100 |",
    ]
    assert table.records() == [{"what": "first", "ms": 1.0}, {"what": "second one", "ms": 100.0}]


def test_a_page_tells_the_machine_the_tables_and_the_settings(tmp_path: Path) -> None:
    page.record(tmp_path / "new", MACHINE, [result()])
    text = (tmp_path / "new" / page.PAGE).read_text()
    for part in ("- cores: 2", "## Some part", "| all  |   12.3 |", "Settings: jobs 20."):
        assert part in text
    told = json.loads((tmp_path / "new" / page.DATA).read_text())
    assert told["machine"] == MACHINE
    assert told["parts"]["some"]["numbers"] == {"jobs/s": 12.345}
    assert told["parts"]["some"]["tables"] == [{"title": "", "rows": [{"what": "all", "jobs/s": 12.345}]}]


def test_a_part_that_failed_says_why_in_place_of_numbers() -> None:
    text = page.markdown(MACHINE, [Result("some", "Some part", problem="a file is not there")])
    assert "**Not measured:** a file is not there" in text
    assert "jobs/s" not in text
