"""The training pictures as the diffusion model sees them: encoded once, kept in a file."""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import torch
from torch import Tensor

from tools.sprite import autoencoder
from tools.sprite.canvas import Pixels
from tools.sprite.dataset import load_pictures
from tools.sprite.home import home, load, save

_BATCH = 64


def load_latents() -> Tensor:
    """All latents, in half precision; made first where they are missing, or of another encoder or other pictures."""
    place = home() / "latents.pt"
    encoder = autoencoder.load().encoder
    pictures = load_pictures()
    made_of = _fingerprint(encoder, pictures)
    if place.exists():
        kept = load(place)
        if kept.get("made_of") == made_of:
            latents: Tensor = kept["latents"]
            return latents
    latents = _encode(encoder, pictures)
    save({"latents": latents, "made_of": made_of}, place)
    return latents


def _fingerprint(encoder: torch.nn.Module, pictures: Pixels) -> tuple[float, int, int]:
    """Numbers that change with the encoder and with the pictures, and do not with the decoder."""
    weights = float(sum(value.double().abs().sum().item() for value in encoder.state_dict().values()))
    return weights, len(pictures), int(pictures[:: max(1, len(pictures) // 50)].astype("uint64").sum())


@torch.no_grad()
def _encode(encoder: torch.nn.Module, pictures: Pixels) -> Tensor:
    parts = [
        encoder(autoencoder.to_tensor(pictures[start : start + _BATCH])).half()
        for start in range(0, len(pictures), _BATCH)
    ]
    return torch.cat(parts)
