"""How long prompts are, counted without the engine: as the pipelines' own tokenizers count them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.generator import TokensQuestion
from anime_common.outcomes import Refused
from anime_generator.lengths import CLIP_WINDOW, MARKS, Lengths, clip, reader_of
from anime_generator.registry import ModelSpec
from tests.generator.builders import noop_spec, sprite_spec

CONFIGURATIONS = Path(__file__).parents[2] / "services/generator/anime_generator/families"


def model_spec(**changes: Any) -> ModelSpec:
    return noop_spec().model_copy(update={"source": None, **changes})


def counted(spec: ModelSpec, *texts: str) -> list[tuple[int, int, tuple[int, ...]]]:
    reader = reader_of(spec)
    return [(count.tokens, count.window, count.windows) for count in map(reader.count, texts)]


def test_the_built_in_model_counts_by_its_own_vocabulary() -> None:
    sprite = sprite_spec()
    assert counted(sprite, "1girl, blue hair", "") == [(3, 46, (3,)), (0, 46, ())]


def test_a_checkpoint_of_a_known_family_counts_by_clip() -> None:
    for family in ("sd15", "sd2", "sdxl"):
        spec = model_spec(family=family, engine="diffusers", config=CONFIGURATIONS / family)
        assert counted(spec, "a photo of a cat") == [(5, 75, (5,))]


def test_windows_are_filled_as_they_are_when_prompts_are_encoded() -> None:
    spec = model_spec(family="sdxl", engine="diffusers")
    long = ", ".join(["blue hair"] * 40)
    ((tokens, window, windows),) = counted(spec, long)
    assert (tokens, window, len(windows)) == (sum(windows), 75, 2)
    assert counted(spec, "(blue hair:1.3) BREAK red eyes") == [(4, 75, (2, 2))]


def test_where_brackets_mean_nothing_they_are_counted() -> None:
    remote = model_spec(family="sdxl", engine="comfyui")
    assert reader_of(remote).count("(cat:1.3)").tokens > reader_of(remote).count("cat").tokens == 1


def test_what_cannot_be_counted_here_is_said() -> None:
    with pytest.raises(Refused) as refusal:
        reader_of(model_spec(family="flux", engine="comfyui"))
    assert (refusal.value.status, refusal.value.code, refusal.value.field) == (422, "no_tokenizer", "model")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_our_clip_gives_the_ids_that_transformers_gives(text: str) -> None:
    assert clip_ids(text) == transformers_ids(text)


_KNOWN: dict[str, Any] = {}


def clip_ids(text: str) -> list[int]:
    ours = _KNOWN.setdefault("ours", clip())
    found: list[int] = ours.encode(text, add_special_tokens=False).ids
    return found


def transformers_ids(text: str) -> list[int]:
    from anime_generator.engines.tokenizers import tokenizers_for

    theirs = _KNOWN.setdefault("theirs", tokenizers_for(CONFIGURATIONS / "sd15")["tokenizer"])
    found: list[int] = theirs(text, add_special_tokens=False, truncation=False).input_ids
    assert theirs.model_max_length == CLIP_WINDOW == 75 + MARKS
    return found


async def test_a_question_about_a_model_that_is_not_here_is_refused() -> None:
    held = SimpleNamespace(models={"sprite": sprite_spec()})
    lengths = Lengths(lambda: held)  # type: ignore[arg-type,return-value]
    answer = await lengths.answer(TokensQuestion(model="sprite", texts=("1girl", "1girl, smile")))
    assert [count.tokens for count in answer.counts] == [1, 3]
    with pytest.raises(Refused) as refusal:
        await lengths.answer(TokensQuestion(model="elsewhere", texts=("1girl",)))
    assert (refusal.value.status, refusal.value.field) == (404, "model")


async def test_a_changed_model_is_read_anew() -> None:
    spec = sprite_spec()
    held = SimpleNamespace(models={"sprite": spec})
    lengths = Lengths(lambda: held)  # type: ignore[arg-type,return-value]
    before = await lengths.answer(TokensQuestion(model="sprite", texts=("1girl, blue hair",)))
    held.models = {"sprite": model_spec(key="sprite", family="sd15", engine="diffusers", stamp="other")}
    after = await lengths.answer(TokensQuestion(model="sprite", texts=("1girl, blue hair",)))
    assert (before.tokenizer, after.tokenizer) == ("tokenizer of sprite", "CLIP")
