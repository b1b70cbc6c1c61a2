"""What words claim of somebody's looks, and which claims contradict each other: pure.

A claim is a value of an attribute of which somebody has one: the colour of the hair, the length of it, what is worn as
a whole. Two texts contradict each other where both claim something of one attribute and have no value in common. Words
that claim nothing known never contradict anything: nothing is dropped by a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from anime_common.prompts import syntax, tags
from anime_common.prompts.tags import Tag
from anime_common.prompts.vocabulary import LAST_WORDS, Place

# fmt: off
COLOURS = frozenset((
    "aqua", "azure", "beige", "black", "blonde", "blue", "brown", "chestnut", "copper", "crimson", "cyan", "emerald",
    "ginger", "gold", "golden", "green", "grey", "indigo", "lavender", "lilac", "magenta", "maroon", "navy", "orange",
    "pale", "pink", "platinum", "purple", "red", "scarlet", "silver", "tan", "tanned", "teal", "turquoise", "violet",
    "white", "yellow", "dark", "auburn", "amber", "hazel",
))
SHADES = frozenset(("dark", "pale"))
"""Colours of skin alone; of all else they say how light a colour is."""
HAIR_LENGTHS = frozenset(("long", "medium", "short", "shoulder-length", "waist-length"))
HAIR_STYLES = (
    "twintails", "side ponytail", "high ponytail", "low ponytail", "ponytail", "twin braids", "single braid", "braids",
    "braid", "bob cut", "pixie cut", "hime cut", "double bun", "hair bun", "drills", "twin drills", "hair down",
)
OUTFITS = frozenset((
    "dress", "uniform", "serafuku", "kimono", "yukata", "armor", "suit", "swimsuit", "bikini", "leotard", "pajamas",
    "robe", "bodysuit", "tracksuit", "overalls", "hakama", "cheongsam", "nude", "naked",
))
"""What is worn as a whole: whoever wears the one does not wear the other."""
# fmt: on
_ENDS = frozenset(("a", "an", "and", "her", "his", "in", "of", "on", "the", "their", "wearing", "with"))
_CLAUSES = re.compile(r"[,;.!?\n、，。]|\bBREAK\b")  # noqa: RUF001 - as typed in Japanese and Chinese
_DENIED = re.compile(r"\b(?:no|without|not wearing|removed)\s+((?:[\w'-]+\s?){1,3})", re.IGNORECASE)
_REACH = 3
"""How many words before a noun may say something of it."""


class Claim(NamedTuple):
    """A value of an attribute."""

    attribute: str
    value: str


def _nouns() -> frozenset[str]:
    worn = f"{LAST_WORDS[Place.CLOTHES]} {LAST_WORDS[Place.ACCESSORY]} {LAST_WORDS[Place.BODY]}"
    return frozenset({"hair", "eyes", *worn.split()})


NOUNS = _nouns()


def claims(text: str) -> frozenset[Claim]:
    """Everything that a text claims, its weights and brackets left aside."""
    return frozenset(claim for clause in clauses(text) for claim in _claims(clause.split()))


def clauses(text: str) -> Iterator[str]:
    """The pieces of a text between commas and ends of sentences, spelled as tags are."""
    for piece in _CLAUSES.split(syntax.plain(text)):
        if bare := " ".join(piece.split()):
            yield tags.canonical(Tag(bare, plain=True)).text


def _claims(words: Sequence[str]) -> Iterator[Claim]:
    line = f" {' '.join(words)} "
    style = next((each for each in HAIR_STYLES if f" {each} " in line), None)
    if style is not None:
        yield Claim("hair style", style)
    for place, word in enumerate(words):
        if word in OUTFITS:
            yield Claim("outfit", "nude" if word == "naked" else word)
        if word in NOUNS and not NOUNS.intersection(words[place + 1 : place + 2]):
            yield from _of_noun(word, [*_before(words, place), *_after(words, place)])


def _before(words: Sequence[str], place: int) -> list[str]:
    """What is said of a noun before it: of a hair ribbon, before the hair."""
    while place and words[place - 1] in NOUNS:
        place -= 1
    found: list[str] = []
    for word in reversed(words[max(place - _REACH, 0) : place]):
        if word in NOUNS or word in _ENDS:
            break
        found.append(word)
    return found


def _after(words: Sequence[str], place: int) -> list[str]:
    """As in "her hair is blue"."""
    if words[place + 1 : place + 2] in (["is"], ["are"]):
        return list(words[place + 2 : place + 3])
    return []


def _of_noun(noun: str, said: Sequence[str]) -> Iterator[Claim]:
    thing = "eye" if noun == "eyes" else noun
    for word in said:
        if word in COLOURS and (noun == "skin" or word not in SHADES):
            yield Claim(f"{thing} colour", {"tanned": "tan", "golden": "gold"}.get(word, word))
        if noun == "hair" and word in HAIR_LENGTHS:
            yield Claim("hair length", word)


def contradicted(trait: str, asked: Iterable[Claim]) -> Claim | None:
    """The claim that a trait contradicts, if there is one."""
    asked = frozenset(asked)
    for own in sorted(claims(trait)):
        others = {claim.value for claim in asked if claim.attribute == own.attribute}
        if others and own.value not in others:
            return Claim(own.attribute, min(others))
    return None


def denied(text: str) -> tuple[tuple[str, ...], ...]:
    """What a text says is not there: `no glasses`, `without a ribbon`; each as its words."""
    found = (tags.words(match[1]) for match in _DENIED.finditer(syntax.plain(text)))
    return tuple(tuple(word for word in each if word not in _ENDS) for each in found)


def is_denied(trait: str, denials: Iterable[Sequence[str]]) -> bool:
    """Whether a trait is what is said not to be there: all the words said are its own, its last among them."""
    own = tags.words(trait)
    return any(said and own and own[-1] in said and _leads(said, own) for said in denials)


def _leads(said: Sequence[str], own: Sequence[str]) -> bool:
    """Whether the words up to the noun are the trait's: `no red ribbon today` denies a red ribbon."""
    return set(said[: list(said).index(own[-1]) + 1]) <= set(own)


def says(text: str, phrase: str) -> bool:
    """Whether the words of a phrase stand together in a text, its weights and brackets left aside."""
    wanted = tags.words(phrase)
    found = tags.words(syntax.plain(text))
    return bool(wanted) and any(
        found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1)
    )
