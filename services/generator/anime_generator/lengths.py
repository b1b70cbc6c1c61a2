"""How long prompts are for a model, counted with its own tokenizer, without waking its engine.

Only the tokenizer is read, by the library `tokenizers` alone: neither torch nor the model is loaded, and a model that
draws is not disturbed. What fills which window is decided by the same rules by which prompts are encoded.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from anime_common.contracts.generator import TokenCount, TokensAnswer, TokensQuestion
from anime_common.outcomes import Refused
from anime_common.prompts.syntax import chunked, parse
from anime_generator.clip_vocabulary import vocabulary
from anime_generator.engines.protocol import EngineError
from anime_generator.registry import ModelSpec, Registry

MARKS = 2
"""Tokens of a window that tell where it begins and ends."""
CLIP_WINDOW = 77
CLIP_FAMILIES = frozenset({"sd15", "sd2", "sdxl", "sd"})
"""Families that read with CLIP, whatever lies beside their files."""
MOST_TOKENIZERS = 8
UNBOUNDED = 1 << 20
"""A configuration that says more than this says that it knows no bound."""

_CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True, slots=True)
class Reader:
    """A tokenizer. `window` tokens are read at a time, marks included; 0: as many as there are."""

    name: str
    tokenizer: Any
    window: int
    weighing: bool

    def count(self, text: str) -> TokenCount:
        """The length of a text; of a model that knows weights and BREAK, window by window."""
        if not self.weighing or not self.window:
            number = len(self._ids(text))
            windows = (number,) if number else ()
            return TokenCount(tokens=number, window=max(self.window - 1, 0), windows=windows)
        comma = self._ids(",")
        room = self.window - MARKS
        chunks = chunked(parse(text), self._ids, room, comma[0] if len(comma) == 1 else None)
        filled = tuple(len(chunk.tokens) for chunk in chunks)
        return TokenCount(tokens=sum(filled), window=room, windows=filled if any(filled) else ())

    def _ids(self, text: str) -> Sequence[int]:
        found: Sequence[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found


@dataclass(slots=True)
class Lengths:
    """Answers how long prompts are; `registry` is asked for what there is now."""

    registry: Callable[[], Registry]
    _readers: OrderedDict[tuple[str, str], Reader] = field(default_factory=OrderedDict)

    async def answer(self, question: TokensQuestion) -> TokensAnswer:
        """Count texts; raises Refused (404, 422) when the model is not here, or its tokenizer cannot be read."""
        spec = self.registry().models.get(question.model)
        if spec is None:
            raise Refused(404, "unknown_model", f"this worker has no model {question.model!r}", "model")
        return await asyncio.to_thread(self._counted, spec, question.texts)

    def _counted(self, spec: ModelSpec, texts: Sequence[str]) -> TokensAnswer:
        reader = self._reader(spec)
        return TokensAnswer(tokenizer=reader.name, counts=tuple(reader.count(text) for text in texts))

    def _reader(self, spec: ModelSpec) -> Reader:
        key = (spec.key, spec.stamp)
        if (known := self._readers.get(key)) is not None:
            self._readers.move_to_end(key)
            return known
        try:
            made = reader_of(spec)
        except EngineError as error:
            raise Refused(422, error.code, error.message, "model") from error
        self._readers[key] = made
        while len(self._readers) > MOST_TOKENIZERS:
            self._readers.popitem(last=False)
        return made


def reader_of(spec: ModelSpec) -> Reader:
    """The tokenizer of a model; raises Refused (422) when it has none that can be read here."""
    weighing = spec.engine == "diffusers"
    found = [each for each in sorted(_folders(spec)) if (each / "tokenizer.json").is_file()]
    if found:
        # Of several, CLIP's comes first, and the one that reads the most last: a language model's, where there is one.
        chosen = found[0] if weighing else found[-1]
        tokenizer = _uncut(Tokenizer.from_file(str(chosen / "tokenizer.json")))
        return Reader(f"{chosen.name} of {spec.key}", tokenizer, _window(chosen), weighing)
    if spec.family in CLIP_FAMILIES:
        return Reader("CLIP", clip(), CLIP_WINDOW, weighing)
    text = f"the tokenizer of {spec.key} cannot be read here: its length is not known before it is drawn"
    raise Refused(422, "no_tokenizer", text, "model")


def _folders(spec: ModelSpec) -> Iterable[Path]:
    """The folders of a model's tokenizers on this machine: of the model's own, else of its configuration's."""
    for folder in (spec.source, spec.config):
        if spec.engine != "comfyui" and folder is not None and folder.is_dir():
            return folder.glob("tokenizer*/")
    return ()


def _window(folder: Path) -> int:
    """What a tokenizer's configuration says of its longest text; 0 when it knows no bound."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return CLIP_WINDOW
    found = settings.get("model_max_length", CLIP_WINDOW)
    return int(found) if found < UNBOUNDED else 0


def _uncut(tokenizer: Any) -> Any:
    """A tokenizer that counts all of a text: what its file says of cutting and padding is for encoders."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def clip() -> Any:
    """CLIP's tokenizer, put together as transformers does it (transformers/models/clip/tokenization_clip.py)."""
    ids, merges = vocabulary()
    made = Tokenizer(
        BPE(
            vocab=dict(ids),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",  # noqa: S106 - no password
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made
