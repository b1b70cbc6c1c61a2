"""The builtin optimiser: deterministic, needs no server, drops nothing. Pure.

It spells tags as anime models know them, merges repeats, puts them into the order that such models are trained on, and
adds quality tags of the model's family and negatives that do not contradict the prompt. Optimising twice is as once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, islice

from anime_common.contracts.echo import Change, OptimizedPrompt
from anime_common.prompts import tags
from anime_common.prompts.tags import Prompt, Prose, Section, Tag, Tags
from anime_common.prompts.vocabulary import Place
from anime_echo_bridge.families import ROUGH, Family, family_of

PROVIDER = "builtin"
MAX_LENGTH = 4000
"""Characters of a prompt, as `PromptText` allows them."""
MAX_CHANGES = 40

_WEAK_WORDS = frozenset({"quality", "bad", "low", "worst", "artifacts"})
"""Words of negative tags that contradict nothing by themselves."""


def optimize(prompt: str, negative_prompt: str = "", family: str = "") -> OptimizedPrompt:
    """The improved prompt with what was done to it; the same for the same input, always."""
    known = family_of(family)
    text, changes = _positive(prompt, known)
    negative, more = _negative(negative_prompt, text, known)
    found = (changes + more)[:MAX_CHANGES]
    return OptimizedPrompt(prompt=text, negative_prompt=negative, provider=PROVIDER, changes=tuple(found))


def _positive(text: str, family: Family) -> tuple[str, list[Change]]:
    parsed = tags.parse(text)
    if parsed is None:
        note = "a bracket or quotation mark is not closed, so the prompt was left as it is"
        return text.strip(), [Change(kind="kept", text=note)]
    changes: list[Change] = []
    spelled = Prompt(tuple(_spell(section, changes) for section in parsed.sections), parsed.separators)
    added = _additions(spelled, family)
    ordered = Prompt(tuple(_order(section) for section in spelled.sections), spelled.separators)
    if ordered != spelled:
        order = "who, hair, eyes, body, clothes, accessories, expression, pose, scene, view, style, quality"
        changes.append(Change(kind="reordered", text=f"tags in the order {order}"))
    if added:
        first = _order(_add(ordered.sections[0], added))
        ordered = Prompt((first, *ordered.sections[1:]), ordered.separators)
        changes.append(Change(kind="added", text=", ".join(added)))
    found = tags.render(ordered) or text.strip()  # nothing but commas
    if len(found) > max(MAX_LENGTH, len(text)):
        return text.strip(), [Change(kind="kept", text="the prompt is as long as it may be: it was left as it is")]
    return found, changes


def _spell(section: Section, changes: list[Change]) -> Section:
    """The section with plain tags in their usual spelling, each of them once."""
    seen: set[str] = set()
    blocks: list[Prose | Tags] = []
    for block in section:
        if isinstance(block, Prose):
            blocks.append(block)
            continue
        kept: list[Tag] = []
        for tag in block:
            spelled = tags.canonical(tag)
            if spelled != tag:
                changes.append(Change(kind="normalised", text=f"{tag.text} → {spelled.text}"))
            if spelled.plain and spelled.text in seen:
                changes.append(Change(kind="deduplicated", text=spelled.text))
                continue
            seen.add(spelled.text)
            kept.append(spelled)
        if kept:
            blocks.append(tuple(kept))
    return tuple(blocks)


def _order(section: Section) -> Section:
    """The section with the tags of each line in their order; tags of one place stay as they stood."""
    return tuple(block if isinstance(block, Prose) else tuple(sorted(block, key=tags.place)) for block in section)


def _additions(prompt: Prompt, family: Family) -> list[str]:
    """Quality tags that the prompt lacks, as far as there is room for them."""
    found = tags.words(tags.render(prompt))
    if any(_has(found, rough) for rough in ROUGH):
        return []
    missing = [tag for tag in family.quality if not _has(found, tag)]
    ends = accumulate((len(tags.words(tag)) for tag in missing), initial=len(found))
    return [tag for tag, end in zip(missing, islice(ends, 1, None), strict=True) if end <= family.max_words]


def _add(section: Section, added: Iterable[str]) -> Section:
    """The section with more tags: in its last line of tags, or in a new line (for scores, in its first)."""
    new = tuple(Tag(tag, plain=True) for tag in added)
    blocks = list(section)
    lines = [number for number, block in enumerate(blocks) if not isinstance(block, Prose)]
    if not lines:
        first = tags.place(new[0]) is Place.SCORE
        return (new, *blocks) if first else (*blocks, new)
    number = lines[0] if tags.place(new[0]) is Place.SCORE else lines[-1]
    block = blocks[number]
    assert not isinstance(block, Prose)
    blocks[number] = (*block, *new)
    return tuple(blocks)


def _negative(text: str, prompt: str, family: Family) -> tuple[str, list[Change]]:
    """The negative prompt with what the family lacks, except what the prompt itself asks for."""
    text = text.strip()
    if tags.parse(text) is None:
        return text, []
    present, wanted = tags.words(text), tags.words(prompt)
    added = [
        tag
        for tag in family.negative
        if not _has(present, tag)
        and not _has(wanted, tag)
        and set(tags.words(tag)).isdisjoint(set(wanted) - _WEAK_WORDS)
    ]
    own = text.rstrip(",").rstrip()
    found = ", ".join(filter(None, [own, *added]))
    if not added or len(found) > MAX_LENGTH:
        return text, []
    return found, [Change(kind="added", text=f"to the negative prompt: {', '.join(added)}")]


def _has(found: list[str], phrase: str) -> bool:
    """Whether the words of a phrase stand together among the words of a text."""
    return f" {' '.join(tags.words(phrase))} " in f" {' '.join(found)} "
