"""The engine that holds Stable-Diffusion-family models in its own memory and draws with them.

A seed gives the same picture alone and in a batch (pixels differ by at most 1 of 255): every picture has a random
generator of its own, on the CPU, so that cards of different makes agree on the noise as well.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers

from anime_common.contracts.vocabulary import Phase
from anime_generator.engines.embeddings import Embedding, EmbeddingCache, encode
from anime_generator.engines.pipelines import Resident, load_pipeline
from anime_generator.engines.protocol import (
    Cancelled,
    Drawn,
    EngineError,
    PhaseBegan,
    Previewed,
    Stepped,
    Warned,
    plan_passes,
    wanted,
)
from anime_generator.engines.samplers import SAMPLERS, build_sampler

if TYPE_CHECKING:
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo, Settings
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, EngineOptions, OnProgress, Picture
    from anime_generator.registry import ModelSpec

PREVIEW_SHARE = 0.02
"""After the first one, previews may take this share of the sampling time."""
FIRST_PREVIEW = 3


class DiffusersEngine:
    """See the module's text."""

    def __init__(self, device: Device, options: EngineOptions) -> None:
        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        self._device = device
        self._options = options
        self._resident: dict[str, Resident] = {}
        self._embeddings = EmbeddingCache(options.embedding_cache)

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """Any sampler of the table, unless the registry narrows them."""
        return spec.info(SAMPLERS)

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Put a model into the device's memory; `warm_up` runs two steps, so that the first job pays for no set-up."""
        if spec.key not in self._resident:
            try:
                with _translated(f"loading {spec.key}"):
                    self._resident[spec.key] = load_pipeline(spec, self._device)
                    if warm_up:
                        self._warm_up(spec)
            except EngineError:
                self.unload(spec.key)
                raise
        return self._resident[spec.key].size

    def unload(self, key: str) -> None:
        """Give up a model and its embeddings."""
        self._resident.pop(key, None)
        self._embeddings.forget(key)
        gc.collect()
        if self._device.kind == "cuda":
            torch.cuda.empty_cache()

    def generate(
        self, spec: ModelSpec, requests: Sequence[OfferedJob], on_progress: OnProgress, cancel: Cancel
    ) -> None:
        """Draw with a resident model, in passes of the model's batch limit."""
        resident = self._resident[spec.key]
        settings = {request.attempt_id: request.settings for request in requests}
        warned: set[Any] = set()
        for planned in plan_passes(requests, spec.batch_limit):
            pictures = wanted(planned, cancel)
            if not pictures:
                continue
            try:
                with _translated(f"drawing with {spec.key}"):
                    on_progress(PhaseBegan(Phase.ENCODING, pictures))
                    texts = self._encode(spec, resident, [settings[picture.attempt_id] for picture in pictures])
                    for picture, text in zip(pictures, texts, strict=True):
                        if text.lost and picture.attempt_id not in warned:
                            warned.add(picture.attempt_id)
                            on_progress(Warned(picture.attempt_id, f"the prompt lost its last {text.lost} tokens"))
                    latents = self._sample(spec, resident, pictures, settings, texts, on_progress, cancel)
                    self._decode(spec, resident, pictures, latents, on_progress, cancel)
            except Cancelled:
                continue

    def _encode(self, spec: ModelSpec, resident: Resident, wanted_by: Sequence[Settings]) -> list[Embedding]:
        return [self._embedding(spec, resident, settings.prompt) for settings in wanted_by]

    def _embedding(self, spec: ModelSpec, resident: Resident, text: str) -> Embedding:
        found = self._embeddings.get(spec.key, text)
        if found is None:
            found = encode(resident.pipe, text)
            self._embeddings.put(spec.key, text, found)
        return found

    def _sample(
        self,
        spec: ModelSpec,
        resident: Resident,
        pictures: tuple[Picture, ...],
        settings: dict[Any, Settings],
        texts: list[Embedding],
        on_progress: OnProgress,
        cancel: Cancel,
    ) -> Any:
        """The latents (pictures, channels, h, w) of one forward pass; raises Cancelled when nobody wants it."""
        shared = settings[pictures[0].attempt_id]
        if not wanted(pictures, cancel):
            raise Cancelled
        conditioning = _stacked(texts)
        if shared.guidance > 1:
            negatives = [self._embedding(spec, resident, settings[p.attempt_id].negative_prompt) for p in pictures]
            conditioning |= {f"negative_{name}": value for name, value in _stacked(negatives).items()}
        watch = _Watch(resident, pictures, shared.steps, self._options, on_progress, cancel)
        resident.pipe.scheduler = build_sampler(shared.sampler, resident.trained, watch.estimated)
        on_progress(PhaseBegan(Phase.SAMPLING, pictures))
        return resident.pipe(
            **conditioning,
            width=shared.width,
            height=shared.height,
            num_inference_steps=shared.steps,
            guidance_scale=shared.guidance,
            guidance_rescale=spec.guidance_rescale,
            generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in pictures],
            output_type="latent",
            callback_on_step_end=watch.stepped,
        ).images

    def _decode(
        self,
        spec: ModelSpec,
        resident: Resident,
        pictures: tuple[Picture, ...],
        latents: Any,
        on_progress: OnProgress,
        cancel: Cancel,
    ) -> None:
        """One picture at a time: decoding needs more memory than sampling, and a cancelled one is not decoded."""
        if left := wanted(pictures, cancel):
            on_progress(PhaseBegan(Phase.DECODING, left))
        for picture, latent in zip(pictures, latents, strict=True):
            if cancel.asked(picture.attempt_id):
                continue
            if not bool(torch.isfinite(latent).all()):
                advice = f"set models.{spec.key}.precision to bfloat16 or float32"
                reason = f"{spec.key} left the range of its precision: {advice}"
                raise EngineError("not_a_number", reason, retryable=False)
            on_progress(Drawn(picture, resident.to_pixels(latent)))

    def _warm_up(self, spec: ModelSpec) -> None:
        resident = self._resident[spec.key]
        embedding = encode(resident.pipe, "")
        conditioning = _stacked([embedding])
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


