"""The model as it comes with the generator: where it lies, and the settings it is drawn with."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from pathlib import Path

_GENERATOR = Path(__file__).parents[2] / "services" / "generator" / "anime_generator"
#: What the package may take of the repository.
LIMIT_MB = 25.0
PACKAGE = _GENERATOR / "models" / "sprite"
ADAPTER = _GENERATOR / "models" / "sprite-hikari.safetensors"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How pictures are made: what a job that says nothing else gets."""

    steps: int
    guidance: float
    negative_prompt: str


def drawing(preset: str | None = None) -> Drawing:
    """The settings in the generator's registry, a preset laid over the defaults."""
    entry = tomllib.loads((_GENERATOR / "models.toml").read_text(encoding="utf-8"))["models"]["sprite"]
    chosen = entry["defaults"] | (entry["presets"][preset] if preset is not None else {})
    return Drawing(**{field.name: chosen[field.name] for field in dataclasses.fields(Drawing)})


def fingerprint(package: Path = PACKAGE) -> str:
    """The first digits of the SHA-256 of all weights of a package."""
    digest = hashlib.sha256()
    for file in sorted(package.glob("*/*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
