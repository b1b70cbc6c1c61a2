"""The training pictures as the diffusion model sees them: encoded once, kept in a file."""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import torch
from torch import Tensor

from tools.sprite import autoencoder
from tools.sprite.dataset import load_pictures
from tools.sprite.home import home, load, save

_BATCH = 64


def load_latents() -> Tensor:
    """All latents, in half precision; made first where they are missing or older than the autoencoder's encoder."""
    place = home() / "latents.pt"
    encoder = autoencoder.load().encoder
    print_of_encoder = _fingerprint(encoder)
    if place.exists():
        kept = load(place)
        if kept["encoder"] == print_of_encoder:
            latents: Tensor = kept["latents"]
            return latents
    latents = _encode(encoder)
    save({"latents": latents, "encoder": print_of_encoder}, place)
    return latents


def _fingerprint(encoder: torch.nn.Module) -> float:
    """One number that changes with the encoder, and does not with the decoder."""
    return float(sum(value.double().abs().sum().item() for value in encoder.state_dict().values()))


@torch.no_grad()
def _encode(encoder: torch.nn.Module) -> Tensor:
    pictures = load_pictures()
    parts = [
        encoder(autoencoder.to_tensor(pictures[start : start + _BATCH])).half()
        for start in range(0, len(pictures), _BATCH)
    ]
    return torch.cat(parts)
