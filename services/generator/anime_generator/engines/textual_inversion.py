"""Textual-inversion embeddings: words of the registry that stand for vectors learned from pictures.

A word of several vectors is written out as `word word_1 word_2 …` before it is tokenized. Files are of the layouts that
people exchange: `emb_params` or a single tensor (one encoder), `clip_l` and `clip_g` (the two of SDXL).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from transformers import AddedToken

from anime_generator.engines.protocol import EngineError

if TYPE_CHECKING:
    from anime_generator.registry import EmbeddingSpec, ModelSpec

_PARTS = {1: ("tokenizer", "text_encoder"), 2: ("tokenizer_2", "text_encoder_2")}


def add_embeddings(pipe: Any, spec: ModelSpec) -> None:
    """Teach a pipeline's encoders the embeddings of its family; raises EngineError naming one that does not fit."""
    counts = {}
    for embedding in spec.embeddings:
        vectors = _vectors(embedding)
        for number, tensor in vectors.items():
            tokenizer, encoder = (getattr(pipe, part, None) for part in _PARTS[number])
            if encoder is None:
                raise _unusable(embedding, "is for a model with two text encoders")
            _teach(tokenizer, encoder, embedding, tensor)
        counts[embedding.key] = max(len(tensor) for tensor in vectors.values())
    if counts:
        pipe.maybe_convert_prompt = expander(counts)


def expander(counts: Mapping[str, int]) -> Callable[..., Any]:
    """What replaces a pipeline's `maybe_convert_prompt`: writes out every word that has several vectors."""
    words = sorted(counts, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

    def written_out(found: re.Match[str]) -> str:
        return " ".join(names(found[1].lower(), counts[found[1].lower()]))

    def convert(prompt: Any, _tokenizer: Any = None) -> Any:
        if isinstance(prompt, list):
            return [pattern.sub(written_out, each) for each in prompt]
        return pattern.sub(written_out, prompt)

    return convert


def names(key: str, count: int) -> list[str]:
    """The tokens that a word becomes, one a vector."""
    return [key, *(f"{key}_{number}" for number in range(1, count))]


def _teach(tokenizer: Any, encoder: Any, embedding: EmbeddingSpec, vectors: Any) -> None:
    table = encoder.get_input_embeddings().weight
    if vectors.shape[-1] != table.shape[-1]:
        width = table.shape[-1]
        raise _unusable(embedding, f"has vectors of width {vectors.shape[-1]}, the model's have {width}")
    words = names(embedding.key, len(vectors))
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    for number, vector in zip(tokenizer.convert_tokens_to_ids(words), vectors, strict=True):
        table.data[number] = vector.to(table.dtype)


def _vectors(embedding: EmbeddingSpec) -> dict[int, Any]:
    """The vectors (vectors, width) of an embedding by the number of the encoder they are for."""
    tensors = load_file(embedding.source)
    if {"clip_l", "clip_g"} <= tensors.keys():
        found = {1: tensors["clip_l"], 2: tensors["clip_g"]}
    else:
        found = {1: tensors.get("emb_params", next(iter(tensors.values())))}
    return {number: tensor.reshape(-1, tensor.shape[-1]) for number, tensor in found.items()}


def _unusable(embedding: EmbeddingSpec, reason: str) -> EngineError:
    text = f"embeddings.{embedding.key}: {embedding.source.name} {reason}"
    return EngineError("model_unusable", text)
