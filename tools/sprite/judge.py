"""The judge: a small network, trained on drawn pictures, that says what a picture shows.

`python -m tools.sprite.judge` trains it. It looks at the whole picture at half size and at the face at full size. Much
of what it learns from is spoilt the way generated pictures are: decoded from noisy latents, blurred, noisy. How well it
does is measured on held-out combinations, never seen while it learnt: as drawn, decoded, decoded from noisy latents.
"""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from tools.sprite import autoencoder
from tools.sprite.canvas import Pixels
from tools.sprite.dataset import load_characters, load_pictures
from tools.sprite.home import home, load, save
from tools.sprite.measures import UNSEEN, Labels, balanced_accuracy
from tools.sprite.render import FACE_BOX, render
from tools.sprite.vocabulary import ACCESSORIES, TAGS, Character, sample

#: What is judged → the values it can have, in the order of the labels.
HEADS: dict[str, tuple[str, ...]] = {
    **{attribute: tuple(values) for attribute, values in TAGS.items()},
    **dict.fromkeys(ACCESSORIES, ("no", "yes")),
}
FEATURES = 128
STEPS, BATCH, RATE = 1600, 64, 2e-3
#: So many decoded pictures to learn from, so many of them in a batch; noise on their latents, at most.
DECODED, DECODED_IN_BATCH, NOISE = 3000, 24, 0.5
#: Held-out pictures are drawn from seeds far from those of the training.
HELD_OUT_SEED = 10_000_000


def labels(characters: Sequence[Character]) -> dict[str, Labels]:
    """What the pictures of these characters show, as indices into `HEADS`; `UNSEEN` where it cannot be seen."""
    table = {
        attribute: np.array([HEADS[attribute].index(getattr(one, attribute)) for one in characters])
        for attribute in TAGS
    }
    table["eyes"][[not one.eyes_show for one in characters]] = UNSEEN
    table |= {name: np.array([int(name in one.accessories) for one in characters]) for name in ACCESSORIES}
    return table


def held_out_characters(count: int, seed: int = 0) -> list[Character]:
    """Combinations that no training picture shows."""
    rng = random.Random(HELD_OUT_SEED + seed)
    return [sample(rng, hold_out=True) for _ in range(count)]


def draw(characters: Sequence[Character], seed: int = 0) -> Pixels:
    """Their pictures: number × height × width × RGB."""
    return np.stack([render(one, HELD_OUT_SEED + seed + index) for index, one in enumerate(characters)])


@torch.no_grad()
def reconstruct(pictures: Pixels, noise: float = 0.0, seed: int = 0) -> Pixels:
    """The pictures through the autoencoder, with noise of at most so much on their latents."""
    model, generator = autoencoder.load(), torch.Generator().manual_seed(seed)
    made = []
    for start in range(0, len(pictures), 32):
        latents = model.encoder(autoencoder.to_tensor(pictures[start : start + 32]))
        amount = torch.rand(len(latents), 1, 1, 1, generator=generator) * noise
        latents = latents + torch.randn(latents.shape, generator=generator) * amount
        made.append(autoencoder.to_pictures(model.decoder(latents)))
    return np.concatenate(made)


def _layers(*widths: int) -> nn.Sequential:
    """Convolutions that halve the picture each, with normalisation."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*parts, nn.Flatten())


class Judge(nn.Module):
    """Pictures (number × 3 × 128 × 128, −1 to 1) → their features, and a score for every value of every head."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.face = _layers(3, 24, 48, 96, 96), _layers(3, 24, 48, 96, 96)
        left, top, right, bottom = FACE_BOX
        cells = 4 * 4 + -(-(right - left) // 16) * -(-(bottom - top) // 16)
        self.features = nn.Sequential(nn.Dropout(0.1), nn.Linear(96 * cells, FEATURES), nn.SiLU())
        self.scores = nn.Linear(FEATURES, sum(len(values) for values in HEADS.values()))

    def forward(self, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features (number × FEATURES) and the scores (number × values of the head)."""
        left, top, right, bottom = FACE_BOX
        seen = self.whole(avg_pool2d(pictures, 2)), self.face(pictures[:, :, top:bottom, left:right])
        features = self.features(torch.cat(seen, 1))
        parts = self.scores(features).split([len(values) for values in HEADS.values()], dim=1)
        return features, dict(zip(HEADS, parts, strict=True))


def path() -> Path:
    """Where the trained judge is."""
    return home() / "judge.pt"


def _spoil(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur one picture in four, and put noise on one in four."""
    dice = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    blurred = interpolate(avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    noisy = pictures + 0.15 * torch.randn(pictures.shape, generator=generator)
    return torch.where(dice < 0.25, blurred, torch.where(dice > 0.75, noisy, pictures))


def _loss(scores: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    parts = [cross_entropy(scores[head], wanted[head], ignore_index=UNSEEN, label_smoothing=0.02) for head in HEADS]
    return torch.stack(parts).sum()


def train() -> Judge:
    """Train a judge and write it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    characters, pictures = load_characters(), load_pictures()
    clean = np.array([index for index, one in enumerate(characters) if not one.degraded])
    decoded = reconstruct(pictures[clean[:DECODED]], NOISE)
    known = {head: torch.from_numpy(values) for head, values in labels(characters).items()}
    judge, rng, generator = Judge(), np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(judge.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    started = time.monotonic()
    for step in range(STEPS):
        drawn = np.sort(rng.choice(clean, BATCH - DECODED_IN_BATCH, replace=False))
        places = rng.integers(0, DECODED, DECODED_IN_BATCH)
        batch = autoencoder.to_tensor(np.concatenate([pictures[drawn], decoded[places]]))
        chosen = np.concatenate([drawn, clean[places]])
        _, scores = judge(_spoil(batch, generator))
        loss = _loss(scores, {head: values[chosen] for head, values in known.items()})
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {STEPS}, {time.monotonic() - started:.0f} s, loss {loss.item():.3f}", flush=True)
    save(judge.state_dict(), path())
    return judge.eval()


def load_judge() -> Judge:
    """The judge, trained first where there is none."""
    if not path().exists():
        return train()
    judge = Judge()
    judge.load_state_dict(load(path()))
    return judge.eval()


@torch.no_grad()
def look(judge: Judge, pictures: Pixels) -> tuple[NDArray[np.float32], dict[str, Labels]]:
    """The features of pictures, and what they show."""
    features, found = [], []
    for start in range(0, len(pictures), 64):
        part, scores = judge(autoencoder.to_tensor(pictures[start : start + 64]))
        features.append(part.numpy())
        found.append({head: values.argmax(1).numpy() for head, values in scores.items()})
    return np.concatenate(features), {head: np.concatenate([part[head] for part in found]) for head in HEADS}


def standing(judge: Judge, characters: Sequence[Character], pictures: Pixels) -> dict[str, float]:
    """The balanced accuracy of the judge on pictures of these characters, head by head."""
    _, found = look(judge, pictures)
    wanted = labels(characters)
    return {head: balanced_accuracy(found[head], wanted[head]) for head in HEADS}


def main() -> int:
    """Train the judge, and say how well it does; returns the exit status."""
    judge, characters = train(), held_out_characters(500)
    pictures = draw(characters)
    shown = {"drawn": pictures, "decoded": reconstruct(pictures), "noisy": reconstruct(pictures, NOISE)}
    for name, kind in shown.items():
        print(name, {head: round(share, 3) for head, share in standing(judge, characters, kind).items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
