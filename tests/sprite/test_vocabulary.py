import dataclasses
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.sprite.vocabulary import (
    ACCESSORIES,
    BAD,
    FULL,
    HOLD_OUT,
    TAGS,
    UNDER_A_HAT,
    CaptionStyle,
    Character,
    all_tags,
    caption,
    held_out,
    phrases,
    prompt,
    sample,
)

seeds = st.integers(0, 2**32)


@given(seeds)
def test_the_same_seed_draws_the_same_character(seed: int) -> None:
    assert sample(random.Random(seed)) == sample(random.Random(seed))


@given(seeds)
def test_a_character_has_only_values_with_tags(seed: int) -> None:
    one = sample(random.Random(seed))
    assert all(getattr(one, attribute) in values for attribute, values in TAGS.items())
    assert set(one.accessories) <= set(ACCESSORIES)
    assert "hat" not in one.accessories or not UNDER_A_HAT & set(one.accessories)


@given(seeds)
def test_training_and_evaluation_share_no_combination(seed: int) -> None:
    assert not held_out(sample(random.Random(seed)))
    assert held_out(sample(random.Random(seed), hold_out=True))


def test_about_one_combination_in_twenty_is_held_out() -> None:
    rng = random.Random(0)
    drawn = [{attribute: rng.choice(tuple(values)) for attribute, values in TAGS.items()} for _ in range(4000)]
    every = [dataclasses.replace(Character(), **values) for values in drawn]  # type: ignore[arg-type]
    assert sum(map(held_out, every)) / len(every) == pytest.approx(1 / HOLD_OUT, abs=0.015)


def test_what_is_held_out_never_changes() -> None:
    assert zlib.crc32(b"blue|long|blue|smile|uniform|white background") % HOLD_OUT != 0
    assert not held_out(Character())


@given(seeds)
def test_a_prompt_says_everything_that_can_be_seen(seed: int) -> None:
    one = sample(random.Random(seed))
    tags = prompt(one).split(", ")
    seen = set(TAGS) - {"outfit", "cloth"} - (set() if one.eyes_show else {"eyes"})
    assert all(TAGS[attribute][getattr(one, attribute)][0] in tags for attribute in seen)
    assert f"{one.cloth} {TAGS['outfit'][one.outfit][0]}" in tags
    assert all(ACCESSORIES[name][0] in tags for name in one.accessories)
    assert ("blush" in tags) == one.blush


@given(seeds, seeds)
def test_a_caption_says_nothing_that_is_not_so(seed: int, words: int) -> None:
    one = sample(random.Random(seed))
    said = set(caption(one, random.Random(words)).split(", "))
    for attribute in ("hair", "style", "eyes", "expression", "scene", "gender", "skin", "bangs"):
        others = {tag for value, tags in TAGS[attribute].items() if value != getattr(one, attribute) for tag in tags}
        assert not said & others
    assert not said & set(BAD)


@given(seeds)
def test_closed_eyes_have_no_colour(seed: int) -> None:
    one = dataclasses.replace(sample(random.Random(seed)), expression="closed")
    assert "eyes" not in caption(one, random.Random(seed), FULL).replace("closed eyes", "")


@given(seeds)
def test_a_bad_picture_is_called_bad(seed: int) -> None:
    one = sample(random.Random(seed), degraded=1.0)
    assert set(caption(one, random.Random(seed), CaptionStyle(empty=0.0)).split(", ")) & set(BAD)


def test_some_captions_are_empty() -> None:
    rng = random.Random(0)
    empty = sum(not caption(Character(), rng) for _ in range(2000)) / 2000
    assert empty == pytest.approx(CaptionStyle().empty, abs=0.02)


def test_phrases_are_what_a_splitter_of_words_would_break() -> None:
    assert {"blue hair", "1girl", "one eye closed", "low quality"} <= set(phrases())
    assert "smile" not in phrases()


def test_all_tags_are_everything_that_a_caption_can_say() -> None:
    known, rng = set(all_tags()), random.Random(5)
    colours = tuple(f"{colour} " for colour in TAGS["cloth"])
    for _ in range(300):
        for tag in filter(None, caption(sample(rng, degraded=0.3), rng).split(", ")):
            worn = next((tag.removeprefix(colour) for colour in colours if tag.startswith(colour)), tag)
            assert tag in known or worn in known
    assert len(known) == len(all_tags())
    assert all(tag == tag.lower() for tag in known)
