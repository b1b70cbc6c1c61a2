"""Writes what the evaluation found as a page: docs/models/sprite.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.sprite.measures import interval
from tools.sprite.vocabulary import ACCESSORIES, TAGS

PAGE = Path(__file__).parents[2] / "docs" / "models" / "sprite.md"

#: What a model is to reach: the name of a row, the head of the judge, the share.
GOALS: tuple[tuple[str, str, float | None], ...] = (
    ("hair colour", "hair", 0.95),
    ("background", "scene", 0.85),
    ("hair style", "style", 0.80),
    ("eye colour", "eyes", 0.70),
    ("expression", "expression", 0.65),
    ("outfit", "outfit", 0.70),
    ("accessories (mean of six)", "accessories", 0.70),
    ("girl or boy", "gender", None),
    ("colour of the outfit", "cloth", None),
    ("skin", "skin", None),
    ("bangs", "bangs", None),
)
#: What the prototype reached on 120 combinations of its own pictures, with a judge of its own (168 thousand samples).
PROTOTYPE = {
    "hair": 0.98, "style": 0.89, "scene": 0.84, "gender": 0.90, "eyes": 0.13, "expression": 0.13, "outfit": 0.16,
    "cloth": 0.18, "skin": 0.27,
}  # fmt: skip

_HEAD = """# Sprite: what the built-in model can do

`make sprite-eval` writes this page. {count} combinations of tags that no training picture showed, {steps} steps,
guidance {guidance:g}; {trained}. A judge trained on drawn pictures says what each picture shows.
All shares are balanced accuracies: the mean over the values asked for. The last columns are the judge's own shares on
drawn pictures of the same combinations: as drawn, through the autoencoder, and through it with noise on the latents.

| | generated | goal | prototype | chance | judge: drawn | decoded | noisy |
|---|---|---|---|---|---|---|---|
"""

_TAIL = """
± is half of a 95 % interval. The prototype's figures are from its own judge and its own, simpler pictures.

Fréchet distance in the features of the judge, {count} pictures against {count} drawn ones of other combinations (0: the
same distribution; smaller is better): generated **{generated:.1f}**, drawn {drawn:.1f} (as good as it gets), after the
autoencoder {decoded:.1f} (as good as this autoencoder lets it get).

One picture takes {seconds:.2f} s of one processor core.
"""


def _chance(head: str) -> float:
    return 1 / len(TAGS[head]) if head in TAGS else 0.5


def _row(name: str, head: str, goal: float | None, results: dict[str, Any]) -> str:
    table, trials = results["accuracy"], results["count"] * (len(ACCESSORIES) if head == "accessories" else 1)
    share = table["generated"][head]
    cells = [
        name,
        f"**{share:.2f}** ± {interval(share, trials):.2f}",
        f"{goal:.2f}" if goal is not None else "",
        f"{PROTOTYPE[head]:.2f}" if head in PROTOTYPE else "",
        f"{_chance(head):.2f}",
        *(f"{table[kind][head]:.2f}" for kind in ("drawn", "decoded", "noisy")),
    ]
    return f"| {' | '.join(cells)} |"


def page(results: dict[str, Any]) -> str:
    """The page, in Markdown."""
    samples = results["samples"]
    trained = f"trained on {samples:,} samples" if samples else "as packaged"
    head = _HEAD.format(**{key: results[key] for key in ("count", "steps", "guidance")}, trained=trained)
    rows = "\n".join(_row(*goal, results) for goal in GOALS)
    return head + rows + "\n" + _TAIL.format(count=results["count"], seconds=results["seconds"], **results["frechet"])


def write(results: dict[str, Any]) -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(results), encoding="utf-8")
