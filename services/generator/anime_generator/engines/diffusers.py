"""The engine that holds Stable-Diffusion-family models in its own memory and draws with them.

A seed gives the same picture alone and in a batch (pixels differ by at most 1 of 255): every picture has a random
generator of its own, on the CPU, so that cards of different makes agree on the noise as well.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import diffusers
import transformers

from anime_common.contracts.vocabulary import Phase
from anime_generator.engines.economy import economy
from anime_generator.engines.embeddings import EmbeddingCache
from anime_generator.engines.faults import translated
from anime_generator.engines.offload import to_device, to_host
from anime_generator.engines.passes import ForwardPass, stacked
from anime_generator.engines.pipelines import load_pipeline
from anime_generator.engines.prompts import encode_prompt
from anime_generator.engines.protocol import NO_INPUTS, USUAL, Cancelled, EngineError, PhaseBegan, plan_passes
from anime_generator.engines.samplers import SAMPLERS, build_sampler
from anime_generator.memory import Demand
from anime_generator.upscalers import available

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, EngineOptions, Inputs, Manner, OnProgress
    from anime_generator.registry import ModelSpec

HONOURED = (
    *("preset", "guidance_rescale", "clip_skip", "loras"),
    *("init_image", "mask", "strength", "hires", "upscale"),
)
"""The fields of a request that this engine honours beside those that every engine does."""


class DiffusersEngine:
    """See the module's text."""

    def __init__(self, device: Device, options: EngineOptions) -> None:
        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        self._device = device
        self._options = options
        self._resident: dict[str, Any] = {}
        self._offloaded: dict[str, Any] = {}
        self._embeddings = EmbeddingCache(options.embedding_cache)

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """Any sampler of the table, unless the registry narrows them."""
        return spec.info(SAMPLERS, HONOURED, available(self._device.torch_name))

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Put a model into the device's memory; `warm_up` runs two steps, so that the first job pays for no set-up."""
        if spec.key not in self._resident:
            try:
                with translated(f"loading {spec.key}"):
                    self._device.demand(Demand(spec.key, Phase.LOADING))
                    self._resident[spec.key] = self._copied_back(spec.key) or self._from_files(spec)
                    self._device.take(spec.key, self._resident[spec.key].size)
                    if warm_up:
                        self._warm_up(spec)
            except EngineError:
                self.unload(spec.key)
                raise
        size: int = self._resident[spec.key].size
        return size

    def offload(self, key: str) -> bool:
        """Move a model's weights to pinned memory of the machine; what was encoded with it stays remembered."""
        resident = self._resident.get(key)
        if resident is None:
            return False
        try:
            to_host(resident.modules, self._device)
        except (RuntimeError, MemoryError):
            return False
        self._offloaded[key] = self._resident.pop(key)
        self._device.give_back(key)
        self._device.release()
        return True

    def unload(self, key: str) -> None:
        """Give up a model and its embeddings."""
        self._resident.pop(key, None)
        self._offloaded.pop(key, None)
        self._embeddings.forget(key)
        self._device.give_back(key)
        gc.collect()
        self._device.release()

    def generate(
        self,
        spec: ModelSpec,
        requests: Sequence[OfferedJob],
        on_progress: OnProgress,
        cancel: Cancel,
        manner: Manner = USUAL,
        inputs: Inputs = NO_INPUTS,
    ) -> None:
        """Draw with a resident model, in passes of the model's batch limit or less."""
        resident = self._resident[spec.key]
        adapters = self._adapters(spec, requests, on_progress)
        drawing = ForwardPass(
            spec=spec,
            resident=resident,
            device=self._device,
            options=self._options,
            embeddings=self._embeddings,
            settings={request.attempt_id: request.settings for request in requests},
            tell=on_progress,
            cancel=cancel,
            economical=manner.economical,
            adapters=adapters,
            inputs=inputs,
        )
        with economy(resident, on=manner.economical), translated(f"drawing with {spec.key}"):
            for pictures in plan_passes(requests, spec.batch_limit, manner):
                with contextlib.suppress(Cancelled):
                    drawing.draw(pictures)

    def _from_files(self, spec: ModelSpec) -> Any:
        return load_pipeline(spec, self._device)

    def _adapters(self, spec: ModelSpec, requests: Sequence[OfferedJob], on_progress: OnProgress) -> str:
        """Have the LoRAs of these requests at work; returns their fingerprint."""
        adapters, uses = self._resident[spec.key].adapters, requests[0].settings.loras
        with translated(f"loading LoRAs for {spec.key}"):
            if adapters.missing(spec.loras, uses):
                on_progress(PhaseBegan(Phase.LOADING, plan_passes(requests, 1)[0]))
                self._device.demand(Demand(spec.key, Phase.LOADING))
            fingerprint: str = adapters.use(spec.loras, uses)
            return fingerprint

    def _copied_back(self, key: str) -> Any:
        """A model whose weights waited in the machine's own memory."""
        resident = self._offloaded.pop(key, None)
        if resident is not None:
            to_device(resident.modules, self._device)
        return resident

    def _warm_up(self, spec: ModelSpec) -> None:
        resident = self._resident[spec.key]
        embedding = encode_prompt(resident.pipe, "")
        conditioning = stacked([embedding])
        negative = {f"negative_{name}": value for name, value in conditioning.items()}
        resident.pipe.scheduler = build_sampler(spec.defaults.sampler, resident.trained, lambda _: None)
        latents = resident.pipe(
            **conditioning,
            **negative,
            width=spec.defaults.width,
            height=spec.defaults.height,
            num_inference_steps=2,
            guidance_scale=max(spec.defaults.guidance, 1.1),
            output_type="latent",
        ).images
        resident.to_pixels(latents[0])
