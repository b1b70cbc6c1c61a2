"""What the generator's tests are made of: offered jobs, model entries, and collectors of what engines tell."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from anime_common.contracts.generation import Settings
from anime_common.contracts.generator import Offer, OfferedJob
from anime_common.contracts.vocabulary import Phase, Sampler, SizeLimits
from anime_common.messages import uuid7
from anime_generator.engines import ENGINES
from anime_generator.engines.protocol import (
    Drawn,
    EngineEvent,
    PhaseBegan,
    Previewed,
    Rendered,
    Stepped,
    Waited,
    Warned,
)
from anime_generator.inputs import decode
from anime_generator.registry import Defaults, ModelSpec, Option, load_registry
from tests import builders

PROMPT = "1girl, pink hair, twintails, smile, night sky"


def settings(**changes: object) -> Settings:
    return builders.settings(prompt=PROMPT, negative_prompt="low quality, blurry").model_copy(update=changes)


def offered(attempt: int = 1, **changes: object) -> OfferedJob:
    return OfferedJob(
        job_id=uuid7(),
        attempt_id=uuid7(),
        attempt=attempt,
        code="k3v9x2ab",
        project="default",
        settings=settings(**changes),
    )


def offer_to(*jobs: OfferedJob, incarnation: UUID, worker: str = "tower", epoch: int = 1) -> Offer:
    return Offer(offer_id=uuid7(), epoch=epoch, worker=worker, incarnation=incarnation, jobs=jobs)


def noop_spec(
    key: str = "noop", *, batch_limit: int = 4, memory: int = 0, options: dict[str, Option] | None = None
) -> ModelSpec:
    return ModelSpec(
        key=key,
        title=key,
        engine="noop",
        source=None,
        config=None,
        family="",
        precision="auto",
        defaults=Defaults(width=64, height=64, steps=4, sampler=Sampler.DPMPP_2M),
        sizes=SizeLimits(minimum=64, maximum=512, multiple=8),
        max_steps=100,
        samplers=(),
        guidance_rescale=0.0,
        batch_limit=batch_limit,
        memory=memory,
        fallback=None,
        preload=False,
        default=key == "noop",
        options=options or {},
    )


def sprite_spec() -> ModelSpec:
    """The built-in model, allowed sizes at which it is quicker and what it draws does not matter."""
    spec = load_registry(None, frozenset(ENGINES)).models["sprite"]
    return spec.model_copy(update={"sizes": SizeLimits(minimum=64, maximum=256, multiple=16)})


def copy_of_sprite(folder: Path, name: str = "sprite") -> Path:
    """The built-in model in a place where it can be harmed."""
    source = sprite_spec().source
    assert source is not None
    return Path(shutil.copytree(source, folder / name))


@dataclass
class Told:
    """Collects what an engine tells, and cancels attempts when a chosen event comes by."""

    cancel_on: tuple[Phase | int, ...] = ()
    victims: tuple[UUID, ...] = ()
    events: list[EngineEvent] = field(default_factory=list)
    cancelled: set[UUID] = field(default_factory=set)

    def __call__(self, event: EngineEvent) -> None:
        if isinstance(event, Waited):
            return
        if isinstance(event, Rendered):
            event = Drawn(event.picture, decode(event.data))
        self.events.append(event)
        what = event.phase if isinstance(event, PhaseBegan) else event.step if isinstance(event, Stepped) else None
        if what is not None and what in self.cancel_on:
            self.cancelled.update(self.victims)

    def asked(self, attempt_id: UUID) -> bool:
        return attempt_id in self.cancelled

    @property
    def phases(self) -> list[Phase]:
        return [event.phase for event in self.events if isinstance(event, PhaseBegan)]

    @property
    def working(self) -> list[Phase]:
        """The phases without loading and saving, which some engines leave to whoever runs them."""
        return [phase for phase in self.phases if phase not in {Phase.LOADING, Phase.SAVING}]

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, Stepped)]

    def steps_of(self, job: OfferedJob) -> list[int]:
        stepped = [event for event in self.events if isinstance(event, Stepped)]
        mine = {job.attempt_id}
        return [event.step for event in stepped if mine & {picture.attempt_id for picture in event.pictures}]

    @property
    def drawn(self) -> list[Drawn]:
        return [event for event in self.events if isinstance(event, Drawn)]

    @property
    def previews(self) -> list[Previewed]:
        return [event for event in self.events if isinstance(event, Previewed)]

    @property
    def warnings(self) -> list[Warned]:
        return [event for event in self.events if isinstance(event, Warned)]

    def of(self, job: OfferedJob) -> list[Drawn]:
        return [event for event in self.drawn if event.picture.attempt_id == job.attempt_id]


def write_registry(folder: Path, *tables: str, default: str = "noop") -> Path:
    """A user's registry in which sprite is hidden, so that no engine process of a test imports torch."""
    path = folder / "models.toml"
    path.write_text("\n".join([f'default = "{default}"', "[models.sprite]", "enabled = false", *tables]))
    return path


def attempts(jobs: Sequence[OfferedJob]) -> tuple[UUID, ...]:
    return tuple(job.attempt_id for job in jobs)
