"""Judges what an optimiser answers before anybody uses it; language models above all, which like to chat. Pure."""

from __future__ import annotations

import re

from anime_common.contracts.echo import OptimizedPrompt
from anime_common.contracts.vocabulary import printable
from anime_common.prompts import tags

MAX_LENGTH = 4000

_CHAT = re.compile(
    r"```|\b(?:as an ai|language model|i (?:can(?:no|')t|cannot|am unable|have (?:improved|optimi[sz]ed|added))"
    r"|i've (?:improved|optimi[sz]ed|added)|let me know|feel free to|hope this helps)\b"
    r"|^\s*(?:sure|certainly|of course|okay|here(?:'s| is| are)|(?:the |your )?(?:improved|optimi[sz]ed|enhanced|final)"
    r" (?:prompt|version))\b|^\s*(?:positive |negative )?prompt\s*:",
    re.IGNORECASE | re.MULTILINE,
)
# Words that a language model may leave out when it turns a sentence into tags.
_FILLERS = frozenset(
    tags.words(
        "a an the is are was were who which that she he her his they their it its and or while whose i you of in on at"
        " to with by for from as be has have wearing please draw picture image"
    )
)


def validate(original: str, optimized: OptimizedPrompt) -> str | None:
    """Why an answer must not be used, or None: empty, too long, prose about the prompt, or words of the user lost."""
    text = optimized.prompt
    if not text.strip() and original.strip():
        return "the answer is empty"
    for part in (text, optimized.negative_prompt):
        if len(part) > max(MAX_LENGTH, len(original)):
            return f"the answer has {len(part)} characters: more than {MAX_LENGTH}"
        try:
            printable(part)
        except ValueError as error:
            return f"the answer cannot be used: {error}"
    chat = _CHAT.search(text)
    if chat is not None and chat.group().strip().lower() not in original.lower():
        return f"the answer talks about the prompt: {chat.group().strip()!r}"
    lost = tags.kept_words(original) - tags.kept_words(text) - set(tags.words(text)) - _FILLERS
    if lost:
        return f"the answer lost words of the prompt: {', '.join(sorted(lost)[:10])}"
    return None
