"""Prompt embeddings, remembered: batches, retries and re-rolls of a prompt encode it once.

They are kept in the machine's own memory: copying one to a card takes some microseconds, and there it would stand in
the way of weights.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a text becomes: states per token (1, tokens, width), and a pooled one (1, width) where the family has it.

    `windows` is how many windows of the encoder it fills.
    """

    tokens: Any
    pooled: Any | None
    windows: int

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.numel() * part.element_size() for part in (self.tokens, self.pooled) if part is not None)

    def on(self, device: Any) -> Embedding:
        """The same on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return replace(self, tokens=self.tokens.to(device), pooled=pooled)


@dataclass(frozen=True, slots=True)
class EmbeddingKey:
    """What an embedding depends on: the model's encoders, the adapters that change them, and the text.

    `adapters` is a fingerprint of the LoRAs in use and their weights; empty without any. `clip_skip` is the layer that
    was taken, `windows` how many windows it was to fill at least.
    """

    encoder: str
    text: str
    adapters: str = ""
    clip_skip: int = 1
    windows: int = 1


class EmbeddingCache:
    """Least recently used embeddings go first when `limit` bytes are exceeded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._size

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """The embedding, in host memory, if it is remembered."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Remember an embedding, unless it alone is larger than the limit."""
        if embedding.size > self._limit or key in self._kept:
            return
        self._kept[key] = embedding.on("cpu")
        self._size += embedding.size
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def forget(self, encoder: str) -> None:
        """Drop everything of encoders that are given up: their files may change before they come back."""
        for key in [key for key in self._kept if key.encoder == encoder]:
            self._size -= self._kept.pop(key).size
