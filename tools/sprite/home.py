"""Where the training keeps its files, outside of the repository, and how they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def home() -> Path:
    """The directory of the training: ANIME_SPRITE_HOME, or one in the user's cache."""
    place = Path(os.environ.get("ANIME_SPRITE_HOME") or Path.home() / ".cache" / "tower-anime" / "sprite")
    place.mkdir(parents=True, exist_ok=True)
    return place


def save(value: Any, path: Path) -> None:
    """Write with torch, so that a reader finds the old file or the new one and never half of one."""
    import torch

    unfinished = path.with_suffix(path.suffix + ".part")
    torch.save(value, unfinished)
    unfinished.replace(path)


def load(path: Path) -> Any:
    """Read what `save` wrote: tensors and plain values only."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)
