"""One forward pass of a diffusers pipeline: prompts are encoded, latents sampled, pictures decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import torch

from anime_common.contracts.vocabulary import Phase
from anime_generator.engines.embeddings import Embedding, EmbeddingCache, EmbeddingKey, encode
from anime_generator.engines.protocol import Cancelled, Drawn, EngineError, PhaseBegan, Warned, wanted
from anime_generator.engines.samplers import build_sampler
from anime_generator.engines.watch import Watch
from anime_generator.memory import Demand

if TYPE_CHECKING:
    from anime_common.contracts.vocabulary import Settings
    from anime_generator.device import Device
    from anime_generator.engines.pipelines import Resident
    from anime_generator.engines.protocol import Cancel, EngineOptions, OnProgress, Picture
    from anime_generator.registry import ModelSpec


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What passes of one run share. `adapters` is a fingerprint of the LoRAs in use."""

    spec: ModelSpec
    resident: Resident
    device: Device
    options: EngineOptions
    embeddings: EmbeddingCache
    settings: Mapping[UUID, Settings]
    tell: OnProgress
    cancel: Cancel
    economical: bool = False
    adapters: str = ""

    def draw(self, pictures: tuple[Picture, ...]) -> None:
        """Draw these pictures; raises Cancelled when nobody wants them any more."""
        left = self._left(pictures)
        texts = self._encode(left)
        latents = self._sample(left, texts)
        self._decode(left, latents)

    def _left(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        left = wanted(pictures, self.cancel)
        if not left:
            raise Cancelled
        return left

    def _demand(self, phase: Phase, pictures: int, settings: Settings) -> Demand:
        pixels = settings.width * settings.height
        return Demand(self.spec.key, phase, pictures, pixels, economical=self.economical)

    def _encode(self, pictures: tuple[Picture, ...]) -> dict[str, Any]:
        """The pipeline's arguments for the prompts of these pictures, and for what must not appear in them."""
        self.tell(PhaseBegan(Phase.ENCODING, pictures))
        shared = self.settings[pictures[0].attempt_id]
        self.device.demand(self._demand(Phase.ENCODING, 1, shared))
        texts = {picture: self._embedding(self.settings[picture.attempt_id].prompt) for picture in pictures}
        for attempt_id, lost in {picture.attempt_id: text.lost for picture, text in texts.items()}.items():
            if lost:
                self.tell(Warned(attempt_id, f"the prompt lost its last {lost} tokens"))
        found = stacked(list(texts.values()))
        if shared.guidance > 1:
            negatives = [self._embedding(self.settings[each.attempt_id].negative_prompt) for each in pictures]
            found |= {f"negative_{name}": value for name, value in stacked(negatives).items()}
        return found

    def _embedding(self, text: str) -> Embedding:
        key = EmbeddingKey(self.spec.key, text, self.adapters)
        found = self.embeddings.get(key)
        if found is None:
            found = encode(self.resident.pipe, text, self.spec.clip_skip)
            self.embeddings.put(key, found)
        return found.on(self.device.torch_name)

    def _sample(self, pictures: tuple[Picture, ...], conditioning: dict[str, Any]) -> Any:
        """The latents (pictures, channels, h, w)."""
        self._left(pictures)
        shared = self.settings[pictures[0].attempt_id]
        demand = self._demand(Phase.SAMPLING, len(pictures), shared)
        watch = Watch(
            self.device,
            demand,
            self.resident.preview,
            pictures,
            shared.steps,
            self.options,
            self.tell,
            self.cancel,
        )
        pipe = self.resident.pipe
        pipe.scheduler = build_sampler(shared.sampler, self.resident.trained, watch.estimated)
        self.tell(PhaseBegan(Phase.SAMPLING, pictures))
        watch.begin()
        return pipe(
            **conditioning,
            width=shared.width,
            height=shared.height,
            num_inference_steps=shared.steps,
            guidance_scale=shared.guidance,
            guidance_rescale=self.spec.guidance_rescale,
            generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in pictures],
            output_type="latent",
            callback_on_step_end=watch.stepped,
        ).images

    def _decode(self, pictures: tuple[Picture, ...], latents: Any) -> None:
        """One picture at a time: decoding needs more memory than sampling, and a cancelled one is not decoded."""
        self.tell(PhaseBegan(Phase.DECODING, self._left(pictures)))
        demand = self._demand(Phase.DECODING, 1, self.settings[pictures[0].attempt_id])
        for picture, latent in zip(pictures, latents, strict=True):
            if self.cancel.asked(picture.attempt_id):
                continue
            if not bool(torch.isfinite(latent).all()):
                advice = f"set models.{self.spec.key}.precision to bfloat16 or float32"
                reason = f"{self.spec.key} left the range of its precision: {advice}"
                raise EngineError("not_a_number", reason, retryable=False)
            self.device.demand(demand)
            self.tell(Drawn(picture, self.resident.to_pixels(latent)))


def stacked(embeddings: Sequence[Embedding]) -> dict[str, Any]:
    """Embeddings as the pipeline's arguments: tokens (pictures, tokens, width), pooled (pictures, width)."""
    found = {"prompt_embeds": torch.cat([embedding.tokens for embedding in embeddings])}
    if embeddings[0].pooled is not None:
        found["pooled_prompt_embeds"] = torch.cat([embedding.pooled for embedding in embeddings])
    return found
