"""What a family of models likes to read in its prompts, as far as the builtin optimiser knows."""

from __future__ import annotations

from dataclasses import dataclass

ROUGH = ("low quality", "worst quality", "bad quality", "lowres", "sketch", "rough", "doodle", "vhs", "pixel art")
"""Whoever writes one of these wants no polish: no quality tags are added."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of models likes to read. No quality tags are added to prompts of more than `max_words` words."""

    quality: tuple[str, ...] = ("masterpiece", "best quality")
    negative: tuple[str, ...] = (
        "worst quality",
        "low quality",
        "blurry",
        "bad anatomy",
        "bad hands",
        "jpeg artifacts",
        "watermark",
        "signature",
    )
    max_words: int = 60


ANIME = Family()

FAMILIES: dict[str, Family] = {
    # The built-in model: a small vocabulary and 48 tokens.
    "sprite": Family(negative=("low quality", "worst quality", "bad quality", "blurry"), max_words=36),
    "pony": Family(quality=("score_9", "score_8_up", "score_7_up")),
    # Read by a language model rather than by CLIP: quality tags mean nothing to them, negatives are ignored.
    "flux": Family(quality=(), negative=()),
    "sd3": Family(quality=(), negative=("worst quality", "low quality", "blurry")),
    "qwen": Family(quality=(), negative=()),
}
"""Families by the beginning of their name; every other one is taken for a model of anime tags."""


def family_of(name: str) -> Family:
    """The family of a model, by the name that its worker announces."""
    folded = name.casefold()
    return next((family for start, family in FAMILIES.items() if folded.startswith(start)), ANIME)
