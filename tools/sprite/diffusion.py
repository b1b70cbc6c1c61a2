"""Trains the diffusion model: `python -m tools.sprite.diffusion --seconds 3600`.

It goes on from its last checkpoint, whenever and however it was stopped: the learning rate stays the same after a
warm-up, and every random number of a step follows from the number of the step. A last run with `--anneal SECONDS`
brings the rate to nothing; it writes a file of its own, so the training can go on from where it was. `--workers 2`
trains in two processes of one thread each, which average what they learnt every few seconds: where cores are shared
with others that is faster than two threads, of which each waits for the other at every layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import mse_loss

from tools.sprite import model, tokenizer
from tools.sprite.autoencoder import FACTOR
from tools.sprite.dataset import load_characters
from tools.sprite.home import home, load, save
from tools.sprite.latents import load_latents
from tools.sprite.render import FACE_BOX
from tools.sprite.vocabulary import Character, caption

BATCH = 8
RATE, WARM_UP = 6e-4, 200
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 0.01, 1.0
EMA_DECAY = 0.999
#: What a cell of the face weighs in the loss, against one elsewhere.
FACE_WEIGHT = 3.0
CHECKPOINT_SECONDS, LOG_STEPS = 150.0, 50
AVERAGE_SECONDS, MOMENTS_EVERY = 12.0, 4
#: A step that took longer was stopped in between, and counts as this long.
PAUSE_SECONDS = 30.0
_PORT = 29_631


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command was asked for."""

    seconds: float
    anneal: float
    rate: float
    device: str
    workers: int


def checkpoint_path(*, annealed: bool = False) -> Path:
    """Where the last checkpoint is: that of the training, or that of its annealed end."""
    return home() / ("annealed.pt" if annealed else "checkpoint.pt")


def tokenizer_path() -> Path:
    """Where the tokenizer is."""
    return home() / "tokenizer"


def face_weights() -> Tensor:
    """What each cell of the latent picture weighs in the loss: on average 1."""
    left, top, right, bottom = (edge // FACTOR for edge in FACE_BOX)
    weights = torch.ones(1, 1, model.LATENT_SIZE, model.LATENT_SIZE)
    weights[..., top:bottom, left:right] = FACE_WEIGHT
    return weights / weights.mean()


def stratified_timesteps(generator: torch.Generator, count: int) -> Tensor:
    """One timestep of each of `count` equal parts of the schedule, in random order."""
    places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return (places / count * 1000).long().clamp(0, 999)


def noised(clean: Tensor, noise: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy picture, and the velocity that the model is to find."""
    keep, lose = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    return keep * clean + lose * noise, keep * noise - lose * clean


class Trainer:
    """The model, its average and its optimiser, from the last checkpoint or new."""

    def __init__(self, options: Options, rank: int) -> None:
        self.options, self.rank = options, rank
        self.tokenizer = tokenizer.load(tokenizer_path())
        self.unet = model.create_unet().to(options.device).train()
        self.text = model.create_text_encoder(self.tokenizer).to(options.device).train()
        self.parameters: list[Tensor] = [*self.unet.parameters(), *self.text.parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
            options.rate, betas=BETAS, fused=True,
        )  # fmt: skip
        self.step, self.samples, self.cpu_seconds = 0, 0, 0.0
        if checkpoint_path().exists():
            self._resume(load(checkpoint_path()))
        self.latents = load_latents()
        self.characters: list[Character] = load_characters()
        self.alphas = model.training_noise().to(options.device)
        self.weights = face_weights().to(options.device)
        self.losses: list[float] = []

    def _resume(self, state: dict[str, Any]) -> None:
        self.unet.load_state_dict(state["unet"])
        self.text.load_state_dict(state["text"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = [value.to(self.options.device) for value in state["average"]]
        self.step, self.samples, self.cpu_seconds = state["step"], state["samples"], state["cpu_seconds"]

    def checkpoint(self) -> None:
        """Write everything that going on needs."""
        save(
            {
                "unet": self.unet.state_dict(), "text": self.text.state_dict(), "average": self.average,
                "optimiser": self.optimiser.state_dict(), "step": self.step, "samples": self.samples,
                "cpu_seconds": self.cpu_seconds,
            },
            checkpoint_path(annealed=self.options.anneal > 0),
        )  # fmt: skip

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean latents, tokens, noise and timesteps of this step."""
        seed = self.step * 97 + self.rank
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.latents), (BATCH,), generator=generator)
        clean = self.latents[chosen].float()
        rng = random.Random(seed)
        captions = [caption(self.characters[index], rng) for index in chosen.tolist()]
        tokens = model.tokens_of(self.tokenizer, captions)
        noise = torch.randn(clean.shape, generator=generator)
        return clean, tokens, noise, stratified_timesteps(generator, BATCH)

    def train_step(self, rate: float) -> None:
        """Learn from one batch."""
        clean, tokens, noise, times = (part.to(self.options.device) for part in self._batch())
        noisy, velocity = noised(clean, noise, self.alphas[times])
        found = self.unet(noisy, times, self.text(tokens)[0]).sample
        loss = (mse_loss(found, velocity, reduction="none") * self.weights).mean()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step()
        self.step += 1
        self.samples += BATCH * self.options.workers
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)
        self.losses.append(loss.item())

    def meet(self, *, moments: bool) -> None:
        """Average the weights of all workers, and sometimes what their optimisers remember."""
        values = [parameter.data for parameter in self.parameters]
        if moments:
            values += [self.optimiser.state[one][key] for one in self.parameters for key in ("exp_avg", "exp_avg_sq")]
        flat = torch.cat([value.reshape(-1) for value in values])
        distributed.all_reduce(flat)
        flat /= self.options.workers
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))


