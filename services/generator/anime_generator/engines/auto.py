"""The engine for the text-to-image pipelines of diffusers that are run as a whole: Stable Diffusion 3, Flux, PixArt, …

The pipeline's own call encodes, samples with the scheduler that came with the model, and decodes. What is told of it is
seen from outside: sampling begins where the scheduler gets its timesteps, decoding after the last step. There are no
previews (an estimate of the finished picture is not handed out), no LoRAs and no pictures to draw over. Prompts go to
the pipeline as plain words: its encoders do not weigh them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from transformers import CLIPTokenizer

from anime_common.contracts.vocabulary import Phase
from anime_common.prompts.syntax import parse, plain
from anime_generator.engines.diffusers import DiffusersEngine
from anime_generator.engines.faults import translated
from anime_generator.engines.pipelines import UNLOADABLE, choose_dtype, read_index, variant_of, weights_of
from anime_generator.engines.protocol import (
    NO_INPUTS,
    USUAL,
    Cancelled,
    Drawn,
    EngineError,
    PhaseBegan,
    Stepped,
    Warned,
    plan_passes,
    wanted,
)
from anime_generator.memory import Demand
from anime_generator.registry.family import WHOLE

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, Inputs, Manner, OnProgress, Picture
    from anime_generator.registry import ModelSpec


@dataclass(frozen=True, slots=True)
class Whole:
    """A pipeline in memory, and what its call takes."""

    pipe: Any
    takes: Mapping[str, inspect.Parameter]

    @property
    def modules(self) -> list[Any]:
        """The networks."""
        return [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return weights_of(self.modules)

    @property
    def takes_negative(self) -> bool:
        """Whether a negative prompt has an effect; where guidance was distilled into the model it has none."""
        return "negative_prompt" in self.takes and "true_cfg_scale" not in self.takes

    @property
    def exact(self) -> dict[str, bool]:
        """Has pictures drawn in the size that was asked for, not the nearest of the pipeline's own table."""
        return {"use_resolution_binning": False} if "use_resolution_binning" in self.takes else {}

    def beyond(self, prompt: str) -> int:
        """How many tokens of a prompt are behind the end of the longest window of the model's encoders."""
        return min(
            max(0, len(tokenizer(prompt, truncation=False).input_ids) - self._window(tokenizer))
            for name, tokenizer in self.pipe.components.items()
            if name.startswith("tokenizer") and tokenizer is not None
        )

    def _window(self, tokenizer: Any) -> int:
        asked = self.takes.get("max_sequence_length")
        if asked is None or isinstance(tokenizer, CLIPTokenizer):
            return int(tokenizer.model_max_length)
        return int(asked.default)


