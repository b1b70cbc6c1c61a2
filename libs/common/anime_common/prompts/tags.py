"""A prompt taken apart: sections, lines of prose, and tags; and what each tag is called and where it belongs. Pure.

    prompt   = section { ("BREAK" | "AND") section }
    section  = block { newline block }
    block    = prose | tag { "," tag }

What somebody wrote with care is never touched: weights and brackets, networks (`<lora:name:0.8>`), quotations,
sentences, text in other scripts. Text with a bracket or a quotation mark that is not closed is not taken apart at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from anime_common.prompts.vocabulary import (
    COUNTS,
    FIRST_WORDS,
    KEPT_PREFIXES,
    LAST_WORDS,
    PHRASES,
    WHOLE_TAGS,
    Place,
)

_CLOSING = {"(": ")", "[": "]", "{": "}", "“": "”", "「": "」", "『": "』", "（": "）"}  # noqa: RUF001 - as typed
_COMMAS = ",，、"  # noqa: RUF001 - as typed in Japanese and Chinese
_NETWORK = re.compile(r"<\w+:[^<>]*>")
_NETWORK_START = re.compile(r"<\w+:")
_SEPARATOR = re.compile(r"(?<!\w)(BREAK|AND)(?!\w)")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _'/-]*")
_SENTENCE = re.compile(r"[.!?…。！？][\"”]?(?=\s|$)")  # noqa: RUF001 - as typed
_FUNCTION_WORDS: Final = {
    *("a", "an", "the", "is", "are", "was", "were", "who", "which", "that", "whose", "while", "and"),
    *("she", "he", "her", "his", "they", "their", "it", "its", "i", "you"),
}
_PHRASE = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(PHRASES, key=len, reverse=True))) + r")(?![\w-])")
_COUNT = re.compile(r"(\d+) ?(girl|boy|other)s?\+?")
_LAST = {word: place for place, words in LAST_WORDS.items() for word in words.split()}
_FIRST = {word: place for place, words in FIRST_WORDS.items() for word in words.split()}


@dataclass(frozen=True, slots=True)
class Tag:
    """One piece between two commas. `plain` ones may be respelled and merged; others are kept letter by letter."""

    text: str
    plain: bool


@dataclass(frozen=True, slots=True)
class Prose:
    """A line that reads as sentences: kept as it is, where it is."""

    text: str


Tags = tuple[Tag, ...]
Section = tuple[Prose | Tags, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Sections, and the separators between them (one fewer)."""

    sections: tuple[Section, ...]
    separators: tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation and underscores."""
    return re.findall(r"[^\W_]+", text.lower())


def parse(text: str) -> Prompt | None:
    """A prompt taken apart; None when a bracket, quotation or network is not closed: then nothing is safe to move."""
    pieces = _pieces(text)
    if pieces is None:
        return None
    sections: list[list[list[str]]] = [[[""]]]
    separators: list[str] = []
    for piece in pieces:
        if piece in {"BREAK", "AND"}:
            separators.append(piece)
            sections.append([[""]])
        elif piece == "\n":
            sections[-1].append([""])
        elif piece in _COMMAS:
            sections[-1][-1] += [piece, ""]
        else:
            sections[-1][-1][-1] += piece
    return Prompt(tuple(_section(lines) for lines in sections), tuple(separators))


def _pieces(text: str) -> list[str] | None:
    """Separators, commas and line breaks outside of all brackets, and the text between them."""
    found: list[str] = []
    open_: list[str] = []
    at = start = 0
    while at < len(text):
        char = text[at]
        step = 1
        if char == "\\":
            step = 2
        elif open_ and char == open_[-1]:
            open_.pop()
        elif char == '"':
            open_.append('"')
        elif open_ and open_[-1] in '"”':
            pass  # inside of a quotation nothing but its end counts
        elif char in _CLOSING:
            open_.append(_CLOSING[char])
        elif char in _CLOSING.values():
            return None
        elif char == "<" and _NETWORK_START.match(text, at):
            network = _NETWORK.match(text, at)
            if network is None:
                return None
            step = network.end() - at
        elif not open_ and (mark := _mark(text, at)):
            step = len(mark)
            found += [text[start:at], mark]
            start = at + step
        at += step
    if open_ or at > len(text):
        return None
    return [piece for piece in [*found, text[start:]] if piece]


def _mark(text: str, at: int) -> str:
    """The comma, line break or separator that stands here; empty when there is none."""
    if text[at] in _COMMAS or text[at] == "\n":
        return text[at]
    match = _SEPARATOR.match(text, at)
    return match.group(1) if match else ""


def _section(lines: Iterable[Sequence[str]]) -> Section:
    blocks: list[Prose | Tags] = []
    for line in lines:
        pieces = [text for piece in line[::2] if (text := piece.strip())]
        if not pieces:
            continue
        wordy = [_reads_as_prose(piece) for piece in pieces]
        sentences = any(is_wordy and _SENTENCE.search(piece) for piece, is_wordy in zip(pieces, wordy, strict=True))
        if sentences or 2 * sum(wordy) >= len(wordy):
            blocks.append(Prose("".join(line).strip()))
            continue
        tags = tuple(
            Tag(piece, not is_wordy and _is_plain(piece)) for piece, is_wordy in zip(pieces, wordy, strict=True)
        )
        if blocks and isinstance(blocks[-1], tuple):
            blocks[-1] += tags
        else:
            blocks.append(tags)
    return tuple(blocks)


def _reads_as_prose(piece: str) -> bool:
    """Whether a piece is (part of) a sentence rather than a tag."""
    if piece[0] in _CLOSING or piece[0] in '"<':
        return False
    found = words(piece)
    if _SENTENCE.search(piece):
        return len(found) >= 3
    return len(found) >= 10 or (len(found) >= 4 and not _FUNCTION_WORDS.isdisjoint(found))


def _is_plain(piece: str) -> bool:
    return _PLAIN.fullmatch(" ".join(piece.split())) is not None


def canonical(tag: Tag) -> Tag:
    """The tag as anime models know it: lower case, blanks for underscores, the usual spelling. Twice is as once."""
    if not tag.plain:
        return tag
    text = " ".join(tag.text.split()).lower()
    # Faces such as o_o, and tags that are spelled with underscores, are what they are.
    if text.startswith(KEPT_PREFIXES) or re.fullmatch(r"\w_\w", text):
        return Tag(text, plain=True)
    text = " ".join(text.replace("_", " ").split())
    text = _PHRASE.sub(lambda match: PHRASES[match.group(1)], text)
    text = WHOLE_TAGS.get(text, text)
    if count := _COUNT.fullmatch(text):
        number, who = int(count.group(1)), count.group(2)
        text = f"{number}{who}{'s' if number > 1 else ''}{'+' if text.endswith('+') else ''}"
    return Tag(text, plain=True)


def place(tag: Tag) -> Place:
    """Where a tag belongs, by the words in it. What is not known is taken for a name, which comes early."""
    bare = _NETWORK.sub(" ", tag.text)
    if not bare.strip():
        return Place.NETWORK
    text = bare.lower()
    if text.startswith(KEPT_PREFIXES):
        return Place.SCORE
    text = " ".join(re.sub(r"[()\[\]{}\\\"]|:[\d.]+", " ", text).replace("_", " ").split())
    if text in COUNTS or _COUNT.fullmatch(text):
        return Place.COUNT
    parts = text.split()
    if not parts:
        return Place.CHARACTER
    if parts[0] in _FIRST:
        return _FIRST[parts[0]]
    return _LAST.get(parts[-1], Place.CHARACTER)


def render(prompt: Prompt) -> str:
    """The text of a prompt. Lines of prose stand alone; tags stand in one line."""
    parts: list[str] = []
    for number, section in enumerate(prompt.sections):
        if number:
            parts.append(prompt.separators[number - 1])
        text = "\n".join(_line(block) for block in section)
        if text:
            parts.append(text)
    return " ".join(parts)


def _line(block: Prose | Tags) -> str:
    return block.text if isinstance(block, Prose) else ", ".join(tag.text for tag in block)


def kept_words(text: str) -> set[str]:
    """The words that an optimised prompt must still have: those of tags in their usual spelling, and of the rest."""
    prompt = parse(text)
    if prompt is None:
        return set(words(text))
    found: set[str] = set()
    for section in prompt.sections:
        for block in section:
            pieces = [block.text] if isinstance(block, Prose) else [canonical(tag).text for tag in block]
            found.update(word for piece in pieces for word in words(piece))
    return found
