"""Trains the autoencoder: `python -m tools.sprite.autoencoder --seconds 300`.

The encoder starts as the exact principal components of 4 × 4 patches, which a stock `AutoencoderTiny` can express; the
decoder learns the rest. `--decoder-only` goes on with the decoder and leaves the latents as they are, so a diffusion
model trained on them stays valid; `--new-decoder` does the same with a decoder that begins anew.
"""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from tools.sprite.canvas import Pixels
from tools.sprite.dataset import load_pictures
from tools.sprite.home import home
from tools.sprite.render import FACE_BOX, SIZE
from tools.sprite.shipped import PACKAGE

CHANNELS, FACTOR = 4, 4
ENCODER_WIDTH = 32
#: The decoder runs once for a picture, so it may be much larger; most of its blocks work on the small grids.
DECODER_WIDTH, DECODER_BLOCKS = 64, (5, 2, 0)
BATCH, CROP = 6, 48
#: At most so much noise on the latents that the decoder learns from: generated ones are not exact.
NOISE = 0.25
RATE, WARM_UP = 2.5e-3, 50
#: The last pictures are kept to measure on.
KEPT = 500
Part = Literal["all", "decoder", "new decoder"]
#: This share of the crops shows the face, where the details are.
FACE_SHARE = 0.5


def path() -> Path:
    """Where the autoencoder is."""
    return home() / "autoencoder"


def load() -> Any:
    """The trained autoencoder, not to be trained further; the shipped one where none was trained here."""
    from diffusers import AutoencoderTiny

    place = path() if path().exists() else PACKAGE / "vae"
    return AutoencoderTiny.from_pretrained(place).eval().requires_grad_(False)


def to_tensor(pictures: Pixels) -> Tensor:
    """Pictures as the autoencoder takes them: −1 to 1, channels first."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pictures(values: Tensor) -> Pixels:
    """What the autoencoder gives, as pictures."""
    pictures: Pixels = values.clamp(-1, 1).add(1).mul(127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return pictures


def create(pictures: Pixels) -> Any:
    """A new autoencoder, its encoder the principal components of these pictures."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    model = AutoencoderTiny(
        latent_channels=CHANNELS, encoder_block_out_channels=(ENCODER_WIDTH,) * 3, num_encoder_blocks=(0, 0, 0),
        decoder_block_out_channels=(DECODER_WIDTH,) * 3, num_decoder_blocks=DECODER_BLOCKS,
        upsample_fn="nearest", force_upcast=False,
    )  # fmt: skip
    _keep_variance(model.decoder)
    _set_components(model.encoder, *principal_components(pictures))
    return model


def principal_components(pictures: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The projection of a patch to its latent (channels × 3 × 4 × 4) and what to add to it."""
    cells = SIZE // FACTOR
    patches = (pictures.astype(np.float64) / 255).reshape(-1, cells, FACTOR, cells, FACTOR, 3)
    patches = patches.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * FACTOR * FACTOR)
    mean = patches.mean(0)
    variances, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    deviations, vectors = np.sqrt(variances[::-1][:CHANNELS]), vectors[:, ::-1][:, :CHANNELS]
    scales = deviations**-0.5
    scales /= np.sqrt(np.mean((deviations * scales) ** 2))
    projection = (vectors * scales).T
    return projection.reshape(CHANNELS, 3, FACTOR, FACTOR), -(projection @ mean)


@torch.no_grad()
def _set_components(encoder: Any, projection: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """Copy, space to depth, project: three of the encoder's convolutions; its last one copies again."""
    copy, fold, project, out = encoder.layers
    for layer in encoder.layers:
        layer.weight.mul_(0.02)
        if layer.bias is not None:
            layer.bias.zero_()
    for colour in range(3):
        copy.weight[colour, colour, 1, 1] += 1
        for y in range(2):
            for x in range(2):
                fold.weight[colour * 4 + y * 2 + x, colour, 1 + y, 1 + x] += 1
        for y in range(FACTOR):
            for x in range(FACTOR):
                place = colour * 4 + (y % 2) * 2 + x % 2
                project.weight[:CHANNELS, place, 1 + y // 2, 1 + x // 2] += torch.from_numpy(
                    projection[:, colour, y, x]
                ).float()
    for channel in range(CHANNELS):
        out.weight[channel, channel, 1, 1] += 1
    out.bias.copy_(torch.from_numpy(offset))


@torch.no_grad()
def _keep_variance(decoder: Any) -> None:
    """Begin with activations that neither grow nor shrink, and with a grey picture."""
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    for layer in decoder.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        if isinstance(layer, AutoencoderTinyBlock):
            convolutions = [part for part in layer.conv if isinstance(part, nn.Conv2d)]
            for part in convolutions:
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)
            convolutions[-1].weight.mul_(0.4)
    decoder.layers[-1].weight.mul_(0.3)
    decoder.layers[-1].bias.fill_(0.5)


