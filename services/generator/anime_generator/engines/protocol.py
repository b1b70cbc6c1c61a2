"""What an engine is: loads models and draws pictures, telling of every phase and denoising step as it happens.

Engines are synchronous and run in a process of their own; one call at a time. Everything they tell goes through one
callback, from the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from anime_common.contracts import errors

if TYPE_CHECKING:
    from uuid import UUID

    from PIL.Image import Image

    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo, NodeCost, Phase
    from anime_generator.comfyui.servers import Remote
    from anime_generator.registry import ModelSpec
    from anime_generator.wire import Offered


OUT_OF_MEMORY = "out_of_memory"


class EngineError(Exception):
    """Why pictures could not be made: a code of `anime_common.contracts.errors` and a text.

    `poisoned` when the process that raised it must not be used again.
    """

    def __init__(self, code: str, message: str, *, poisoned: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.poisoned = code, message, poisoned

    @property
    def retryable(self) -> bool:
        """Whether another try may help, as the table of errors says."""
        return errors.retryable(self.code)

    def bare(self) -> EngineError:
        """The same without the frames it came through, which hold on to tensors."""
        return EngineError(self.code, self.message, poisoned=self.poisoned)


class Cancelled(Exception):
    """Every picture of the forward pass in work was cancelled."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings that all engines share. Prompt embeddings in bytes, previews in pixels of their longer side.

    `remote` is the server that draws, for engines that draw elsewhere.
    """

    embedding_cache: int = 64 << 20
    preview_every: int = 3
    preview_size: int = 256
    remote: Remote | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a request: its index within the job, and its own seed."""

    attempt_id: UUID
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class PhaseBegan:
    """What the engine does now, for these pictures."""

    phase: Phase
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """Denoising step `step` of `steps` is done for these pictures."""

    pictures: tuple[Picture, ...]
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Previewed:
    """How a picture in work will look, as a small JPEG."""

    picture: Picture
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture is done."""

    picture: Picture
    image: Image


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file is done that another program made: a picture, clip or sound. Its bytes say which, nothing else does."""

    picture: Picture
    data: bytes


@dataclass(frozen=True, slots=True)
class Costed:
    """What each node of a workflow cost for a picture."""

    picture: Picture
    workflow: str
    costs: tuple[NodeCost, ...]


@dataclass(frozen=True, slots=True)
class Waited:
    """What draws elsewhere was asked and answered: it waits for its turn or goes on; a sign of life, no more."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the person who asked should know, although the picture is made."""

    attempt_id: UUID
    text: str


EngineEvent = PhaseBegan | Stepped | Previewed | Drawn | Rendered | Warned | Waited | Costed
OnProgress = Callable[[EngineEvent], None]


class Cancel(Protocol):
    """Which requests have been cancelled; may change at any moment."""

    def asked(self, attempt_id: UUID) -> bool:
        """Whether this request was cancelled."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to draw: pictures in one forward pass (0: the model's batch limit), in slices and tiles where memory is
    short, without the pictures (attempt, index) that are done already. `offer` is what an engine that draws elsewhere
    keeps with its work, for us to find it again.
    """

    batch: int = 0
    economical: bool = False
    done: frozenset[tuple[UUID, int]] = frozenset()
    offer: Offered | None = None


USUAL = Manner()

Inputs = Mapping["UUID", "Image"]
"""The pictures that requests begin with, and their masks, by the id of the file."""

NO_INPUTS: Inputs = MappingProxyType({})


class Engine(Protocol):
    """Makes pictures with the models of one kind. Before work that takes memory it tells its device (`demand`)."""

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """What this engine can do with a model, without loading it."""

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Make a model resident; returns the bytes it occupies, LoRAs included. `warm_up` runs it once. One that was
        offloaded is copied back; one that is resident is left as it is.

        Raises EngineError; then nothing of the model stays in memory.
        """

    def offload(self, key: str) -> bool:
        """Move a resident model's weights to the machine's own memory; false, and nothing done, when it cannot."""

    def generate(
        self,
        spec: ModelSpec,
        requests: Sequence[OfferedJob],
        on_progress: OnProgress,
        cancel: Cancel,
        manner: Manner = USUAL,
        inputs: Inputs = NO_INPUTS,
    ) -> None:
        """Draw every picture of the requests with a resident model.

        All requests have an equal `Settings.batch_key()`, checked against `describe`. Each picture is told as `Drawn`
        once; those of a cancelled request are left out from the next step boundary on, without stopping the others.
        Raises EngineError; the model stays resident and can be used again, unless the error is `poisoned`.
        """

    def unload(self, key: str) -> None:
        """Give up a model, resident or offloaded; nothing happens when it is neither."""


def plan_passes(requests: Sequence[OfferedJob], limit: int, manner: Manner = USUAL) -> list[tuple[Picture, ...]]:
    """The pictures of all requests in forward passes of at most `limit`; picture i of a request has seed + i."""
    pictures = [
        Picture(request.attempt_id, index, (request.settings.seed + index) % 2**32)
        for request in requests
        for index in range(request.settings.count)
        if (request.attempt_id, index) not in manner.done
    ]
    most = min(limit, manner.batch or limit)
    return [tuple(pictures[start : start + most]) for start in range(0, len(pictures), most)]


def wanted(pictures: Sequence[Picture], cancel: Cancel) -> tuple[Picture, ...]:
    """The pictures whose requests have not been cancelled."""
    return tuple(picture for picture in pictures if not cancel.asked(picture.attempt_id))
