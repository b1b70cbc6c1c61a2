"""What the conformance suite runs over: an engine with a model that it has loaded. The fixture is in `conftest.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anime_common.contracts.generator import OfferedJob
from anime_generator.engines.protocol import Engine
from anime_generator.registry import ModelSpec
from anime_generator.simulated import Simulated
from tests.generator.builders import offered

SIZE = {"noop": 64, "diffusers": 128}


@dataclass(frozen=True)
class Subject:
    """An engine under test, with a model it has loaded."""

    engine: Engine
    spec: ModelSpec
    device: Simulated

    def job(self, **changes: Any) -> OfferedJob:
        side = SIZE[self.spec.engine]
        usual: dict[str, Any] = {"model": self.spec.key, "width": side, "height": side, "steps": 4}
        return offered(**(usual | changes))
