"""What the conformance suite runs over: an engine with a model that it has loaded. The fixture is in `conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_common.contracts.generator import OfferedJob
from anime_common.messages import uuid7
from anime_generator.comfyui.manifest import load_workflows
from anime_generator.comfyui.servers import Remote, Servers
from anime_generator.comfyui.shelf import Found, stock
from anime_generator.engines import open_engine
from anime_generator.engines.comfyui import ComfyuiEngine
from anime_generator.engines.protocol import Engine, EngineOptions
from anime_generator.registry import ModelSpec
from anime_generator.simulated import Simulated
from tests.comfyui.painter import Manners, Painter
from tests.comfyui.painter_nodes import classes
from tests.generator.builders import noop_spec, offered, sprite_spec

SIZE = {"noop": 64, "diffusers": 128, "auto": 64, "comfyui": 64}
HOLDERS = ("noop", "diffusers", "auto")
"""Engines that hold models in memory of their own."""


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


def anew(job: OfferedJob) -> OfferedJob:
    """The same job in another attempt."""
    return job.model_copy(update={"attempt_id": uuid7()})


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Subject]:
    """An engine with a model that it has loaded; that of ComfyUI with a server."""
    device = Simulated("card", 4 << 30)
    if name == "comfyui":
        with Painter(folder, Manners(step=0.03, caches=False)).serving() as painter:
            remote = Remote(name="tower", url=painter.url, unreachable=5.0)
            comfyui = ComfyuiEngine(device, EngineOptions(remote=remote))
            yield Subject(comfyui, checkpoint(painter), device)
            comfyui.close()
        return
    spec = spec_for(name, folder)
    engine = open_engine(name, device, EngineOptions())
    engine.load(spec)
    yield Subject(engine, spec, device)
    engine.unload(spec.key)
    assert device.held() == 0


def checkpoint(painter: Painter, name: str = "anime.safetensors") -> ModelSpec:
    """A checkpoint of a painting server, as the worker that drives it announces it."""
    found = Found(
        checkpoints=tuple(painter.models["checkpoints"]),
        loras=tuple(painter.models["loras"]),
        upscalers=tuple(painter.models["upscale_models"]),
        texts=painter.texts,
        classes=classes(painter.models),
    )
    models = stock(Servers({}, {}, {}), found, load_workflows()[0]).registry.models.values()
    return next(spec for spec in models if str(spec.source) == name)
