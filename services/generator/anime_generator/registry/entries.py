"""The tables of `models.toml`, as they stand there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from anime_common.contracts.vocabulary import LoraUse, ModelKey, Name, PromptText, Sampler
from anime_common.contracts.vocabulary import Preset as PresetInfo
from anime_common.messages import Request
from anime_generator.registry.family import Prediction

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Option = str | int | float | bool
Weight = Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)]
PresetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?$")]
Note = Annotated[str, Field(max_length=500)]
Steps = Annotated[int, Field(ge=1, le=150)]
Rescale = Annotated[float, Field(ge=0, le=1)]
ClipSkip = Annotated[int, Field(ge=1, le=11)]
Guidance = Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)]


class Defaults(Request):
    """What a request that leaves a setting out gets."""

    width: Annotated[int, Field(ge=64, le=4096)]
    height: Annotated[int, Field(ge=64, le=4096)]
    steps: Steps
    guidance: Guidance = 7.0
    sampler: Sampler = Sampler.DPMPP_2M_KARRAS
    negative_prompt: PromptText = ""


class Sizes(Request):
    """Sizes in pixels that the model draws well: each side within the limits and a multiple of `multiple`."""

    minimum: Annotated[int, Field(ge=8, le=4096)] = 64
    maximum: Annotated[int, Field(ge=64, le=4096)] = 2048
    multiple: Annotated[int, Field(ge=1, le=256)] = 8


class PresetEntry(Request):
    """One `[models.<key>.presets.<name>]` table; `loras` are weights by key."""

    title: Note = ""
    steps: Steps | None = None
    guidance: Guidance | None = None
    sampler: Sampler | None = None
    guidance_rescale: Rescale | None = None
    clip_skip: ClipSkip | None = None
    loras: dict[ModelKey, Weight] = Field(default_factory=dict)

    def info(self, name: str) -> PresetInfo:
        """As it is announced."""
        uses = tuple(LoraUse(key=key, weight=weight) for key, weight in self.loras.items())
        return PresetInfo(name=name, loras=uses, **self.model_dump(exclude={"loras"}))


class ModelEntry(Request):
    """One `[models.<key>]` table."""

    title: Note = ""
    licence: Note = ""
    engine: str = "diffusers"
    source: str | None = None
    config: str | None = None
    vae: str | None = None
    family: str = ""
    prediction: Prediction | None = None
    zero_terminal_snr: bool | None = None
    precision: Precision = "auto"
    clip_skip: ClipSkip = 1
    guidance_rescale: Rescale = 0.0
    defaults: Defaults
    sizes: Sizes = Sizes()
    max_steps: Steps = 150
    samplers: tuple[Sampler, ...] = ()
    batch_limit: Annotated[int, Field(ge=1, le=64)] = 4
    memory_mb: Annotated[int, Field(ge=0)] = 0
    fallback: ModelKey | None = None
    preload: bool = False
    pin: bool = False
    enabled: bool = True
    presets: dict[PresetName, PresetEntry] = Field(default_factory=dict)
    options: dict[str, Option] = Field(default_factory=dict)


class DiffusersOptions(Request):
    """`[models.<key>.options]` of the engine `diffusers`; `channels_last` absent: on a card."""

    attention: Literal["sdpa", "xformers"] = "sdpa"
    compile: bool = False
    channels_last: bool | None = None


OPTIONS: dict[str, type[Request]] = {"diffusers": DiffusersOptions}
"""What the options of an engine may be; those of other engines are checked where they are used."""


class LoraEntry(Request):
    """One `[loras.<key>]` table; `models` narrows it to some of its family."""

    title: Note = ""
    licence: Note = ""
    source: str
    family: str = ""
    models: tuple[ModelKey, ...] = ()
    trigger_words: tuple[Annotated[Name, Field(max_length=200)], ...] = ()
    weight: Weight = 1.0
    enabled: bool = True


class EmbeddingEntry(Request):
    """One `[embeddings.<key>]` table; the key is the word that calls it."""

    title: Note = ""
    licence: Note = ""
    source: str
    family: str = ""
    enabled: bool = True
