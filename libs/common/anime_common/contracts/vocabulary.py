"""The values that messages of several owners share: states, phases, settings of a picture, outputs, progress."""

from __future__ import annotations

import unicodedata
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

from anime_common.messages import Model
from anime_common.strict_json import mended

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"
"""A project's folder name: safe as a path segment on every file system and in an object key."""

MediaType = Literal[
    "image/png",
    "image/webp",
    "image/jpeg",
    "image/gif",
    "video/mp4",
    "video/webm",
    "audio/flac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
]
EXTENSIONS: dict[str, str] = {
    "image/png": "png",
    "image/webp": "webp",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
}
"""The media types an engine may hand over, and the file extension of each: nothing else is staged or filed."""

FileType = Literal["image", "video", "audio", "grid", "upload"]
"""Kinds of files: the folders of the library. Animated pictures are images."""

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
"""The media types of pictures that people may upload, and that jobs may begin with."""


def printable(text: str) -> str:
    """`text`, unless it holds control characters other than line breaks and tabs (PostgreSQL cannot store NUL)."""
    for char in text:
        if (ord(char) < 32 and char not in "\n\r\t") or ord(char) == 127:
            raise ValueError(f"the control character U+{ord(char):04X} is not allowed")
    return text


def on_one_line(text: str) -> str:
    """`text`, unless it holds a control character of any kind."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Zl", "Zp"}:
            raise ValueError(f"the control character U+{ord(char):04X} is not allowed")
    return text


def not_blank(text: str) -> str:
    """`text`, unless it is nothing but white space."""
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _written(value: object) -> object:
    """A moment as people write it, or as it is: a number could be seconds or milliseconds of anything."""
    if isinstance(value, int | float) or (
        isinstance(value, str) and value.replace(".", "", 1).lstrip("+-").isdecimal()
    ):
        raise ValueError("must be a time such as 2026-03-01T22:00:00Z, not a number")
    return value


When = Annotated[AwareDatetime, BeforeValidator(_written)]
"""A moment with its offset from UTC (RFC 3339)."""

PromptText = Annotated[str, Field(strict=True, max_length=4000), AfterValidator(printable)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=64), AfterValidator(printable)]
"""Names something by id or slug, or a client."""

Prose = Annotated[str, BeforeValidator(mended)]
"""A text for people that a service makes, perhaps of an exception's: what cannot be sent or stored is replaced."""

Cursor = Annotated[str, Field(max_length=200), AfterValidator(printable)]
"""The `next` of a page."""

Day = date
"""A date, for fields that are named so."""

Slug = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]
Token = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]
ModelKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
StrictInt = Annotated[int, Field(strict=True)]
StrictBool = Annotated[bool, Field(strict=True)]
Percent = Annotated[float, Field(ge=0, le=100)]


class JobState(StrEnum):
    """Where a job is in its life; the one state enum of the whole system."""

    PREPARING = "preparing"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    FILING = "filing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the job by itself."""
        return self in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}


class Phase(StrEnum):
    """What a generator is doing for an attempt."""

    LOADING = "loading"
    ENCODING = "encoding"
    SAMPLING = "sampling"
    DECODING = "decoding"
    UPSCALING = "upscaling"
    SAVING = "saving"


class Work(StrEnum):
    """What a node of a workflow spends its time with."""

    LOAD = "load"
    ENCODE = "encode"
    SAMPLE = "sample"
    DECODE = "decode"
    UPSCALE = "upscale"
    SAVE = "save"
    OTHER = "other"


