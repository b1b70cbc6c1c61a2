"""Writes the model card, from `card.md.in` and the vocabulary, with its sheet of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tools.sprite.shipped import PACKAGE
from tools.sprite.showcase import PROMPTS
from tools.sprite.vocabulary import ACCESSORIES, BAD, FRAMING, GOOD, TAGS

if TYPE_CHECKING:
    from PIL.Image import Image

CARD, SHEET = PACKAGE / "MODEL_CARD.md", PACKAGE / "sheet.webp"
_TEMPLATE = Path(__file__).with_name("card.md.in")
_NAMES = {
    "gender": "who", "hair": "hair", "style": "hair style", "bangs": "bangs", "eyes": "eyes",
    "expression": "expression", "skin": "skin", "outfit": "outfit", "cloth": "its colour", "scene": "background",
}  # fmt: skip


def text() -> str:
    """The card, in Markdown."""
    numbered = "\n".join(f"{seed}. `{prompt}`" for seed, prompt in enumerate(PROMPTS))
    return _TEMPLATE.read_text(encoding="utf-8").replace("{vocabulary}", _vocabulary()).replace("{prompts}", numbered)


def _vocabulary() -> str:
    """A row of a table for everything that a picture can show; synonyms follow a word in brackets."""
    rows = [(_NAMES[attribute], values.values()) for attribute, values in TAGS.items()]
    rows.append(("on the head", ACCESSORIES.values()))
    lines = [f"| {name} | {', '.join(_words(words) for words in values)} |" for name, values in rows]
    lines.append(f"| further | blush, {', '.join((*GOOD, *FRAMING))} |")
    lines.append(f"| for the negative prompt | {', '.join(BAD)} |")
    return "\n".join(lines)


def _words(words: tuple[str, ...]) -> str:
    return f"{words[0]} ({', '.join(words[1:])})" if words[1:] else words[0]


def write(pictures: Image) -> None:
    """Write the card and its sheet into the package."""
    CARD.write_text(text(), encoding="utf-8")
    pictures.save(SHEET, quality=88, method=6)
