"""CLIP's tokenizers as pipelines need them, where a configuration brings no vocabulary of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from anime_generator.clip_vocabulary import vocabulary


def tokenizers_for(configuration: Path) -> dict[str, Any]:
    """The tokenizers of a configuration, by the name of their part, where it brings no vocabulary of its own."""
    found = {}
    for name in ("tokenizer", "tokenizer_2"):
        folder = configuration / name
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
            found[name] = clip_tokenizer(json.loads(settings.read_text(encoding="utf-8")))
    return found


def clip_tokenizer(settings: dict[str, Any]) -> Any:
    """CLIP's tokenizer with the settings of a `tokenizer_config.json`; raises EngineError."""
    ids, merges = vocabulary()
    known = {key: value for key, value in settings.items() if key != "tokenizer_class"}
    return CLIPTokenizer(vocab=dict(ids), merges=list(merges), **known)
