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

`make sprite-eval` writes this page. Measured on {date} with the sources of commit {commit}: weights {weights},
trained on {samples:,} samples. {count} combinations of tags that no training picture showed, {steps} steps,
guidance {guidance:g}. A judge trained on drawn pictures says what each picture shows. All shares are balanced
accuracies: the mean over the values asked for. The last columns are the judge's own shares on drawn pictures of the
same combinations: as drawn, through the autoencoder, and through it with noise on the latents, which blurs them as
generating does.

| | generated | goal | in {fast} steps | prototype | chance | judge: drawn | decoded | noisy |
|---|---|---|---|---|---|---|---|---|
"""

_TAIL = """
± is half of a 95 % interval. The prototype's figures are from its own judge and its own, simpler pictures.

| {count} pictures | mean of the shares above | Fréchet distance |
|---|---|---|
{ways}

The Fréchet distance is between features of the judge, against {count} drawn pictures of other combinations: 0 is the
same distribution, smaller is better. "Drawn" is as good as it gets, "through the autoencoder" as good as this one lets
it get. Its value depends on the number of pictures, so compare within this table only.

- **Seeds.** Pictures of one prompt with different seeds are {variety:.0f} of 255 apart (root mean square over all
  pixels); drawn ones, which vary in pose, framing and details, are {drawn_variety:.0f} apart.
- **Negative prompt.** Where no colour of hair is asked for, the model chooses one. With that colour in the negative
  prompt and the same seed, {kept:.0%} of the pictures keep it.
- **Time.** A picture takes {seconds:.2f} s of one processor core, {fast_seconds:.2f} s in {fast} steps.

## Hikari, a character as a LoRA

The share of {shown} pictures (`hikari, 1girl`, an expression, a background) that show each part of her look:

| | {look} |
|---|{lines}|
| without the LoRA | {without} |
| with it | {with_it} |

Taking the LoRA away restores the model bit for bit: checked in the same run.
"""

_WAYS = {
    "generated": "generated",
    "fast": "generated, preset `fast`",
    "guidance 1": "generated, guidance 1 (none)",
    "guidance 4": "generated, guidance 4",
    "drawn": "drawn",
    "decoded": "drawn, through the autoencoder",
}


def _chance(head: str) -> float:
    return 1 / len(TAGS[head]) if head in TAGS else 0.5


def _row(name: str, head: str, goal: float | None, results: dict[str, Any]) -> str:
    table, trials = results["accuracy"], results["count"] * (len(ACCESSORIES) if head == "accessories" else 1)
    share = table["generated"][head]
    cells = [
        name,
        f"**{share:.2f}** ± {interval(share, trials):.2f}",
        f"{goal:.2f}" if goal is not None else "",
        f"{results['accuracy']['fast'][head]:.2f}",
        f"{PROTOTYPE[head]:.2f}" if head in PROTOTYPE else "",
        f"{_chance(head):.2f}",
        *(f"{table[kind][head]:.2f}" for kind in ("drawn", "decoded", "noisy")),
    ]
    return f"| {' | '.join(cells)} |"


def _way(name: str, words: str, results: dict[str, Any]) -> str:
    return f"| {words} | {results['mean'][name]:.3f} | {results['frechet'][name]:.0f} |"


def _hikari(count: int, without: dict[str, float], found: dict[str, float]) -> dict[str, Any]:
    return {
        "shown": count,
        "look": " | ".join(without),
        "lines": "|".join("---" for _ in without),
        "without": " | ".join(f"{share:.2f}" for share in without.values()),
        "with_it": " | ".join(f"{share:.2f}" for share in found.values()),
    }


def page(results: dict[str, Any]) -> str:
    """The page, in Markdown."""
    fast, count, seconds = results["fast"]["steps"], results["count"], results["seconds"]
    head = _HEAD.format(**results | results["usual"] | {"fast": fast})
    rows = "\n".join(_row(*goal, results) for goal in GOALS)
    variety, drawn_variety = results["variety"]
    tail = _TAIL.format(
        count=count,
        ways="\n".join(_way(name, words, results) for name, words in _WAYS.items()),
        variety=variety,
        drawn_variety=drawn_variety,
        kept=results["avoidance"],
        seconds=seconds["generated"],
        fast_seconds=seconds["fast"],
        fast=fast,
        **_hikari(**results["hikari"]),
    )
    return head + rows + "\n" + tail


def write(results: dict[str, Any]) -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(results), encoding="utf-8")