def rate_at(options: Options, step: int, elapsed: float) -> float:
    """The learning rate: warm-up and constant; or downwards to nothing, in a run that anneals."""
    if options.anneal:
        return options.rate * max(0.0, 1 - elapsed / options.anneal)
    return options.rate * min(1.0, (step + 1) / WARM_UP)


def _log(trainer: Trainer, rate: float, elapsed: float) -> None:
    recent = trainer.losses[-4 * LOG_STEPS :]
    entry = {
        "seconds": round(elapsed), "step": trainer.step, "samples": trainer.samples, "rate": round(rate, 7),
        "cpu_seconds": round(trainer.cpu_seconds), "loss": round(sum(recent) / len(recent), 4),
    }  # fmt: skip
    line = json.dumps(entry)
    print(line, flush=True)
    with (home() / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def _everybody_agrees(*, done: bool) -> bool:
    """Whether any worker is done: then all are."""
    flag = torch.tensor([float(done)])
    distributed.all_reduce(flag)
    return bool(flag.item() > 0)


def run(rank: int, options: Options) -> None:
    """One worker, from beginning to end; the first writes the checkpoints."""
    torch.set_num_threads(1)
    if options.workers > 1:
        distributed.init_process_group("gloo", f"tcp://127.0.0.1:{_PORT}", rank=rank, world_size=options.workers)
    trainer = Trainer(options, rank)
    last = saved = met = time.monotonic()
    elapsed = 0.0
    meetings, first_cpu, done = 0, trainer.cpu_seconds - time.process_time(), False
    limit = options.anneal or options.seconds
    while not done:
        now = time.monotonic()
        elapsed, last = elapsed + min(now - last, PAUSE_SECONDS), now
        rate = rate_at(options, trainer.step, elapsed)
        trainer.train_step(rate)
        trainer.cpu_seconds = first_cpu + time.process_time()
        over = elapsed > limit
        if options.workers == 1:
            done = over
        elif time.monotonic() - met > AVERAGE_SECONDS or over:
            done = _everybody_agrees(done=over)
            trainer.meet(moments=meetings % MOMENTS_EVERY == 0)
            meetings, met = meetings + 1, time.monotonic()
        if rank == 0 and trainer.step % LOG_STEPS == 0:
            _log(trainer, rate, elapsed)
        if rank == 0 and (done or time.monotonic() - saved > CHECKPOINT_SECONDS):
            trainer.checkpoint()
            saved = time.monotonic()


def prepare() -> None:
    """Make what all workers read, where it is missing."""
    torch.set_num_threads(1)
    if not tokenizer_path().exists():
        tokenizer.build(tokenizer_path())
    load_latents()


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="train the diffusion model, on from its last checkpoint")
    parser.add_argument("--seconds", type=float, default=3600, help="how long; checkpoints are written on the way")
    parser.add_argument(
        "--anneal", type=float, default=0.0, metavar="SECONDS", help="bring the rate to nothing in so long"
    )
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each (cpu)")
    parser.add_argument("--nice", type=int, default=19, help="how readily to let other programs go first")
    found = parser.parse_args()
    os.nice(found.nice)
    options = Options(found.seconds, found.anneal, found.rate, found.device, found.workers)
    prepare()
    if options.workers == 1:
        run(0, options)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which takes the workers along
        torch.multiprocessing.spawn(run, (options,), nprocs=options.workers, daemon=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