class _Watch:
    """Looks over a forward pass: tells of steps and previews, and stops it once every picture is cancelled."""

    def __init__(
        self,
        resident: Resident,
        pictures: tuple[Picture, ...],
        steps: int,
        options: EngineOptions,
        on_progress: OnProgress,
        cancel: Cancel,
    ) -> None:
        self._resident = resident
        self._pictures = pictures
        self._steps = steps
        self._options = options
        self._tell = on_progress
        self._cancel = cancel
        self._estimate: Any = None
        self._began = time.perf_counter()
        self._spent = 0.0
        self._previewed = False

    def estimated(self, x0: Any) -> None:
        """Remember the sampler's latest estimate of the finished latents."""
        self._estimate = x0

    def stepped(self, _pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback after step `index` (from 0); raises Cancelled."""
        left = wanted(self._pictures, self._cancel)
        if not left:
            raise Cancelled
        step = index + 1
        self._tell(Stepped(left, step, self._steps))
        if step < self._steps and self._due(step):
            began = time.perf_counter()
            self._preview(left)
            self._spent += time.perf_counter() - began
            self._previewed = True
        return tensors

    def _due(self, step: int) -> bool:
        if not self._previewed:
            return step >= min(FIRST_PREVIEW, self._options.preview_every)
        affordable = self._spent <= PREVIEW_SHARE * (time.perf_counter() - self._began)
        return affordable and step % self._options.preview_every == 0

    def _preview(self, left: tuple[Picture, ...]) -> None:
        for picture, latent in zip(self._pictures, self._estimate, strict=True):
            if picture in left:
                self._tell(Previewed(picture, self._resident.preview.jpeg(latent, self._options.preview_size)))


def _stacked(embeddings: Sequence[Embedding]) -> dict[str, Any]:
    """Embeddings as the pipeline's arguments: tokens (pictures, tokens, width), pooled (pictures, width)."""
    found = {"prompt_embeds": torch.cat([embedding.tokens for embedding in embeddings])}
    if embeddings[0].pooled is not None:
        found["pooled_prompt_embeds"] = torch.cat([embedding.pooled for embedding in embeddings])
    return found


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn torch's errors into ours: out of memory may pass, a broken CUDA context needs a new process."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError("out_of_memory", f"out of memory while {doing}: {error}", retryable=True) from error
    except RuntimeError as error:
        text = str(error)
        if "can't allocate memory" in text:
            raise EngineError("out_of_memory", f"out of memory while {doing}: {text}", retryable=True) from error
        if "CUDA error" in text or "cuDNN error" in text or "CUBLAS" in text:
            reason = f"the device failed while {doing}: {text}"
            raise EngineError("device_error", reason, retryable=True, poisoned=True) from error
        raise EngineError("engine_error", f"{doing} failed: {text}", retryable=True) from error
