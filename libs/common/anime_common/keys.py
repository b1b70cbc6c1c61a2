"""Keys: what models, LoRAs and upscalers are called in requests, made of the names of their files."""

from __future__ import annotations

import re

_ENDINGS = re.compile(r"\.(safetensors|sft|ckpt|pth?|bin|gguf)$", re.IGNORECASE)
LONGEST = 64


def key_for(name: str, default: str = "model") -> str:
    """A key made of a file's name, without its ending: small letters, digits, dots, dashes and underscores."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", _ENDINGS.sub("", name).lower())
    return plain.strip("._-")[:LONGEST].strip("._-") or default
