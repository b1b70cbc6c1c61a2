"""Which words of a prompt a model with a vocabulary of its own does not know: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SYNTAX = re.compile(r":[-+]?\d*\.?\d+(?=[)\]])|[()\[\]{}\\]")
_PARTS = re.compile(r"[,;.\n]|\bBREAK\b")
_LITTLE = frozenset(
    {"a", "an", "and", "at", "by", "her", "his", "in", "is", "of", "on", "the", "to", "wearing", "with"}
)
SHOWN = 12
"""How many tags a notice names."""


def unknown_words(prompt: str, tags: Iterable[str]) -> tuple[str, ...]:
    """What is left of each part of a prompt when the tags are taken out of it, in the order of the prompt.

    Upper and lower case are the same, weights and brackets do not count, and neither do little words such as `with`.
    """
    known = sorted((tag.lower() for tag in tags), key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(tag)}(?!\w)" for tag in known)) if known else None
    found: dict[str, None] = {}
    for part in _PARTS.split(_SYNTAX.sub("", prompt)):
        text = part.lower().replace("_", " ")
        rest = pattern.sub(" ", text) if pattern else text
        if words := [word for word in rest.split() if word not in _LITTLE]:
            found[" ".join(words)] = None
    return tuple(found)


def notice(model: str, unknown: tuple[str, ...], tags: tuple[str, ...]) -> str:
    """What to tell who used words that the model does not know."""
    shown = ", ".join(tags[:SHOWN])
    more = f" and {len(tags) - SHOWN} more (anime models show {model})" if len(tags) > SHOWN else ""
    return f"prompt: left out {', '.join(map(repr, unknown))}; {model} knows these tags: {shown}{more}"