def load_whole(spec: ModelSpec, device: Device) -> Whole:
    """A model on its device, ready to draw; raises EngineError when its files cannot be used."""
    if spec.source is None:
        raise EngineError("model_unusable", f"models.{spec.key}.source is missing")
    index = read_index(spec, spec.source)
    kind = _class_of(spec, index)
    absent = {name: None for name, value in index.items() if value == [None, None]}
    try:
        pipe = kind.from_pretrained(
            spec.source,
            dtype=choose_dtype(spec, device, torch.bfloat16),  # what they are published in: some overflow float16
            use_safetensors=True,
            local_files_only=True,
            variant=variant_of(spec.source / "transformer"),
            **absent,
        )
    except UNLOADABLE as error:
        raise EngineError("model_unusable", f"{spec.key} cannot be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device.torch_name)  # without a precision: some layers must stay in single
    return Whole(pipe, inspect.signature(kind.__call__).parameters)


def _class_of(spec: ModelSpec, index: dict[str, Any]) -> Any:
    """The pipeline class that a folder asks for, if it is one that is run as a whole."""
    name = str(index.get("_class_name"))
    if WHOLE.get(name) != spec.family:
        raise EngineError("model_unusable", f"{spec.key}: {name} is not of family {spec.family!r}")
    return getattr(diffusers, name)


class AutoEngine(DiffusersEngine):
    """See the module's text. Residency is that of the engine for Stable Diffusion."""

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """The sampler is the one that came with the model, as the registry has it."""
        return spec.info((spec.defaults.sampler,), ("preset",))

    def _from_files(self, spec: ModelSpec) -> Any:
        return load_whole(spec, self._device)

    def _warm_up(self, spec: ModelSpec) -> None:
        settings = {"width": spec.defaults.width, "height": spec.defaults.height, "num_inference_steps": 2}
        whole: Whole = self._resident[spec.key]
        whole.pipe(prompt="", output_type="latent", **settings, **whole.exact)

    def generate(
        self,
        spec: ModelSpec,
        requests: Sequence[OfferedJob],
        on_progress: OnProgress,
        cancel: Cancel,
        manner: Manner = USUAL,
        inputs: Inputs = NO_INPUTS,
    ) -> None:
        """Draw with a resident model, in calls of the model's batch limit or less."""
        del inputs
        whole = self._resident[spec.key]
        settings = {request.attempt_id: request.settings for request in requests}
        with _sparing(whole, on=manner.economical), translated(f"drawing with {spec.key}"):
            for pictures in plan_passes(requests, spec.batch_limit, manner):
                with contextlib.suppress(Cancelled):
                    _Call(spec, whole, self._device, settings, on_progress, cancel, manner.economical).draw(pictures)


@contextlib.contextmanager
def _sparing(whole: Whole, *, on: bool) -> Iterator[None]:
    """Within it, the autoencoder decodes one picture after the other, in tiles where it can."""
    vae = getattr(whole.pipe, "vae", None)
    able = [way for way in ("slicing", "tiling") if on and hasattr(vae, f"enable_{way}")]
    for way in able:
        getattr(vae, f"enable_{way}")()
    try:
        yield
    finally:
        for way in able:
            getattr(vae, f"disable_{way}")()


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a pipeline, looked over."""

    spec: ModelSpec
    whole: Whole
    device: Device
    settings: dict[Any, Settings]
    tell: OnProgress
    cancel: Cancel
    economical: bool

    def draw(self, pictures: tuple[Picture, ...]) -> None:
        """Draw these pictures; raises Cancelled when nobody wants them any more."""
        pictures = self._left(pictures)
        shared = self.settings[pictures[0].attempt_id]
        self.tell(PhaseBegan(Phase.ENCODING, pictures))
        self._demand(Phase.ENCODING, pictures, shared)
        for attempt_id in dict.fromkeys(picture.attempt_id for picture in pictures):
            for text in self._unheeded(self.settings[attempt_id]):
                self.tell(Warned(attempt_id, text))
        with self._sampling_told(pictures, shared):
            images = self.whole.pipe(**self._arguments(pictures, shared)).images
        for picture, image in zip(pictures, images, strict=True):
            if not self.cancel.asked(picture.attempt_id):
                self.tell(Drawn(picture, image))

    def _left(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        left = wanted(pictures, self.cancel)
        if not left:
            raise Cancelled
        return left

    def _demand(self, phase: Phase, pictures: tuple[Picture, ...], shared: Settings, step: int = 0) -> None:
        pixels = shared.width * shared.height
        self.device.demand(Demand(self.spec.key, phase, len(pictures), pixels, step, economical=self.economical))

    def _unheeded(self, settings: Settings) -> Iterator[str]:
        """What of a request will have no effect."""
        if settings.negative_prompt and not self.whole.takes_negative:
            yield f"negative_prompt: has no effect with {self.spec.key}"
        if any(words.weight != 1 for section in parse(settings.prompt) for words in section):
            yield f"prompt: {self.spec.key} does not weigh words: brackets have no effect"
        if beyond := self.whole.beyond(plain(settings.prompt)):
            yield f"prompt: its last {beyond} tokens are more than {self.spec.key} reads"

    def _arguments(self, pictures: tuple[Picture, ...], shared: Settings) -> dict[str, Any]:
        every = [self.settings[picture.attempt_id] for picture in pictures]
        found: dict[str, Any] = {
            "prompt": [plain(each.prompt) for each in every],
            "width": shared.width,
            "height": shared.height,
            "num_inference_steps": shared.steps,
            "guidance_scale": shared.guidance,
            "generator": [torch.Generator("cpu").manual_seed(picture.seed) for picture in pictures],
            "output_type": "pil",
            **self.whole.exact,
        }
        if self.whole.takes_negative:
            found["negative_prompt"] = [plain(each.negative_prompt) for each in every]
        stepped = self._stepped(pictures, shared)
        if "callback_on_step_end" in self.whole.takes:
            found["callback_on_step_end"] = lambda _pipe, index, _time, tensors: stepped(index, tensors)
        else:
            found["callback"] = lambda index, _time, latents: stepped(index, {"latents": latents})
        return found

    def _stepped(self, pictures: tuple[Picture, ...], shared: Settings) -> Callable[[int, dict[str, Any]], Any]:
        """What the pipeline calls after step `index` (from 0)."""

        def stepped(index: int, tensors: dict[str, Any]) -> dict[str, Any]:
            left, step, steps = self._left(pictures), index + 1, len(self.whole.pipe.scheduler.timesteps)
            self.tell(Stepped(left, step, steps))
            if step < steps:
                self._demand(Phase.SAMPLING, pictures, shared, step + 1)
                return tensors
            if not bool(torch.isfinite(tensors["latents"]).all()):
                advice = f"set models.{self.spec.key}.precision to bfloat16 or float32"
                reason = f"{self.spec.key} left the range of its precision: {advice}"
                raise EngineError("not_a_number", reason)
            self.tell(PhaseBegan(Phase.DECODING, left))
            self._demand(Phase.DECODING, pictures, shared)
            self._left(pictures)
            return tensors

        return stepped

    @contextlib.contextmanager
    def _sampling_told(self, pictures: tuple[Picture, ...], shared: Settings) -> Iterator[None]:
        """Within it, sampling is told of when the scheduler gets its timesteps: the prompts are encoded by then."""
        scheduler = self.whole.pipe.scheduler
        set_timesteps = scheduler.set_timesteps

        def begun(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            self.tell(PhaseBegan(Phase.SAMPLING, self._left(pictures)))
            self._demand(Phase.SAMPLING, pictures, shared, 1)

        # The pipeline asks the signature whether sigmas of its own are accepted.
        begun.__signature__ = inspect.signature(set_timesteps)  # type: ignore[attr-defined]
        scheduler.set_timesteps = begun
        try:
            yield
        finally:
            del scheduler.set_timesteps
