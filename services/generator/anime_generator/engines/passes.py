"""One forward pass of a diffusers pipeline: prompts are encoded, latents sampled, pictures decoded."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import torch

from anime_common.contracts.vocabulary import Phase
from anime_generator.engines.embeddings import Embedding, EmbeddingCache, EmbeddingKey
from anime_generator.engines.prompts import encode_prompt
from anime_generator.engines.protocol import Cancelled, Drawn, EngineError, PhaseBegan, Warned, wanted
from anime_generator.engines.samplers import build_sampler
from anime_generator.engines.watch import Watch
from anime_generator.memory import Demand
from anime_generator.prompt_syntax import not_understood

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_generator.device import Device
    from anime_generator.engines.pipelines import Resident
    from anime_generator.engines.protocol import Cancel, EngineOptions, OnProgress, Picture
    from anime_generator.registry import ModelSpec


Texts = tuple[Embedding, Embedding | None]
"""A prompt, and what must not appear."""


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
        """Draw these pictures; raises Cancelled when nobody wants them any more.

        Prompts that fill more windows of the encoder than others run by themselves: to be made as long, the others
        would have to change, and with them their pictures.
        """
        left = self._left(pictures)
        for texts in self._encode(left).values():
            with contextlib.suppress(Cancelled):
                alike = self._left(tuple(texts))
                latents = self._sample(alike, self._conditioning([texts[picture] for picture in alike]))
                self._decode(alike, latents)

    def _left(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        left = wanted(pictures, self.cancel)
        if not left:
            raise Cancelled
        return left

    def _demand(self, phase: Phase, pictures: int, settings: Settings) -> Demand:
        pixels = settings.width * settings.height
        return Demand(self.spec.key, phase, pictures, pixels, economical=self.economical)

    def _encode(self, pictures: tuple[Picture, ...]) -> dict[int, dict[Picture, Texts]]:
        """What the prompts of these pictures become, by the number of windows that they fill."""
        self.tell(PhaseBegan(Phase.ENCODING, pictures))
        shared = self.settings[pictures[0].attempt_id]
        self.device.demand(self._demand(Phase.ENCODING, 1, shared))
        for attempt_id in dict.fromkeys(picture.attempt_id for picture in pictures):
            for syntax in not_understood(self.settings[attempt_id].prompt):
                self.tell(Warned(attempt_id, f"{syntax} is read as emphasis: prompts are not edited while drawing"))
        found: dict[int, dict[Picture, Texts]] = defaultdict(dict)
        for picture in pictures:
            texts = self._texts(self.settings[picture.attempt_id])
            found[texts[0].windows][picture] = texts
        return found

    def _texts(self, settings: Settings) -> Texts:
        """A prompt, and what must not appear, of equal length; the latter only where guidance uses it."""
        skip = settings.clip_skip
        prompt = self._embedding(settings.prompt, skip)
        if settings.guidance <= 1:
            return prompt, None
        negative = self._embedding(settings.negative_prompt, skip, prompt.windows)
        if negative.windows > prompt.windows:
            prompt = self._embedding(settings.prompt, skip, negative.windows)
        return prompt, negative

    def _embedding(self, text: str, clip_skip: int, windows: int = 1) -> Embedding:
        key = EmbeddingKey(self.spec.key, text, self.adapters, clip_skip, windows)
        found = self.embeddings.get(key)
        if found is None:
            found = encode_prompt(self.resident.pipe, text, clip_skip=clip_skip, windows=windows)
            self.embeddings.put(key, found)
        return found.on(self.device.torch_name)

    def _conditioning(self, texts: Sequence[Texts]) -> dict[str, Any]:
        """The pipeline's arguments for texts of equal length."""
        found = stacked([prompt for prompt, _ in texts])
        negatives = [negative for _, negative in texts if negative is not None]
        if negatives:
            found |= {f"negative_{name}": value for name, value in stacked(negatives).items()}
        return found

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
            guidance_rescale=shared.guidance_rescale,
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
