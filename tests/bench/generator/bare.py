"""A plain diffusers pipeline, called as its documentation says: what the engine is compared with."""

from __future__ import annotations

import inspect
import io
from typing import Any

import torch

from anime_common.contracts.generation import Settings
from anime_generator.engines.samplers import build_sampler
from anime_generator.metadata import COMPRESSION
from tests.bench.generator.timing import Lap, timed


class Bare:
    """A pipeline of its own around the weights of another one: no second copy, and the same addresses in memory."""

    def __init__(self, resident: Any) -> None:
        pipe = resident.pipe
        known = inspect.signature(type(pipe).__init__).parameters
        options = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
        self._trained = resident.trained
        self._pipe = type(pipe)(**pipe.components, **options)
        self._pipe.set_progress_bar_config(disable=True)

    def draw(self, settings: Settings) -> tuple[Lap, bytes]:
        """One picture as a PNG, as small as the engine's are, and what it took."""
        found: list[bytes] = []
        vae, kept = self._pipe.vae, self._pipe.vae.dtype
        vae.to(self._pipe.unet.dtype)  # a pipeline raises the precision of its autoencoder by itself where it must
        try:
            lap = timed(lambda: found.append(self._png(settings)))
        finally:
            vae.to(kept)
        return lap, found[0]

    def _png(self, settings: Settings) -> bytes:
        scheduler, configuration = solver(settings, self._trained)
        self._pipe.scheduler = scheduler.from_config(configuration)
        image = self._pipe(**arguments(settings), generator=torch.Generator("cpu").manual_seed(settings.seed)).images[0]
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=COMPRESSION)
        return buffer.getvalue()


def arguments(settings: Settings) -> dict[str, Any]:
    """The pipeline's arguments for one picture, in JSON's types."""
    return {
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt,
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "guidance_rescale": settings.guidance_rescale,
    }


def solver(settings: Settings, trained: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The scheduler's class, and its configuration, that the engine takes for these settings."""
    found = build_sampler(settings.sampler, trained, lambda _: None)
    configuration = {name: value for name, value in found.config.items() if not name.startswith("_")}
    return type(found), configuration