class Priority(StrEnum):
    """Priority classes, first served first."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return list(Priority).index(self)


class Sampler(StrEnum):
    """Samplers by their usual names."""

    DPMPP_2M = "dpm++ 2m"
    DPMPP_2M_KARRAS = "dpm++ 2m karras"
    DPMPP_2M_SDE = "dpm++ 2m sde"
    DPMPP_2M_SDE_KARRAS = "dpm++ 2m sde karras"
    DPMPP_3M_SDE_KARRAS = "dpm++ 3m sde karras"
    DPMPP_SDE = "dpm++ sde"
    DPMPP_SDE_KARRAS = "dpm++ sde karras"
    EULER = "euler"
    EULER_KARRAS = "euler karras"
    EULER_TRAILING = "euler sgm uniform"
    EULER_A = "euler a"
    DDIM = "ddim"
    UNIPC = "unipc"
    UNIPC_KARRAS = "unipc karras"
    LCM = "lcm"
    TCD = "tcd"


class SizeLimits(Model):
    """Sizes in pixels that a model can draw: each side within [minimum, maximum] and a multiple of `multiple`."""

    minimum: int = Field(64, description="Smallest side, pixels.")
    maximum: int = Field(2048, description="Largest side, pixels.")
    multiple: int = Field(8, description="Each side is a multiple of this.")

    def __str__(self) -> str:
        """What is allowed, for messages."""
        if self.minimum == self.maximum:
            return f"{self.minimum} pixels"
        return f"{self.minimum} to {self.maximum} pixels in steps of {self.multiple}"


class LoraUse(Model):
    """A LoRA and how strongly it is applied."""

    key: ModelKey = Field(description="Key of the LoRA in the registry.")
    weight: float = Field(1.0, description="How strongly; 1 is as it was trained.")


class LoraInfo(Model):
    """What a worker announces of a LoRA."""

    key: ModelKey = Field(description="Key of the LoRA in requests.")
    title: str = Field("", description="Name for people.")
    family: str = Field("", description="Models of this family take it.")
    models: tuple[ModelKey, ...] = Field((), description="Only these models of its family; all of them when empty.")
    trigger_words: tuple[str, ...] = Field((), description="Words that the prompt should have for it to show.")
    weight: float = Field(1.0, description="Default weight.")
    licence: str = Field("", description="Under which terms it may be used.")
    size: int = Field(0, description="Bytes of its file.")

    def fits(self, family: str, model: str) -> bool:
        """Whether a model of that family and key takes it."""
        return self.family == family and (not self.models or model in self.models)


class EmbeddingInfo(Model):
    """What a worker announces of a textual-inversion embedding."""

    key: ModelKey = Field(description="The word that calls it in a prompt.")
    title: str = Field("", description="Name for people.")
    family: str = Field("", description="Models of this family take it.")
    licence: str = Field("", description="Under which terms it may be used.")
    size: int = Field(0, description="Bytes of its file.")


class Preset(Model):
    """Settings of a model under one name; what is absent stays the model's default."""

    name: str = Field(description="Its name, such as fast.")
    title: str = Field("", description="Name for people.")
    steps: int | None = Field(None, description="Denoising steps.")
    guidance: float | None = Field(None, description="Guidance scale.")
    sampler: Sampler | None = Field(None, description="Sampler.")
    guidance_rescale: float | None = Field(None, description="How far guidance is kept from overexposing, 0 to 1.")
    clip_skip: int | None = Field(None, description="Layer of the text encoder, counted from its end.")
    loras: tuple[LoraUse, ...] = Field((), description="LoRAs that it applies.")


class ModelInfo(Model):
    """What a worker announces of a model it can run."""

    key: str = Field(description="Name of the model in requests.")
    title: str = Field("", description="Name for people.")
    engine: str = Field(description="Engine that runs it.")
    family: str = Field("", description="Kind of model, such as sd or sdxl.")
    default: bool = Field(False, description="Whether requests that name no model get this one.")
    width: int = Field(description="Default width, pixels.")
    height: int = Field(description="Default height, pixels.")
    steps: int = Field(description="Default number of denoising steps.")
    guidance: float = Field(description="Default guidance scale.")
    sampler: Sampler = Field(description="Default sampler.")
    guidance_rescale: float = Field(0.0, description="Default guidance rescale.")
    clip_skip: int = Field(1, description="Default layer of the text encoder, counted from its end.")
    negative_prompt: str = Field("", description="Default negative prompt.")
    sizes: SizeLimits = Field(SizeLimits(), description="Sizes that it can draw.")
    max_steps: int = Field(150, description="Most denoising steps it takes.")
    samplers: tuple[Sampler, ...] = Field((), description="Samplers that it knows; empty: all.")
    upscalers: tuple[str, ...] = Field((), description="Upscalers that its worker has, the best first.")
    fields: tuple[str, ...] = Field((), description="Fields of a request that this model honours.")
    presets: tuple[Preset, ...] = Field((), description="Settings under names.")
    loras: tuple[LoraInfo, ...] = Field((), description="LoRAs that fit it, as far as a worker has them.")
    embeddings: tuple[EmbeddingInfo, ...] = Field((), description="Textual-inversion embeddings that fit it.")
    tags: tuple[str, ...] = Field((), description="The only tags that it knows; empty: any words.")
    breaks: bool = Field(False, description="Whether BREAK in a prompt begins a new window of its text encoder.")
    licence: str = Field("", description="Under which terms it may be used.")
    size: int = Field(0, description="Bytes of its files.")
    memory: int = Field(0, description="Bytes of memory that it is expected to take; 0: not known.")
    fallback: str | None = Field(None, description="The model that takes over when memory is too short for this one.")


