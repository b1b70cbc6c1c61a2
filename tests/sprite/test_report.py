from typing import Any

from tools.sprite.report import GOALS, page


def results() -> dict[str, Any]:
    shares = {head: 0.5 for _, head, _ in GOALS}
    kinds = ("generated", "fast", "guidance 1", "guidance 4", "drawn", "decoded", "noisy")
    return {
        "count": 240,
        "usual": {"steps": 12, "guidance": 2.0, "negative_prompt": "blurry"},
        "fast": {"steps": 4, "guidance": 2.0, "negative_prompt": "blurry"},
        "seconds": {"generated": 1.25, "fast": 0.5},
        "samples": 12_000,
        "weights": "0123456789ab",
        "date": "2031-02-03",
        "commit": "abcdef0",
        "accuracy": dict.fromkeys(kinds, shares),
        "mean": dict.fromkeys(kinds, 0.5),
        "frechet": dict.fromkeys(kinds, 7.0),
        "variety": (31.0, 42.0),
        "avoidance": 0.03,
        "hikari": {"count": 50, "without": {"hair": 0.1, "eyes": 0.2}, "found": {"hair": 0.9, "eyes": 1.0}},
    }


def test_the_page_has_a_row_of_nine_cells_for_every_goal() -> None:
    rows = [line for line in page(results()).splitlines() if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [10] * (len(GOALS) + 1) + [4] * 7 + [4] * 3
    assert "| eye colour | **0.50** ± 0.06 | 0.70 | 0.50 | 0.13 | 0.14 |" in page(results())


def test_the_page_says_what_was_measured_when() -> None:
    text = page(results())
    assert "on 2031-02-03 with the sources of commit abcdef0: weights 0123456789ab,\ntrained on 12,000 samples" in text
    assert "| generated, preset `fast` | 0.500 | 7 |" in text
    assert "are 31 of 255 apart" in text
    assert "same seed, 3% of the pictures keep it" in text
