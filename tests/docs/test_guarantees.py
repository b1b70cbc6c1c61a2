"""Every promise names a test that exists."""

from __future__ import annotations

import re

from tests.stacks import ROOT

PAGE = ROOT / "docs" / "guarantees.md"


def test_each_promise_names_tests_that_exist() -> None:
    promised, _, _ = PAGE.read_text().partition("## Not promised")
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", row.rsplit("|", 2)[1])
        assert named, row
        last = ""
        for path, test in named:
            last = path or last
            text = (ROOT / last).read_text()
            assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{last}::{test}"
