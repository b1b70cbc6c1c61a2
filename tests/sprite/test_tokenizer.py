import random
from pathlib import Path
from typing import Any

import pytest

from tools.sprite import tokenizer
from tools.sprite.vocabulary import CaptionStyle, caption, phrases, sample


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    monkeypatch = pytest.MonkeyPatch()
    corpus = tokenizer.corpus(500)
    monkeypatch.setattr(tokenizer, "corpus", lambda: corpus)
    try:
        return tokenizer.build(tmp_path_factory.mktemp("tokenizer"))
    finally:
        monkeypatch.undo()


def test_every_phrase_is_one_token(words: Any) -> None:
    assert all(len(words.tokenize(phrase)) == 1 for phrase in phrases())


def test_a_phrase_is_found_in_a_sentence_and_in_capitals(words: Any) -> None:
    blue = words.convert_tokens_to_ids("blue hair")
    assert blue in words("a girl with Blue Hair and a smile").input_ids


@pytest.mark.parametrize("text", ["zxqvia_77, ohwx", "Ünïcödé 日本", "🙂"])
def test_any_text_has_tokens_that_say_the_same(words: Any, text: str) -> None:
    ids = words(text).input_ids
    assert words.unk_token_id not in ids[1:-1]
    said = words.decode(ids, skip_special_tokens=True)
    assert said.replace(" ", "") == text.lower().replace(" ", "")


def test_captions_fit(words: Any) -> None:
    rng = random.Random(3)
    style = CaptionStyle(drop=0.0, empty=0.0, synonyms=1.0)
    texts = [caption(sample(rng, degraded=0.3), rng, style) for _ in range(500)]
    assert max(len(words(text).input_ids) for text in texts) <= tokenizer.LENGTH


def test_what_is_written_is_what_was_made(words: Any, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    text = "1girl, blue hair, twintails, red hoodie, night sky"
    assert again(text).input_ids == words(text).input_ids
