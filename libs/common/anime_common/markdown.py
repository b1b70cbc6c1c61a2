"""Pieces of the Markdown pages that are made from contracts and topology."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A heading and a table."""
    return f"## {title}\n\n{table(head, rows)}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside of cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """A piece of code within a line."""
    return f"`{text}`"


def codes(texts: Iterable[str]) -> str:
    """Pieces of code, a line each within a cell."""
    return "<br>".join(code(text) for text in texts)


def anchor(title: str) -> str:
    """What `#…` of a link to a heading says, as GitHub spells it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def link(text: str, title: str) -> str:
    """A link to a heading of the same page."""
    return f"[{text}](#{anchor(title)})"


def prose(documented: object) -> str:
    """The docstring of a thing as one paragraph for each of its own."""
    return "\n\n".join(part.replace("\n", " ") for part in inspect.cleandoc(documented.__doc__ or "").split("\n\n"))


def summary(documented: object) -> str:
    """The first paragraph of the docstring of a thing, in one line."""
    return prose(documented).partition("\n\n")[0]
