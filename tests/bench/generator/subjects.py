"""The models that are measured, and how much of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anime_common.contracts.generation import Settings
from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import SizeLimits
from anime_common.messages import uuid7
from anime_generator.engines import ENGINES
from anime_generator.registry import Defaults, ModelSpec, load_registry
from tests.bench.generator.checkpoint import FAMILY, random_sd15
from tests.bench.tables import Cell

PROMPT = "1girl, pink hair, twintails, smile, night sky"
NEGATIVE = "low quality, blurry"


@dataclass(frozen=True, slots=True)
class Amount:
    """How often things are measured. `cold` processes, `rounds` of contestants that take turns, `batches` in pictures a
    pass, each `batch_rounds` times, `switches` between two models.
    """

    cold: int
    rounds: int
    batches: tuple[int, ...] = (1, 2, 4, 8)
    batch_rounds: int = 1
    switches: int = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on a device (`cpu`, `cuda`, …), and the settings that it is measured with.

    `small` are changes of the settings for what does not depend on the size of a picture.
    """

    name: str
    title: str
    spec: ModelSpec
    device: str
    amount: Amount
    small: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **changes: Any) -> Settings:
        """The settings of a picture: the model's defaults, and all layers of the text encoder.

        The bare pipeline fails with `clip_skip`: diffusers looks for a part that transformers 5 does not have.
        """
        defaults = self.spec.defaults
        known = {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "model": self.spec.key,
            "width": defaults.width,
            "height": defaults.height,
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "sampler": defaults.sampler,
            "guidance_rescale": self.spec.guidance_rescale,
            "seed": 1,
        }
        return Settings.model_validate(known | changes)

    def about(self) -> dict[str, Cell]:
        """What every number of this model was measured with."""
        defaults = self.spec.defaults
        return {
            "device": self.device,
            "size": f"{defaults.width} × {defaults.height}",
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "sampler": str(defaults.sampler),
            "precision": self.spec.precision,
        }


def job(settings: Settings) -> OfferedJob:
    """A job as a worker gets it."""
    return OfferedJob(
        job_id=uuid7(), attempt_id=uuid7(), attempt=1, code="k3v9x2ab", project="default", settings=settings
    )


def fresh(settings: Settings, number: int) -> Settings:
    """The same picture's worth of work with texts that no cache has seen, and a seed of its own."""
    texts = {"prompt": f"{settings.prompt}, {number}", "negative_prompt": f"{settings.negative_prompt}, {number}"}
    return settings.model_copy(update={**texts, "seed": settings.seed + 100 * number})


def sprite(amount: Amount, device: str = "cpu") -> Subject:
    """The built-in model at twice its size, which takes long enough to measure; what it draws there does not matter."""
    spec = load_registry(None, frozenset(ENGINES)).models["sprite"]
    defaults = spec.defaults.model_copy(update={"width": 256, "height": 256, "steps": 4})
    sizes = SizeLimits(minimum=64, maximum=256, multiple=16)
    measured = _for_measuring(spec.model_copy(update={"defaults": defaults, "sizes": sizes}), amount)
    return Subject("sprite", "sprite (built in, 7.4 million parameters)", measured, device, amount)


def random_weights(folder: Path, amount: Amount, device: str = "cpu") -> Subject:
    """A checkpoint of Stable Diffusion 1.5's size under `folder`; it is made unless it is there."""
    base = sprite(amount).spec
    source = random_sd15(folder)
    spec = base.model_copy(
        update={
            "key": "sd15",
            "title": "random weights",
            "source": source,
            "family": FAMILY,
            "precision": "auto",
            "samplers": (),
            "sizes": SizeLimits(minimum=64, maximum=1024, multiple=8),
            "defaults": Defaults(width=128, height=128, steps=4, guidance=7.0),
            "memory": 0,
            "size": sum(file.stat().st_size for file in source.rglob("*.safetensors")),
            "stamp": "random",
        }
    )
    title = "Stable Diffusion 1.5's architecture, random weights (1,066 million parameters)"
    return Subject("sd15", title, spec, device, amount, {"width": 64, "height": 64, "steps": 2})


def from_registry(key: str, amount: Amount, device: str) -> Subject:
    """A model of the owner's registry (`ANIME_MODELS`), with its own defaults; raises ValueError, RegistryError."""
    named = os.environ.get("ANIME_MODELS")
    models = load_registry(Path(named) if named else None, frozenset(ENGINES)).models
    if key not in models:
        where = named or "the shipped registry (ANIME_MODELS names another)"
        raise ValueError(f"--model: there is no model {key!r} in {where}; known: {', '.join(sorted(models))}")
    if models[key].engine != "diffusers":
        raise ValueError(f"--model: {key} is drawn by the engine {models[key].engine}; only diffusers is measured")
    spec = models[key]
    return Subject(key, spec.title or key, _for_measuring(spec, amount), device, amount)


def second(subject: Subject) -> ModelSpec:
    """The same checkpoint under another key: as many bytes, in weights of its own."""
    return subject.spec.model_copy(update={"key": f"{subject.spec.key}-second", "title": "the second one"})


def with_amount(subject: Subject, **changes: Any) -> Subject:
    """The same, measured more or less often."""
    amount = replace(subject.amount, **changes)
    return replace(subject, amount=amount, spec=_for_measuring(subject.spec, amount))


def _for_measuring(spec: ModelSpec, amount: Amount) -> ModelSpec:
    changes = {"batch_limit": max(amount.batches), "preload": False, "pin": False, "fallback": None, "default": False}
    return spec.model_copy(update=changes)
