"""Dynamic prompts: variants and wildcards, by the library dynamicprompts (https://github.com/adieyal/dynamicprompts).

The library does the reading; what it does badly is kept from it: a wildcard that nobody knows makes it repeat itself
for ever, deep nesting ends its recursion, a lone `%` or `$` is no text to it, and `#` swallows the rest of a line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dynamicprompts.generators import CombinatorialPromptGenerator, RandomPromptGenerator
from dynamicprompts.wildcards.wildcard_manager import WildcardManager
from pyparsing import ParseBaseException

from anime_common.contracts.batches import Choice, Dynamic
from anime_common.outcomes import Refused

DEEPEST = 20
WILDCARD = re.compile(r"__([^\s{}|$,]+?)__")
_SPECIAL = re.compile(r"\{|__|\$\{")
_QUIET = re.compile(r"(?<!\$)\$(?![${])|%(?!\{)|#")
"""What is text to people and syntax to the library."""
_STAND_INS = {"$": "\ue000", "%": "\ue001", "#": "\ue002"}
"""Characters of Unicode's private use, which no prompt has, stand for these while the library reads."""

logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)  # it logs whole stacks for what we tell as refusals


@dataclass(frozen=True, slots=True)
class DynamicPrompts:
    """Reads dynamic prompts; `wildcards` is the folder of `NAME.txt` files, one value a line, if there is one."""

    asked: Dynamic
    wildcards: Path | None = None

    def variants(self, text: str, limit: int) -> Sequence[str]:
        """The texts that a prompt stands for, each once, at most `limit`. Raises Refused (422)."""
        if not _SPECIAL.search(text):
            return (text,)
        self._check(text)
        quiet = _QUIET.sub(lambda found: _STAND_INS[found[0]], text)
        try:
            found = list(dict.fromkeys(islice(self._made(quiet, limit), limit)))
        except (ParseBaseException, ValueError, RecursionError) as error:
            reason = str(error).partition(" (at char")[0]
            raise Refused(422, "bad_dynamic_prompt", f"{text[:80]!r} cannot be read: {reason}", "prompt") from error
        return tuple(_loud(each) for each in found)

    def _made(self, text: str, limit: int) -> Iterator[str]:
        manager = WildcardManager(self.wildcards)
        if self.asked.choose is Choice.ALL:
            yield from CombinatorialPromptGenerator(wildcard_manager=manager).generate(text, limit)
            return
        generator = RandomPromptGenerator(wildcard_manager=manager, seed=self.asked.seed)
        yield from generator.generate(text, min(self.asked.count or 1, limit))

    def _check(self, text: str) -> None:
        """Refuse what the library would stumble over, or run with for ever."""
        depth = deepest = 0
        for char in text:
            depth += {"{": 1, "}": -1}.get(char, 0)
            deepest = max(deepest, depth)
        if deepest > DEEPEST:
            raise Refused(422, "bad_dynamic_prompt", f"variants are nested at most {DEEPEST} deep", "prompt")
        for name in WILDCARD.findall(text):
            if ".." in name or self.wildcards is None or not self._has(name):
                where = (
                    f"there is no {name}.txt in the folder of wildcards" if self.wildcards else "there are none here"
                )
                raise Refused(422, "unknown_wildcard", f"__{name}__ stands for nothing: {where}", "prompt")

    def _has(self, name: str) -> bool:
        assert self.wildcards is not None
        file = (self.wildcards / f"{name}.txt").resolve()
        return file.is_relative_to(self.wildcards.resolve()) and file.is_file()


def _loud(text: str) -> str:
    for char, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, char)
    return text
