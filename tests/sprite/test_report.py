from typing import Any

from tools.sprite.report import GOALS, page


def results() -> dict[str, Any]:
    shares = {head: 0.5 for _, head, _ in GOALS}
    kinds = ("generated", "drawn", "decoded", "noisy")
    return {
        "count": 240,
        "steps": 12,
        "guidance": 4.0,
        "seconds": 1.25,
        "samples": 12_000,
        "accuracy": dict.fromkeys(kinds, shares),
        "frechet": dict.fromkeys(kinds, 7.0),
    }


def test_the_page_has_a_row_of_eight_cells_for_every_goal() -> None:
    rows = [line for line in page(results()).splitlines() if line.startswith("| ")]
    assert len(rows) == len(GOALS) + 1
    assert all(row.count("|") == 9 for row in rows)
    assert "| eye colour | **0.50** ± 0.06 | 0.70 | 0.13 | 0.14 |" in page(results())


def test_the_page_says_how_long_the_model_was_trained() -> None:
    assert "trained on 12,000 samples" in page(results())
    assert "as packaged" in page({**results(), "samples": 0})
