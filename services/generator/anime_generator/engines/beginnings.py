"""What a pass begins with: pure noise, or a picture that is drawn over, all of it or where a mask says so.

A pass over a picture leaves out the first steps of the schedule and begins with the picture's latents, as noisy as they
would be there (Meng et al. 2021, SDEdit). With a mask, what is outside of it is put back after every step, as noisy as
the next one expects it (as AUTOMATIC1111's web UI and diffusers do with models that were not trained for inpainting).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anime_generator.engines.pipelines import Resident


@dataclass(frozen=True, slots=True)
class Beginning:
    """What one pass is about: its size in pixels, the steps of its schedule and how many of them are made.

    `latents` (1 or pictures, channels, h, w) are of what is drawn over, absent for pure noise. `mask` (1, 1, h, w) is 1
    where something new is drawn. `before` of `total` steps were made in an earlier pass.
    """

    width: int
    height: int
    steps: int
    made: int
    total: int
    before: int = 0
    latents: Any | None = None
    mask: Any | None = None

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return self.width * self.height

    def prepare(self, scheduler: Any, noise: Any) -> Any | None:
        """Have the scheduler leave out what is not made; the latents that the pipeline is to begin with.

        `noise` is (pictures, channels, h, w).
        """
        if self.latents is None:
            return None
        begin_late(scheduler, self.steps - self.made)
        scheduler.set_timesteps(self.steps, device=noise.device)
        first = scheduler.timesteps[:1].repeat(len(noise))
        # The pipeline multiplies what it is given by the noise that it believes to be at the start.
        return scheduler.add_noise(self._for(noise), noise, first) / scheduler.init_noise_sigma

    def put_back(self, scheduler: Any, latents: Any, noise: Any, index: int) -> Any:
        """After step `index` (from 0): the latents with all that lies outside of the mask as it was."""
        if self.mask is None:
            return latents
        kept = self._for(noise)
        following = (self.steps - self.made) * scheduler.order + index + 1
        if following < len(scheduler.timesteps):
            kept = scheduler.add_noise(kept, noise, scheduler.timesteps[following].repeat(len(noise)))
        return (1 - self.mask) * kept + self.mask * latents

    def _for(self, noise: Any) -> Any:
        assert self.latents is not None
        return self.latents.expand(noise.shape).to(noise.dtype)


def begin_late(scheduler: Any, left_out: int) -> None:
    """Have a scheduler leave out the first steps of whatever schedule it is asked for.

    Who asks for the schedule sees what is left of it. The solver itself sees all of it, by which it knows where it is.
    """
    plan, step = scheduler.set_timesteps, scheduler.step
    whole: list[Any] = []

    def late(*args: Any, **kwargs: Any) -> None:
        plan(*args, **kwargs)
        whole[:] = [scheduler.timesteps]
        first = left_out * scheduler.order
        scheduler.timesteps = scheduler.timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)

    @functools.wraps(step)
    def knowing(*args: Any, **kwargs: Any) -> Any:
        scheduler.timesteps = whole[0]
        return step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = late, knowing


def noise_of(resident: Resident, generators: Sequence[Any], width: int, height: int) -> Any:
    """Noise (pictures, channels, h, w), each picture's from its own generator."""
    pipe = resident.pipe
    scale = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // scale, width // scale)
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.cat(noise).to(pipe.unet.device, pipe.unet.dtype)
