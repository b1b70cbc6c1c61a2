"""The judge of answers: what must never reach a picture."""

from __future__ import annotations

import pytest

from anime_common.contracts.echo import OptimizedPrompt
from anime_echo_bridge.validation import validate


def verdict(original: str, answer: str, negative: str = "") -> str | None:
    return validate(original, OptimizedPrompt(prompt=answer, negative_prompt=negative, provider="test"))


@pytest.mark.parametrize(
    ("original", "answer"),
    [
        ("1girl, blue hair", "1girl, blue hair, masterpiece"),
        ("a girl with blue hair in the rain", "1girl, girl, blue hair, rain, wet street"),
        ("Twin tails", "twintails, 1girl"),
        ("", ""),
        ("sure, here is a prompt: 1girl", "sure, here is a prompt: 1girl, smile"),
    ],
)
def test_good_answers_pass(original: str, answer: str) -> None:
    assert verdict(original, answer) is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("Sure! Here is your prompt: 1girl, blue hair", "talks about the prompt"),
        ("Here's an improved version: 1girl, blue hair", "talks about the prompt"),
        ("1girl, blue hair\nLet me know if you want changes", "talks about the prompt"),
        ("```\n1girl, blue hair\n```", "talks about the prompt"),
        ("Prompt: 1girl, blue hair", "talks about the prompt"),
        ("I cannot help with 1girl, blue hair", "talks about the prompt"),
        ("1girl, red hair", "lost words of the prompt: blue"),
        ("1girl, blue hair, " + "x, " * 2000, "more than 4000"),
        ("1girl, blue hair\x00", "U\\+0000"),
    ],
)
def test_bad_answers_are_refused(answer: str, text: str) -> None:
    import re

    found = verdict("1girl, blue hair", answer)
    assert found is not None
    assert re.search(text, found)


def test_the_negative_prompt_is_judged_too() -> None:
    assert verdict("1girl", "1girl", "x" * 5000) is not None