class NodeCost(Model):
    """What a node of a workflow cost in one attempt, over all of its pictures."""

    node: str = Field(description="Id of the node within its workflow.")
    title: str = Field(description="Name for people.")
    kind: Work = Field(description="What it spends its time with.")
    seconds: Annotated[float, Field(ge=0)] = Field(description="Seconds that it ran.")
    cached: bool = Field(False, description="Whether its result was there already, for every picture.")


class StagedOutput(Model):
    """A file that an attempt left in staging, under `staging/<job_id>/<attempt_id>/<index>.<extension>`."""

    index: Annotated[int, Field(ge=0, le=999)] = Field(description="Number of the picture in its job, from 0.")
    seed: int = Field(description="Seed that makes this very picture.")
    sha256: Sha256 = Field(description="SHA-256 of the bytes.")
    size: Annotated[int, Field(ge=1)] = Field(description="Bytes.")
    media_type: MediaType = Field(description="Media type; decides the extension.")
    width: int = Field(description="Pixels; 0 of a sound.")
    height: int = Field(description="Pixels; 0 of a sound.")
    duration: float | None = Field(None, description="Seconds; absent of what does not move or sound.")
    frames: int | None = Field(None, description="Pictures of a clip or animation; absent of all else.")


class Output(Model):
    """A filed picture, clip or sound of a job."""

    file_id: UUID = Field(description="The file in the library.")
    key: str = Field(description="Key in the artifact store.")
    index: int = Field(description="Number of the picture in its job, from 0.")
    seed: int = Field(description="Seed that makes this very picture.")
    sha256: Sha256 = Field(description="SHA-256 of the bytes.")
    size: int = Field(description="Bytes.")
    width: int = Field(description="Pixels; 0 of a sound.")
    height: int = Field(description="Pixels; 0 of a sound.")
    type: FileType = Field("image", description="Kind of file; a folder of the library.")
    media_type: str = Field("image/png", description="Media type.")
    duration: float | None = Field(None, description="Seconds; absent of what does not move or sound.")
    frames: int | None = Field(None, description="Pictures of a clip or animation; absent of all else.")


class JobError(Model):
    """Why a job failed: a stable code, a text for people, and whether trying again may help."""

    code: str = Field(description="What went wrong, for programs: stable.")
    message: str = Field(description="What went wrong, for people.")
    retryable: bool = Field(False, description="Whether trying again may help.")


class Progress(Model):
    """The one progress contract: the same in polling, SSE and WebSocket.

    `percent` is 0–100, monotonic within an attempt, at most 99 until the job is completed. `step` of `steps` are
    real denoising steps of the picture in work. `eta_seconds` is an estimate until the job ends.
    """

    job_id: UUID = Field(description="The job.")
    state: JobState = Field(description="State of the job.")
    phase: Phase | None = Field(None, description="What the worker is doing for it, or did last.")
    step: int | None = Field(None, description="Denoising steps made of the picture in work.")
    steps: int | None = Field(None, description="Denoising steps of the picture in work.")
    percent: Percent = Field(0.0, description="How far it is; 100 only when the job is completed.")
    eta_seconds: float | None = Field(None, description="Estimated seconds until the job ends.")
    position: int | None = Field(None, description="Place in the queue, 1 = next.")
    attempt_id: UUID | None = Field(None, description="The attempt that owns the job.")
    preview_url: str | None = Field(None, description="Where the last preview picture is served.")
    message: str | None = Field(None, description="Why it waits, or what happened last.")


class Reached(Model):
    """How far an attempt came that ended without its pictures."""

    phase: Phase = Field(description="What the worker did last.")
    step: int | None = Field(None, description="Denoising steps made of the picture in work.")
    steps: int | None = Field(None, description="Denoising steps of the picture in work.")
    percent: Annotated[float, Field(ge=0, le=99)] = Field(0.0, description="How far the attempt was.")


class AttemptProgress(Model):
    """How far one attempt is, as its worker reports it."""

    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt.")
    phase: Phase = Field(description="What the worker is doing.")
    step: int | None = Field(None, description="Denoising steps made of the picture in work.")
    steps: int | None = Field(None, description="Denoising steps of the picture in work.")
    image: int = Field(0, description="Index of the picture in work.")
    images: int = Field(1, description="How many pictures the attempt makes.")
    percent: Annotated[float, Field(ge=0, le=99)] = Field(0.0, description="How far the attempt is; never falls.")
    eta_seconds: float | None = Field(
        None, description="Estimated seconds until the attempt ends, from the measured step rate."
    )
    preview: bool = Field(False, description="Whether a preview picture has been published.")

    def reached(self) -> Reached:
        """What is kept of it when the attempt ends without its pictures."""
        return Reached(phase=self.phase, step=self.step, steps=self.steps, percent=self.percent)
