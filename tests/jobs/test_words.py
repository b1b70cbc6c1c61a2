"""What a model with a vocabulary of its own does not know of a prompt."""

from __future__ import annotations

import pytest

from anime_jobs.words import SHOWN, notice, unknown_words

TAGS = ("1girl", "blue hair", "hair ribbon", "ribbon", "red", "hoodie", "smile", "night sky", "twin tails")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("1girl, blue hair, smile", ()),
        ("1girl, red hoodie, NIGHT SKY", ()),
        ("1girl with blue hair and a red ribbon", ()),
        ("(1girl:1.2), [smile], ((blue_hair)) BREAK night sky", ()),
        (r"1girl \(smile\)", ()),
        ("1girl, dragon", ("dragon",)),
        ("1girl, a Flying Dragon, night sky, dragon rider", ("flying dragon", "dragon rider")),
        ("smiles, dragon, dragon", ("smiles", "dragon")),
        ("(dragon:1.3), 1girl", ("dragon",)),
        (", ,\n", ()),
    ],
)
def test_only_what_no_tag_covers_is_unknown(prompt: str, unknown: tuple[str, ...]) -> None:
    assert unknown_words(prompt, TAGS) == unknown


def test_without_tags_everything_is_unknown() -> None:
    assert unknown_words("1girl", ()) == ("1girl",)


def test_the_notice_names_what_was_left_out_and_some_of_what_there_is() -> None:
    assert notice("sprite", ("dragon",), ("1girl", "smile")) == (
        "prompt: left out 'dragon'; sprite knows these tags: 1girl, smile"
    )
    many = tuple(f"tag {number}" for number in range(SHOWN + 3))
    assert notice("sprite", ("dragon", "elf"), many).endswith("tag 11 and 3 more (anime models show sprite)")
