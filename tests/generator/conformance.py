"""What the conformance suite runs over: an engine with a model that it has loaded. The fixture is in `conftest.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_common.contracts.generator import OfferedJob
from anime_generator.engines.protocol import Engine
from anime_generator.registry import ModelSpec
from anime_generator.simulated import Simulated
from tests.generator.builders import noop_spec, offered, sprite_spec

SIZE = {"noop": 64, "diffusers": 128, "auto": 64}


def spec_for(engine: str, folder: Path) -> ModelSpec:
    """A model for an engine."""
    if engine == "noop":
        return noop_spec(memory=1 << 20)
    if engine == "diffusers":
        return sprite_spec()
    from tests.generator.whole_pipelines import registered, tiny  # loads torch

    tiny("sd3", folder / "model")
    return registered(folder)


@dataclass(frozen=True)
class Subject:
    """An engine under test, with a model it has loaded."""

    engine: Engine
    spec: ModelSpec
    device: Simulated

    def job(self, **changes: Any) -> OfferedJob:
        side = SIZE[self.spec.engine]
        usual: dict[str, Any] = {"model": self.spec.key, "width": side, "height": side, "steps": 4}
        usual["sampler"] = self.spec.defaults.sampler
        return offered(**(usual | changes))
