"""The tokenizer: a stock CLIP tokenizer with a small vocabulary, in which each tag of several words is one token."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tools.sprite.vocabulary import CaptionStyle, caption, phrases, sample

LENGTH = 48
WORDS = 1000
START, END = "<|startoftext|>", "<|endoftext|>"
_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
#: Words of prose and names, so that sentences and trigger words are short too.
_PROSE = (
    "a an and the of in at on with wearing her his she he has eyes hair character named portrait picture standing "
    "front hikari sakura hime kaito yuki ren aoi haru sora mei rin luna hana akira kenji mika nao riku tomo yui ruka "
    "shiro "
    "kuro neko tsuki hoshi kaze mizu ken ryu chan kun san"
)


def corpus(count: int = 20_000) -> list[str]:
    """Captions, and a little prose."""
    rng = random.Random(1)
    style = CaptionStyle(empty=0.0, synonyms=0.6)
    captions = [caption(sample(rng, degraded=0.05), rng, style) for _ in range(count)]
    prose = _PROSE.split()
    return captions + [" ".join(rng.choices(prose, k=8)) for _ in range(count // 10)]


def _learn(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte pairs as CLIP has them, and every byte by itself, so that any text has tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=[START, END],
        min_frequency=2, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for character in sorted(alphabet):
        for token in (character, f"{character}</w>"):
            vocabulary.setdefault(token, len(vocabulary))
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return vocabulary, [(first, second) for first, second in pairs]


def build(target: Path) -> Any:
    """Make the tokenizer and write it there."""
    from tokenizers import AddedToken
    from transformers import CLIPTokenizer

    vocabulary, merges = _learn(corpus())
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=merges, model_max_length=LENGTH,
        bos_token=START, eos_token=END, unk_token=END, pad_token=END,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(phrase, single_word=True, normalized=True) for phrase in phrases()])
    tokenizer.save_pretrained(target)
    return load(target)


def load(target: Path) -> Any:
    """The tokenizer written there."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(target)
