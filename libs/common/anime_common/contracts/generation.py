"""What a person asks for, and what a picture is made with once everything left out is filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from anime_common.contracts.casting import Cast
from anime_common.contracts.vocabulary import (
    LoraUse,
    ModelKey,
    Name,
    Priority,
    PromptText,
    Sampler,
    StrictBool,
    StrictInt,
    When,
    not_blank,
)
from anime_common.messages import Model, Request

MAX_LORAS = 8
MAX_SIDE = 4096
"""Pixels of a side: what is drawn, and what a second pass or an upscaler makes of it."""

PICTURE_RECORD = "tower-anime"
"""The text of a PNG that says how the picture was made, as JSON."""

MAX_WORKFLOW = 64 << 10
"""Bytes of a workflow that comes with a request, as compact JSON."""
MAX_NODES = 500

LoraWeight = Annotated[float, Field(strict=True, ge=-4, le=4, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Side = Annotated[StrictInt, Field(ge=64, le=MAX_SIDE)]
StepCount = Annotated[StrictInt, Field(ge=1, le=150)]
UpscalerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
PresetRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?$")]


def _a_workflow(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, if it looks like a workflow in ComfyUI's API format, and is no larger than it may be."""
    if not 1 <= len(value) <= MAX_NODES:
        raise ValueError(f"must be an object of 1 to {MAX_NODES} nodes by id, in ComfyUI's API format")
    for name, node in value.items():
        kind = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(kind, str) or not isinstance(node.get("inputs", {}), dict):
            text = f"node {name}: must be an object with class_type and inputs (Workflow, Export (API))"
            raise ValueError(text)  # noqa: TRY004 - pydantic takes no other
    if (size := len(workflow_text(value).encode(errors="replace"))) > MAX_WORKFLOW:
        raise ValueError(f"has {size} bytes; at most {MAX_WORKFLOW} are taken")
    return value


