"""The documentation as data: every document of the repository, taken apart into prose, blocks, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.stacks import ROOT

_FENCE = re.compile(r"^ *```(.*)$")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_COMMENT = re.compile(r"(^|\s)#\s.*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced piece of a document: its language, and its lines without the indentation of the fence."""

    language: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a shell block, each on one line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines if (command := _COMMENT.sub("", line).strip())]


@dataclass(frozen=True, slots=True)
class Document:
    """A Markdown file, with its prose and its fenced blocks apart."""

    path: Path
    prose: str
    blocks: tuple[Block, ...]

    def block(self, language: str, containing: str = "") -> Block:
        """The one block of a language that contains a text."""
        (found,) = [block for block in self.blocks if block.language == language and containing in block.text]
        return found

    def spans(self) -> list[str]:
        """The code within the prose."""
        return _SPAN.findall(self.prose)

    def commands(self, first_word: str) -> list[str]:
        """The commands of all shell blocks that begin with a word."""
        found = [command for block in self.blocks if block.language == "sh" for command in block.commands()]
        return [command for command in found if command.split()[0] == first_word]

    def links(self) -> list[str]:
        """The targets of links and images that are no addresses elsewhere."""
        return [target for target in _LINK.findall(_SPAN.sub("", self.prose)) if "://" not in target]

    def anchors(self) -> set[str]:
        """What `#…` may name: the headings, as GitHub spells them."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def read(path: Path) -> Document:
    """Take a file apart."""
    prose: list[str] = []
    blocks: list[Block] = []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if fence := _FENCE.match(line):
            indent = len(line) - len(line.lstrip())
            blocks.append(Block(fence[1].strip(), "\n".join(_fenced(lines, indent))))
        else:
            prose.append(line)
    return Document(path, "\n".join(prose), tuple(blocks))


def _fenced(lines: Iterator[str], indent: int) -> Iterator[str]:
    for line in lines:
        if _FENCE.match(line):
            return
        yield line[indent:]


def documents() -> list[Document]:
    """Every document of the repository: nothing under folders whose names begin with a dot, such as .venv."""
    found = [ROOT, *(folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith("."))]
    paths = [*ROOT.glob("*.md"), *(path for folder in found[1:] for path in folder.rglob("*.md"))]
    return [read(path) for path in sorted(paths)]
