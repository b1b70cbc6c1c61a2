"""What the service and its engine process say to each other, over one local stream socket.

A frame is two big-endian 32-bit lengths, a JSON text and a blob (the bytes of pictures, or none). Only the two
processes of one worker speak this, always of the same version; JSON rather than pickle all the same, so that nothing
that lies in a frame can run.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter

from anime_common.contracts import errors
from anime_common.contracts.generation import Settings
from anime_common.contracts.generator import DeviceInfo, OfferedJob, ResidentModel
from anime_common.contracts.vocabulary import MediaType, ModelInfo, NodeCost, Phase
from anime_common.messages import Model
from anime_generator.comfyui.servers import Remote
from anime_generator.registry import ModelSpec

HEADER = struct.Struct("!II")
MAX_TEXT = 16 << 20
MAX_BLOB = 512 << 20
UNUSABLE = 78
"""Exit status of the engine process when nothing of its configuration can be run (EX_CONFIG of sysexits.h)."""


class WireError(Exception):
    """The other side does not speak this protocol."""


class MemoryRules(Model):
    """How memory is to be shared: bytes of the machine's memory for weights that wait there (none: a quarter of it),
    shares of the device below which idle models are given up and until which, seconds between two looks, and seconds
    of room before preloaded models come back.
    """

    host_cache: int | None = None
    low: float = 0.05
    high: float = 0.1
    calm: float = 60.0
    look_every: float = 2.0


class Configure(Model):
    """First of all: which device, which models, how engines shall behave. Cache in bytes, previews in pixels.

    `remote` is the server that draws, if it is another program that does.
    """

    type: Literal["configure"] = "configure"
    device: str
    device_id: str | None
    models: tuple[ModelSpec, ...]
    embedding_cache: int
    preview_every: int
    preview_size: int
    memory: MemoryRules = MemoryRules()
    remote: Remote | None = None


class Prepare(Model):
    """Make a model resident before anyone asks for it, and warm it up."""

    type: Literal["prepare"] = "prepare"
    model: str


class Input(Model):
    """A file that jobs begin with; `size` in bytes."""

    file_id: UUID
    sha256: str
    media_type: str
    size: int


def named(settings: Settings) -> dict[str, UUID]:
    """The files that a job begins with, by the field that names each."""
    given = {"init_image": settings.init_image, "mask": settings.mask}
    return {name: file_id for name, file_id in given.items() if file_id is not None}


class Offered(Model):
    """The offer that jobs came with, and the worker that took it."""

    worker: str
    offer_id: UUID
    epoch: int


class Draw(Model):
    """Draw the pictures of these jobs, which share a batch key, in one run.

    The blob is what they begin with: the bytes of the inputs one after another.
    """

    type: Literal["draw"] = "draw"
    run: int
    model: str
    jobs: tuple[OfferedJob, ...]
    inputs: tuple[Input, ...] = ()
    offer: Offered | None = None


class Stop(Model):
    """Leave these attempts out from the next step boundary on."""

    type: Literal["stop"] = "stop"
    attempts: tuple[UUID, ...]


class GiveUp(Model):
    """Drop a resident model, or all of them."""

    type: Literal["give_up"] = "give_up"
    model: str | None


Order = Annotated[Configure | Prepare | Draw | Stop | GiveUp, Field(discriminator="type")]


class Ready(Model):
    """The engines are loaded. `problems` says why some models of the registry cannot be run here."""

    type: Literal["ready"] = "ready"
    device: DeviceInfo
    models: tuple[ModelInfo, ...]
    problems: dict[str, str]


class Loading(Model):
    """A model of so many bytes is being loaded, perhaps compiled; nothing else will be heard until that is done."""

    type: Literal["loading"] = "loading"
    model: str
    bytes: int = 0
    compiled: bool = False


class Residents(Model):
    """What lies in memory now, and how many pictures fit into a pass where that differs from the registry.

    `failed` and `problem` say which model could not be loaded, and why.
    """

    type: Literal["residents"] = "residents"
    models: tuple[ResidentModel, ...]
    device: DeviceInfo
    batch_limits: dict[str, int] = Field(default_factory=dict)
    failed: str | None = None
    problem: str = ""


class Began(Model):
    """The run does this now for these attempts."""

    type: Literal["began"] = "began"
    run: int
    phase: Phase
    attempts: tuple[UUID, ...]


class Stepped(Model):
    """A denoising step is done for these pictures: (attempt, index) each."""

    type: Literal["stepped"] = "stepped"
    run: int
    pictures: tuple[tuple[UUID, int], ...]
    step: int
    steps: int


class Preview(Model):
    """The blob is a JPEG of a picture in work."""

    type: Literal["preview"] = "preview"
    run: int
    attempt_id: UUID


class Painted(Model):
    """The blob is a finished picture, clip or sound. Pixels are 0 of a sound; `duration` in seconds."""

    type: Literal["painted"] = "painted"
    run: int
    attempt_id: UUID
    index: int
    seed: int
    width: int
    height: int
    media_type: MediaType = "image/png"
    duration: float | None = None
    frames: int | None = None


class Waited(Model):
    """What draws elsewhere was asked and answered; nothing is known of how far the run is."""

    type: Literal["waited"] = "waited"
    run: int


class Ended(Model):
    """An attempt is over as far as the engine is concerned. `timings` are seconds a phase of its run.

    `lone` is whether it ran alone, so that a failure can be laid at its door. `settings` are what was used when that
    is not what was asked for.
    """

    type: Literal["ended"] = "ended"
    run: int
    attempt_id: UUID
    outcome: Literal["painted", "cancelled", "failed"]
    timings: dict[Phase, float] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    settings: Settings | None = None
    workflow: str | None = None
    costs: tuple[NodeCost, ...] = ()
    code: str = ""
    message: str = ""
    lone: bool = True

    @property
    def retryable(self) -> bool:
        """Whether another try may help, as the table of errors says."""
        return errors.retryable(self.code)


class Idle(Model):
    """The run is over. When `leaving`, this process will end and must be given nothing more."""

    type: Literal["idle"] = "idle"
    run: int
    device: DeviceInfo
    leaving: bool = False


Report = Annotated[
    Ready | Loading | Residents | Began | Stepped | Preview | Waited | Painted | Ended | Idle,
    Field(discriminator="type"),
]

_ORDERS: TypeAdapter[Configure | Prepare | Draw | Stop | GiveUp] = TypeAdapter(Order)
_REPORTS: TypeAdapter[Ready | Loading | Residents | Began | Stepped | Preview | Waited | Painted | Ended | Idle] = (
    TypeAdapter(Report)
)


def frame(message: Model, blob: bytes = b"") -> bytes:
    """The bytes of one frame."""
    text = message.model_dump_json().encode()
    return b"".join((HEADER.pack(len(text), len(blob)), text, blob))


def lengths(header: bytes) -> tuple[int, int]:
    """Text and blob length of a frame; raises WireError when they cannot be true."""
    text, blob = HEADER.unpack(header)
    if text > MAX_TEXT or blob > MAX_BLOB:
        raise WireError(f"a frame of {text} + {blob} bytes is too large")
    return text, blob


def read_order(text: bytes) -> Order:
    """An order of the service; raises pydantic.ValidationError."""
    return _ORDERS.validate_json(text)


def read_report(text: bytes) -> Report:
    """A report of the engine process; raises pydantic.ValidationError."""
    return _REPORTS.validate_json(text)
