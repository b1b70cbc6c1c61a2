"""Prompt embeddings, remembered: batches, retries and re-rolls of a prompt encode it once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a text becomes: states per token (1, tokens, width), and a pooled one (1, width) where the family has it.

    `lost` is how many tokens did not fit into the encoder's window.
    """

    tokens: Any
    pooled: Any | None
    lost: int

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.numel() * part.element_size() for part in (self.tokens, self.pooled) if part is not None)


class EmbeddingCache:
    """Least recently used embeddings go first when `limit` bytes are exceeded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[tuple[str, str], Embedding] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._size

    def get(self, model: str, text: str) -> Embedding | None:
        """The embedding of a text by a model's encoders, if it is remembered."""
        found = self._kept.get((model, text))
        if found is not None:
            self._kept.move_to_end((model, text))
        return found

    def put(self, model: str, text: str, embedding: Embedding) -> None:
        """Remember an embedding, unless it alone is larger than the limit."""
        if embedding.size > self._limit or (model, text) in self._kept:
            return
        self._kept[model, text] = embedding
        self._size += embedding.size
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def forget(self, model: str) -> None:
        """Drop everything of a model that is given up."""
        for key in [key for key in self._kept if key[0] == model]:
            self._size -= self._kept.pop(key).size


def encode(pipe: Any, text: str) -> Embedding:
    """Encode one text with a pipeline's own encoders; what exceeds their window is cut off and counted."""
    with torch.no_grad():
        encoded = pipe.encode_prompt(
            prompt=text, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    # Stable Diffusion answers (tokens, negative); SDXL (tokens, negative, pooled, negative pooled).
    pooled = encoded[2] if len(encoded) > 2 else None
    window = pipe.tokenizer.model_max_length
    lost = max(len(pipe.tokenizer(text, truncation=False).input_ids) - window, 0)
    return Embedding(encoded[0], pooled, lost)
