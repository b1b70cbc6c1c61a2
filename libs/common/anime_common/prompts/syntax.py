"""The prompt syntax that people know from AUTOMATIC1111's web UI, and how it fills an encoder's windows. Pure.

`(word)` weighs 1.1 times as much, `(word:1.3)` 1.3 times, `[word]` 1.1 times less; brackets nest and multiply, and a
bracket that is never closed reaches to the end. A backslash takes the meaning from the bracket after it. `BREAK`, in
capitals and alone, begins a new window. Source: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features
(attention/emphasis; the way prompts longer than a window are cut into chunks, at a comma where one is near).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROUND = 1.1
SQUARE = 1 / 1.1
"""What one pair of brackets multiplies by."""
LOWEST, HIGHEST = 0.0, 10.0
"""The weights a prompt may give; what is outside is brought to the nearest."""
NEAR = 20
"""A chunk that is full ends at its last comma, if that is among its last so many tokens."""

_MARK = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:|\\", re.DOTALL
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_SCHEDULED = re.compile(r"\[[^\[\]()\\]*:\s*\d+(?:\.\d+)?\s*\]|\[[^\[\]]*\|[^\[\]]*\]")


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of a prompt and how much it weighs."""

    text: str
    weight: float = 1.0


Section = tuple[Words, ...]
"""What stands between two BREAKs."""


def parse(prompt: str) -> tuple[Section, ...]:
    """The sections of a prompt, at least one; neighbours of equal weight are one piece."""
    return tuple(_joined(section) for section in _sections(_weighed(prompt)))


def plain(prompt: str) -> str:
    """The words of a prompt without the syntax."""
    return " ".join("".join(words.text for words in section).strip() for section in parse(prompt)).strip()


def not_understood(prompt: str) -> tuple[str, ...]:
    """What looks like prompt editing (`[from:to:0.5]`) or alternation (`[a|b]`), which are read as plain emphasis."""
    return tuple(found[0] for found in _SCHEDULED.finditer(prompt))


def _weighed(prompt: str) -> list[Words]:
    """The pieces of a prompt in order; BREAK is still in them."""
    pieces: list[Words] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, by: float) -> None:
        pieces[start:] = [Words(piece.text, piece.weight * by) for piece in pieces[start:]]

    for found in _MARK.finditer(prompt):
        mark = found[0]
        if mark in opened:
            opened[mark].append(len(pieces))
        elif found["weight"] is not None and opened["("]:
            multiply(opened["("].pop(), float(found["weight"]))
        elif mark == ")" and opened["("]:
            multiply(opened["("].pop(), ROUND)
        elif mark == "]" and opened["["]:
            multiply(opened["["].pop(), SQUARE)
        else:
            escaped = len(mark) == 2 and mark[0] == "\\"
            pieces.append(Words(mark[1] if escaped else mark))
    for bracket, by in (("(", ROUND), ("[", SQUARE)):
        for start in opened[bracket]:
            multiply(start, by)
    return [Words(piece.text, min(max(piece.weight, LOWEST), HIGHEST)) for piece in pieces]


def _sections(pieces: Sequence[Words]) -> list[list[Words]]:
    sections: list[list[Words]] = [[]]
    for piece in pieces:
        first, *others = _BREAK.split(piece.text)
        sections[-1].append(Words(first, piece.weight))
        sections += [[Words(text, piece.weight)] for text in others]
    return sections


def _joined(section: Sequence[Words]) -> Section:
    joined: list[Words] = []
    for words in section:
        if joined and joined[-1].weight == words.weight:
            joined[-1] = Words(joined[-1].text + words.text, words.weight)
        elif words.text:
            joined.append(words)
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one window of an encoder, without its marks of beginning and end, and the weight of each."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


def chunked(
    sections: Sequence[Section], tokenize: Callable[[str], Sequence[int]], window: int, comma: int | None
) -> tuple[Chunk, ...]:
    """Fill windows of `window` tokens; at least one, and a new one for each section.

    `tokenize` gives the ids of a text without marks; `comma` is the id at which a full window is cut, if one is near.
    """
    return tuple(chunk for section in sections for chunk in _filled(section, tokenize, window, comma)) or (Chunk(),)


def _filled(section: Section, tokenize: Callable[[str], Sequence[int]], window: int, comma: int | None) -> list[Chunk]:
    tokens = [(token, words.weight) for words in section for token in tokenize(words.text)]
    chunks: list[Chunk] = []
    while tokens:
        end = _cut([token for token, _ in tokens], window, comma)
        chunks.append(Chunk(tuple(token for token, _ in tokens[:end]), tuple(weight for _, weight in tokens[:end])))
        tokens = tokens[end:]
    return chunks or [Chunk()]


def _cut(tokens: Sequence[int], window: int, comma: int | None) -> int:
    """How many tokens the next window takes."""
    if len(tokens) <= window or comma is None:
        return min(len(tokens), window)
    if tokens[window] == comma:
        return window
    near = range(window - 1, max(window - NEAR, 1) - 1, -1)
    return next((place + 1 for place in near if tokens[place] == comma), window)
