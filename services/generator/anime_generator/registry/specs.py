"""Models, LoRAs and embeddings as the service and its engines get them: paths resolved, values checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anime_common.contracts.generation import Settings
from anime_common.contracts.vocabulary import EmbeddingInfo, LoraInfo, ModelInfo, Preset, Sampler, SizeLimits
from anime_common.messages import Model
from anime_generator.registry.entries import Defaults, Option, Precision
from anime_generator.registry.family import Prediction

FIELDS = ("prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "seed", "count")
"""The fields of a request that every model of this generator honours."""


WEIGHING = frozenset({"diffusers", "noop"})
"""Engines that read prompts as `anime_common.prompts.syntax` says: with weights and BREAK."""


class LoraSpec(Model):
    """A LoRA. `stamp` changes with its file."""

    key: str
    source: Path
    family: str
    models: tuple[str, ...] = ()
    title: str = ""
    licence: str = ""
    trigger_words: tuple[str, ...] = ()
    weight: float = 1.0
    size: int = 0
    stamp: str = ""

    def info(self) -> LoraInfo:
        """What a worker announces of it."""
        return LoraInfo(**self.model_dump(exclude={"source", "stamp"}))


class EmbeddingSpec(Model):
    """A textual-inversion embedding, called by its key. `stamp` changes with its file."""

    key: str
    source: Path
    family: str
    title: str = ""
    licence: str = ""
    size: int = 0
    stamp: str = ""

    def info(self) -> EmbeddingInfo:
        """What a worker announces of it."""
        return EmbeddingInfo(**self.model_dump(exclude={"source", "stamp"}))


class ModelSpec(Model):
    """A model as an engine gets it. `memory` is the owner's estimate in bytes, `size` that of its files.

    `prediction` and `zero_terminal_snr` are absent where the configuration that comes with the model is right.
    `clip_skip` 1 takes the layer of the text encoder that the family takes, 2 the one before it. `loras` and
    `embeddings` are those that fit its family. `tags` are all that it knows, none for any
    words. `stamp` changes with its files.

    Of a server that draws for us, `source` is what it calls the file; `workflow` is the workflow that the model is, if
    it is one. `honours` are all fields of a request that have an effect, where that is not the engine's to say.
    """

    key: str
    title: str
    engine: str
    source: Path | None
    config: Path | None
    family: str
    precision: Precision
    defaults: Defaults
    sizes: SizeLimits
    max_steps: int
    samplers: tuple[Sampler, ...]
    guidance_rescale: float
    batch_limit: int
    memory: int
    fallback: str | None
    preload: bool
    pin: bool = False
    default: bool
    options: dict[str, Option]
    licence: str = ""
    vae: Path | None = None
    prediction: Prediction | None = None
    zero_terminal_snr: bool | None = None
    clip_skip: int = 1
    presets: tuple[Preset, ...] = ()
    loras: tuple[LoraSpec, ...] = ()
    embeddings: tuple[EmbeddingSpec, ...] = ()
    tags: tuple[str, ...] = ()
    size: int = 0
    stamp: str = ""
    honours: tuple[str, ...] = ()
    upscalers: tuple[str, ...] = ()
    workflow: str = ""

    def info(
        self, samplers: tuple[Sampler, ...], honoured: tuple[str, ...] = (), upscalers: tuple[str, ...] = ()
    ) -> ModelInfo:
        """What a worker announces of the model. `samplers` are the engine's; the registry's own list narrows them.
        `honoured` are the fields of a request that its engine honours beside `FIELDS`, `upscalers` what it
        enlarges with.

        LoRAs and embeddings are announced once for all models of a family, see `Registry.announced`.
        """
        allowed = tuple(sampler for sampler in samplers if not self.samplers or sampler in self.samplers)
        return ModelInfo(
            key=self.key,
            title=self.title or self.key,
            engine=self.engine,
            family=self.family,
            default=self.default,
            width=self.defaults.width,
            height=self.defaults.height,
            steps=self.defaults.steps,
            guidance=self.defaults.guidance,
            sampler=self.defaults.sampler,
            guidance_rescale=self.guidance_rescale,
            clip_skip=self.clip_skip,
            negative_prompt=self.defaults.negative_prompt,
            sizes=self.sizes,
            max_steps=self.max_steps,
            samplers=allowed,
            upscalers=upscalers or self.upscalers,
            fields=self.honours or (*FIELDS, *honoured),
            presets=self.presets,
            tags=self.tags,
            breaks=self.engine in WEIGHING,
            licence=self.licence,
            size=self.size,
            memory=self.memory,
            fallback=self.fallback,
        )

    def has_loras(self, settings: Settings) -> bool:
        """Whether it has every LoRA that is to be applied."""
        return {use.key for use in settings.loras} <= {lora.key for lora in self.loras}

    @property
    def compiled(self) -> bool:
        """Whether its options ask for compilation, which takes minutes now and then."""
        return bool(self.options.get("compile", False))

    def loads_like(self, other: ModelSpec) -> bool:
        """Whether what lies in memory of `other` serves for this one too."""
        return self._loading() == other._loading()

    def _loading(self) -> tuple[object, ...]:
        embeddings = tuple((each.key, each.stamp) for each in self.embeddings)
        trained = (self.prediction, self.zero_terminal_snr)
        files = (self.source, self.config, self.vae, self.stamp)
        return (self.engine, self.family, self.precision, self.options, files, trained, embeddings)


@dataclass(frozen=True, slots=True)
class Registry:
    """All that this worker may run, by key."""

    models: Mapping[str, ModelSpec]
    default: str
    loras: Mapping[str, LoraSpec] = field(default_factory=dict)
    embeddings: Mapping[str, EmbeddingSpec] = field(default_factory=dict)

    def preloaded(self) -> tuple[ModelSpec, ...]:
        """Models to load before the first job, the default last, so that it is the most recently used."""
        wanted = [spec for spec in self.models.values() if spec.preload]
        return tuple(sorted(wanted, key=lambda spec: spec.default))

    def batch_limit(self) -> int:
        """The largest number of pictures that any model draws in one forward pass."""
        return max((spec.batch_limit for spec in self.models.values()), default=1)

    def lora(self, key: str) -> LoraSpec | None:
        """The LoRA of that key."""
        return self.loras.get(key)

    def loras_for(self, model: str) -> tuple[LoraSpec, ...]:
        """The LoRAs that fit a model."""
        return self.models[model].loras

    def preset(self, model: str, name: str) -> Preset | None:
        """The preset of that name of a model."""
        return next((preset for preset in self.models[model].presets if preset.name == name), None)

    def announced(self) -> tuple[tuple[LoraInfo, ...], tuple[EmbeddingInfo, ...]]:
        """The LoRAs and embeddings that a worker announces beside its models: those that any of them takes."""
        loras = {each.key for model in self.models.values() for each in model.loras}
        embeddings = {each.key for model in self.models.values() for each in model.embeddings}
        return (
            tuple(each.info() for key, each in self.loras.items() if key in loras),
            tuple(each.info() for key, each in self.embeddings.items() if key in embeddings),
        )


def settings_problem(info: ModelInfo, settings: Settings) -> str | None:
    """What this model cannot do of `settings`, naming the field; None when all is well."""
    sizes = info.sizes
    for name, value in (("width", settings.width), ("height", settings.height)):
        if not sizes.minimum <= value <= sizes.maximum:
            return f"{name}: {info.key} draws sides of {sizes}, not {value}"
        if value % sizes.multiple:
            return f"{name}: {info.key} needs a multiple of {sizes.multiple} pixels, not {value}"
    if not 1 <= settings.steps <= info.max_steps:
        return f"steps: {info.key} takes 1 to {info.max_steps}, not {settings.steps}"
    if settings.sampler not in info.samplers:
        return f"sampler: {info.key} has {', '.join(info.samplers)}, not {settings.sampler}"
    for name in ("loras", "init_image", "mask", "hires", "upscale"):
        if getattr(settings, name) and name not in info.fields:
            return f"{name}: {info.key} does not take it"
    return None