def crops(pictures: Pixels, rng: np.random.Generator) -> Tensor:
    """Random parts of random pictures; half of them of the face."""
    taken = np.empty((BATCH, CROP, CROP, 3), np.uint8)
    left, top, right, bottom = FACE_BOX
    for index, chosen in enumerate(rng.integers(0, len(pictures) - KEPT, BATCH)):
        on_face = rng.random() < FACE_SHARE
        low, high = ((left, top), (right - CROP, bottom - CROP)) if on_face else ((0, 0), (SIZE - CROP, SIZE - CROP))
        x, y = (int(rng.integers(a // FACTOR, b // FACTOR + 1)) * FACTOR for a, b in zip(low, high, strict=True))
        taken[index] = pictures[chosen, y : y + CROP, x : x + CROP]
    return to_tensor(taken)


def loss_of(model: Any, real: Tensor, noise: float) -> Tensor:
    """How far the decoded pictures are off, edges included, and how far the latents are from mean 0, variance 1."""
    latents = model.encoder(real)
    spread = latents.mean((0, 2, 3)).pow(2).mean() + (latents.pow(2).mean() - 1) ** 2
    noisy = latents + torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) * noise
    made = model.decoder(noisy)
    edges = l1_loss(made.diff(dim=-1), real.diff(dim=-1)) + l1_loss(made.diff(dim=-2), real.diff(dim=-2))
    return l1_loss(made, real) + mse_loss(made, real) + 0.5 * edges + 0.02 * spread


@torch.no_grad()
def quality(model: Any, pictures: Pixels) -> float:
    """Peak signal to noise in dB on pictures never trained on."""
    real = to_tensor(pictures[-64:])
    error = mse_loss(model.decoder(model.encoder(real)), real).item()
    return 10 * math.log10(4 / error)


def begin(pictures: Pixels, part: Part) -> Any:
    """What is trained on: the autoencoder there is, or a new one, or a new one with the encoder there is."""
    model = load() if part == "decoder" else create(np.array(pictures[:600]))
    if part == "new decoder":
        model.encoder.load_state_dict(load().encoder.state_dict())
    return model.train().requires_grad_(True)


def train(seconds: float, part: Part = "all", rate: float = RATE) -> None:
    """Train for so long: everything anew, the decoder there is, or a new decoder."""
    torch.set_num_threads(1)
    pictures = load_pictures()
    model = begin(pictures, part)
    decoder_only = part != "all"
    model.to(memory_format=torch.channels_last)
    parameters = list((model.decoder if decoder_only else model).parameters())
    if decoder_only:
        model.encoder.requires_grad_(False)
    optimiser = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rng = np.random.default_rng(int(time.time()))
    started, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        done = min(1.0, (time.monotonic() - started) / seconds)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        loss = loss_of(model, crops(pictures, rng).contiguous(memory_format=torch.channels_last), NOISE)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 500 == 0 or done >= 1:
            decibels = quality(model, pictures)
            print(
                f"step {step}, {time.monotonic() - started:.0f} s, loss {loss.item():.4f}, {decibels:.2f} dB",
                flush=True,
            )
    model.save_pretrained(path())


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="train the autoencoder")
    parser.add_argument("--seconds", type=float, default=300)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--decoder-only", action="store_true", help="go on with the decoder; the latents stay valid")
    which.add_argument("--new-decoder", action="store_true", help="the same, with a decoder that begins anew")
    parser.add_argument("--rate", type=float, default=RATE)
    options = parser.parse_args()
    part: Part = "decoder" if options.decoder_only else "new decoder" if options.new_decoder else "all"
    train(options.seconds, part, options.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