def workflow_text(workflow: Mapping[str, Any]) -> str:
    """A workflow as settings keep it: compact JSON, the same for equal ones."""
    return json.dumps(workflow, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class LoraRequest(Request):
    """A LoRA to apply."""

    key: ModelKey = Field(description="Key of the LoRA in the registry.")
    weight: LoraWeight | None = Field(None, description="How strongly, −4 to 4; default: the LoRA's own weight.")


class Hires(Request):
    """Draw small, enlarge, and draw again over it: large pictures with the composition of small ones."""

    scale: Annotated[float, Field(strict=True, gt=1, le=4, allow_inf_nan=False)] = Field(
        2.0, description="How many times as wide and as high."
    )
    steps: StepCount | None = Field(None, description="Denoising steps of the second pass; default: as the first.")
    strength: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = Field(
        0.5, description="How much of the enlarged picture is drawn anew: a small share keeps it, 1 keeps nothing."
    )
    upscaler: UpscalerName | None = Field(None, description="What enlarges; default: lanczos.")


class Upscale(Request):
    """Enlarge the finished pictures."""

    factor: Annotated[float, Field(strict=True, gt=1, le=4, allow_inf_nan=False)] = Field(
        2.0, description="How many times as wide and as high."
    )
    upscaler: UpscalerName | None = Field(None, description="What enlarges; default: the best that a worker has.")


class GenerationRequest(Request):
    """What a person asks for. Absent settings take the model's defaults; an absent seed is drawn at random."""

    prompt: Annotated[PromptText, AfterValidator(not_blank)] = Field(
        description="What to draw: tags or prose.", examples=["1girl, blue hair, twintails, smile, classroom"]
    )
    negative_prompt: PromptText | None = Field(
        None, description="What must not appear; default: the project's, else the model's."
    )
    project: Name = Field("default", description="Id or slug of the project the pictures are filed under.")
    characters: Cast = Field((), description="Who appears, in this order: names, or names with what is asked of them.")
    scene: Name | None = Field(None, description="Label of a scene: characters may keep one seed throughout it.")
    model: ModelKey | None = Field(
        None, description="Key of a model in the registry; default: the project's, else the workers' default."
    )
    preset: PresetRef | None = Field(None, description="Name of a preset of the model, such as fast.")
    width: Side | None = Field(None, description="Pixels, rounded to what the model draws; default: the model's.")
    height: Side | None = Field(None, description="Pixels, rounded to what the model draws; default: the model's.")
    steps: StepCount | None = Field(None, description="Denoising steps.")
    guidance: Annotated[float, Field(strict=True, ge=0, le=30, allow_inf_nan=False)] | None = Field(
        None, description="Classifier-free guidance scale; 1 or less switches guidance off."
    )
    guidance_rescale: Share | None = Field(
        None, description="How far guidance is kept from overexposing the picture, 0 to 1 (Lin et al. 2023)."
    )
    clip_skip: Annotated[StrictInt, Field(ge=1, le=11)] | None = Field(
        None, description="Layer of the text encoder, counted from its end: 1 is the one that the model takes."
    )
    sampler: Sampler | None = Field(None, description="Sampler; default: the model's.")
    seed: Annotated[StrictInt, Field(ge=0, le=2**32 - 1)] | None = Field(
        None, description="Seed of the first picture; picture i uses seed + i. Default: drawn at random and recorded."
    )
    count: Annotated[StrictInt, Field(ge=1, le=16)] = Field(1, description="How many pictures.")
    loras: Annotated[tuple[LoraRequest, ...], Field(max_length=MAX_LORAS)] = Field(
        (), description="LoRAs to apply, each once; they are added to those of the preset."
    )
    init_image: UUID | None = Field(None, description="Picture to begin with: a file of the library, or an upload.")
    mask: UUID | None = Field(
        None, description="Where the picture is drawn anew: white; black is kept. A file of the library, or an upload."
    )
    strength: Share | None = Field(
        None, description="How much of `init_image` is drawn anew, default 0.6; 0 leaves it as it is, to be enlarged."
    )
    hires: Hires | None = Field(None, description="Draw small, enlarge, and draw again.")
    upscale: Upscale | None = Field(None, description="Enlarge the finished pictures.")
    workflow: Annotated[dict[str, Any], AfterValidator(_a_workflow)] | None = Field(
        None,
        description="A whole workflow in ComfyUI's API format, run as it is: for models that take it, where the owner "
        "of the server has switched that on.",
    )
    optimize: StrictBool = Field(False, description="Let Echo improve the prompt first (never a reason to fail).")
    priority: Priority = Field(Priority.NORMAL, description="Priority class.")
    not_before: When | None = Field(None, description="Earliest start (RFC 3339 with an offset).")
    keep_partial: StrictBool = Field(False, description="Keep the finished pictures of a cancelled job.")

    @field_validator("loras")
    @classmethod
    def _each_once(cls, loras: tuple[LoraRequest, ...]) -> tuple[LoraRequest, ...]:
        if len({lora.key for lora in loras}) < len(loras):
            raise ValueError("each LoRA may be named once")
        return loras

    @field_validator("mask", "strength")
    @classmethod
    def _of_a_picture(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("init_image") is None:
            raise ValueError("only together with init_image")
        return value

    @field_validator("hires")
    @classmethod
    def _from_nothing(cls, hires: Hires | None, info: ValidationInfo) -> Hires | None:
        if hires is not None and info.data.get("init_image") is not None:
            raise ValueError("not together with init_image")
        return hires


class HiresPass(Model):
    """The second pass over the enlarged picture."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    steps: int = Field(description="Denoising steps, of which `strength` are made.")
    strength: float = Field(description="How much is drawn anew.")
    upscaler: str = Field(description="What enlarges.")


class Upscaling(Model):
    """How finished pictures are enlarged."""

    factor: float = Field(description="How many times as wide and as high.")
    upscaler: str = Field(description="What enlarges.")


class SampledPass(NamedTuple):
    """One pass of the denoiser: the steps that it makes, and the pixels of a picture in it."""

    steps: int
    pixels: int


def steps_made(steps: int, strength: float) -> int:
    """How many steps of a schedule are made over a picture that is drawn anew by so much: none for 0, else some."""
    return min(max(int(steps * strength), 1), steps) if strength > 0 else 0


class Settings(Model):
    """What a picture is made with: a request after defaults are filled in; enough to make it again."""

    prompt: str = Field(description="What is drawn, as the model gets it.")
    negative_prompt: str = Field("", description="What must not appear.")
    model: str = Field(description="Key of the model.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    steps: int = Field(description="Denoising steps.")
    guidance: float = Field(description="Classifier-free guidance scale.")
    sampler: Sampler = Field(description="Sampler.")
    seed: int = Field(description="Seed of the first picture; picture i uses seed + i.")
    count: int = Field(1, description="How many pictures.")
    guidance_rescale: float = Field(0.0, description="How far guidance is kept from overexposing the picture.")
    clip_skip: int = Field(1, description="Layer of the text encoder, counted from its end.")
    preset: str | None = Field(None, description="The preset that was asked for.")
    loras: tuple[LoraUse, ...] = Field((), description="LoRAs and how strongly they are applied.")
    init_image: UUID | None = Field(None, description="Picture to begin with: a file of the library.")
    mask: UUID | None = Field(None, description="Where it is drawn anew: a file of the library.")
    strength: float | None = Field(None, description="How much of the picture is drawn anew.")
    hires: HiresPass | None = Field(None, description="The second pass.")
    upscale: Upscaling | None = Field(None, description="How the finished pictures are enlarged.")
    workflow: str | None = Field(None, description="The workflow that came with the request, as JSON.")

    def batch_key(self) -> tuple[object, ...]:
        """Jobs with an equal key can run in one forward pass."""
        return tuple(getattr(self, name) for name in type(self).model_fields if name not in FREE_IN_A_BATCH)

    def sampled(self) -> tuple[SampledPass, ...]:
        """The passes that the denoiser makes, in order; none when a picture is only enlarged."""
        made = steps_made(self.steps, 1.0 if self.strength is None else self.strength)
        passes = (SampledPass(made, self.width * self.height),) if made else ()
        if self.hires is None:
            return passes
        second = steps_made(self.hires.steps, self.hires.strength)
        return (*passes, SampledPass(second, self.hires.width * self.hires.height))

    def largest_pass(self) -> int:
        """Pixels of a picture in the largest pass."""
        return max((each.pixels for each in self.sampled()), default=self.width * self.height)

    def final_size(self) -> tuple[int, int]:
        """Width and height of the pictures that come out, in pixels."""
        width, height = (self.hires.width, self.hires.height) if self.hires else (self.width, self.height)
        factor = self.upscale.factor if self.upscale else 1.0
        return round(width * factor), round(height * factor)


FREE_IN_A_BATCH = ("prompt", "negative_prompt", "seed", "count", "preset")
"""What may differ between the jobs of one forward pass."""
