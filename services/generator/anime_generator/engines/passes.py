"""One forward pass of a diffusers pipeline: prompts are encoded, latents sampled, pictures decoded."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import torch

from anime_common.contracts.vocabulary import Phase
from anime_common.prompts.syntax import not_understood
from anime_generator.engines.beginnings import Beginning, noise_of
from anime_generator.engines.canvases import Canvas, cells_of, cut_off, fitted, opaque, pixels_of
from anime_generator.engines.embeddings import Embedding, EmbeddingCache, EmbeddingKey
from anime_generator.engines.prompts import encode_prompt
from anime_generator.engines.protocol import Cancelled, Drawn, EngineError, PhaseBegan, Warned, wanted
from anime_generator.engines.samplers import build_sampler
from anime_generator.engines.watch import Watch
from anime_generator.memory import Demand
from anime_generator.upscalers import upscale

if TYPE_CHECKING:
    from anime_common.contracts.generation import HiresPass, Settings
    from anime_generator.device import Device
    from anime_generator.engines.pipelines import Resident
    from anime_generator.engines.protocol import Cancel, EngineOptions, Inputs, OnProgress, Picture
    from anime_generator.registry import ModelSpec


Texts = tuple[Embedding, Embedding | None]
"""A prompt, and what must not appear."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What passes of one run share. `adapters` is a fingerprint of the LoRAs in use, `inputs` are to be drawn over."""

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
    inputs: Inputs = field(default_factory=dict)

    def draw(self, pictures: tuple[Picture, ...]) -> None:
        """Draw these pictures; raises Cancelled when nobody wants them any more.

        Prompts that fill more windows of the encoder than others run by themselves: to be made as long, the others
        would have to change, and with them their pictures.
        """
        left = self._left(pictures)
        shared = self.settings[left[0].attempt_id]
        if shared.init_image is not None and not shared.sampled():
            self._finish(left, shared, dict.fromkeys(left, opaque(self._input("init_image", shared.init_image))))
            return
        canvas = self._canvas(left, shared)
        groups = self._encode(left)
        first = self._first(shared, canvas)
        for texts in groups.values():
            with contextlib.suppress(Cancelled):
                alike = self._left(tuple(texts))
                latents = self._sample(alike, texts, first)
                if shared.hires is not None:
                    alike, latents = self._again(alike, texts, shared, shared.hires, latents)
                self._decode(alike, shared, latents, canvas)

    def _left(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        left = wanted(pictures, self.cancel)
        if not left:
            raise Cancelled
        return left

    def _demand(self, phase: Phase, pictures: int, pixels: int) -> Demand:
        return Demand(self.spec.key, phase, pictures, pixels, economical=self.economical)

    def _canvas(self, pictures: tuple[Picture, ...], shared: Settings) -> Canvas | None:
        """The picture that these are drawn over; says when a part of it is cut off."""
        if shared.init_image is None:
            return None
        picture = self._input("init_image", shared.init_image)
        mask = self._input("mask", shared.mask) if shared.mask is not None else None
        size = (shared.width, shared.height)
        if (cut := cut_off(picture, size)) is not None:
            for attempt_id in dict.fromkeys(each.attempt_id for each in pictures):
                self.tell(Warned(attempt_id, cut))
        return Canvas.of(picture, mask, size)

    def _input(self, field: str, file_id: UUID) -> Any:
        try:
            return self.inputs[file_id]
        except KeyError:
            raise EngineError("input_unavailable", f"{field}: the file {file_id} did not come") from None

    def _first(self, shared: Settings, canvas: Canvas | None) -> Beginning:
        """What the first pass begins with."""
        passes = shared.sampled()
        latents = None if canvas is None else self.resident.to_latents(pixels_of([canvas.ground]))
        mask = None if canvas is None or canvas.cover is None else cells_of(canvas.cover, self._scale)
        return Beginning(
            width=shared.width,
            height=shared.height,
            steps=shared.steps,
            made=passes[0].steps,
            total=sum(each.steps for each in passes),
            latents=latents,
            mask=None if mask is None else mask.to(latents),
        )

    @property
    def _scale(self) -> int:
        """Pixels of a side of a cell of the latents."""
        found: int = self.resident.pipe.vae_scale_factor
        return found

    def _encode(self, pictures: tuple[Picture, ...]) -> dict[int, dict[Picture, Texts]]:
        """What the prompts of these pictures become, by the number of windows that they fill."""
        self.tell(PhaseBegan(Phase.ENCODING, pictures))
        shared = self.settings[pictures[0].attempt_id]
        self.device.demand(self._demand(Phase.ENCODING, 1, shared.width * shared.height))
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

    def _sample(self, pictures: tuple[Picture, ...], texts: Mapping[Picture, Texts], beginning: Beginning) -> Any:
        """The latents (pictures, channels, h, w) of one pass."""
        self._left(pictures)
        shared = self.settings[pictures[0].attempt_id]
        demand = self._demand(Phase.SAMPLING, len(pictures), beginning.pixels)
        watch = Watch(
            self.device, demand, self.resident.preview, pictures, beginning, self.options, self.tell, self.cancel
        )
        pipe = self.resident.pipe
        scheduler = pipe.scheduler = build_sampler(shared.sampler, self.resident.trained, watch.estimated)
        generators = [torch.Generator("cpu").manual_seed(picture.seed) for picture in pictures]
        noise = latents = None
        if beginning.latents is not None:
            noise = noise_of(self.resident, generators, beginning.width, beginning.height)
            latents = beginning.prepare(scheduler, noise)

        def stepped(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            told = watch.stepped(pipe, index, timestep, tensors)
            return told | {"latents": beginning.put_back(scheduler, told["latents"], noise, index)}

        self.tell(PhaseBegan(Phase.SAMPLING, pictures))
        watch.begin()
        return pipe(
            **self._conditioning([texts[picture] for picture in pictures]),
            width=beginning.width,
            height=beginning.height,
            num_inference_steps=beginning.steps,
            guidance_scale=shared.guidance,
            guidance_rescale=shared.guidance_rescale,
            generator=generators,
            latents=latents,
            output_type="latent",
            callback_on_step_end=stepped,
        ).images

    def _again(
        self,
        pictures: tuple[Picture, ...],
        texts: Mapping[Picture, Texts],
        shared: Settings,
        hires: HiresPass,
        latents: Any,
    ) -> tuple[tuple[Picture, ...], Any]:
        """Enlarge what the first pass came to, and draw over it: who is left, and the latents of the second pass."""
        first, second = shared.sampled()
        self.tell(PhaseBegan(Phase.UPSCALING, self._left(pictures)))
        self.device.demand(self._demand(Phase.UPSCALING, 1, second.pixels))
        size, factor = (hires.width, hires.height), hires.width / shared.width
        enlarged = {}
        for picture, latent in zip(pictures, latents, strict=True):
            with contextlib.suppress(Cancelled):
                found = self._enlarged(hires.upscaler, picture, self._picture(latent), factor)
                enlarged[picture] = fitted(found, size)
        left = self._left(tuple(enlarged))
        beginning = Beginning(
            width=hires.width,
            height=hires.height,
            steps=hires.steps,
            made=second.steps,
            total=first.steps + second.steps,
            before=first.steps,
            latents=self.resident.to_latents(pixels_of([enlarged[picture] for picture in left])),
        )
        return left, self._sample(left, texts, beginning)

    def _decode(self, pictures: tuple[Picture, ...], shared: Settings, latents: Any, canvas: Canvas | None) -> None:
        """One picture at a time: decoding needs more memory than sampling, and a cancelled one is not decoded."""
        self.tell(PhaseBegan(Phase.DECODING, self._left(pictures)))
        demand = self._demand(Phase.DECODING, 1, shared.sampled()[-1].pixels)
        done = {}
        for picture, latent in zip(pictures, latents, strict=True):
            if self.cancel.asked(picture.attempt_id):
                continue
            self.device.demand(demand)
            image = self._picture(latent)
            done[picture] = image if canvas is None else canvas.uncovered(image)
            if shared.upscale is None:
                self.tell(Drawn(picture, done.pop(picture)))
        if done:
            self._finish(self._left(tuple(done)), shared, done)

    def _finish(self, pictures: tuple[Picture, ...], shared: Settings, images: Mapping[Picture, Any]) -> None:
        """Enlarge finished pictures."""
        wish = shared.upscale
        assert wish is not None
        self.tell(PhaseBegan(Phase.UPSCALING, pictures))
        for picture in pictures:
            with contextlib.suppress(Cancelled):
                self.tell(Drawn(picture, self._enlarged(wish.upscaler, picture, images[picture], wish.factor)))

    def _enlarged(self, upscaler: str, picture: Picture, image: Any, factor: float) -> Any:
        """A picture enlarged; raises Cancelled between two of its tiles."""
        self._left((picture,))

        def tiles_done(share: float) -> None:
            self._left((picture,))
            if share < 1:
                self.tell(PhaseBegan(Phase.UPSCALING, (picture,)))  # a sign of life: large networks are slow

        return upscale(upscaler, image, factor, tiles_done, self.device.torch_name)

    def _picture(self, latent: Any) -> Any:
        """A latent as a picture; raises EngineError for one that is no picture."""
        if not bool(torch.isfinite(latent).all()):
            advice = f"set models.{self.spec.key}.precision to bfloat16 or float32"
            reason = f"{self.spec.key} left the range of its precision: {advice}"
            raise EngineError("not_a_number", reason)
        return self.resident.to_pixels(latent)


def stacked(embeddings: Sequence[Embedding]) -> dict[str, Any]:
    """Embeddings as the pipeline's arguments: tokens (pictures, tokens, width), pooled (pictures, width)."""
    found = {"prompt_embeds": torch.cat([embedding.tokens for embedding in embeddings])}
    if embeddings[0].pooled is not None:
        found["pooled_prompt_embeds"] = torch.cat([embedding.pooled for embedding in embeddings])
    return found
