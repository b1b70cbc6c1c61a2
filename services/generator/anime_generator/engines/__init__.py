"""The engines that can make pictures: one file each, and one line here.

The values are import paths, because an engine's libraries (torch above all) are loaded in the engine's process alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Engine, EngineOptions

ENGINES: dict[str, str] = {
    "auto": "anime_generator.engines.auto:AutoEngine",
    "comfyui": "anime_generator.engines.comfyui:ComfyuiEngine",
    "diffusers": "anime_generator.engines.diffusers:DiffusersEngine",
    "noop": "anime_generator.engines.noop:NoopEngine",
}
LOCAL = frozenset(ENGINES) - {"comfyui"}
"""Those that draw with files of this machine, and that a registry may name."""


def open_engine(name: str, device: Device, options: EngineOptions) -> Engine:
    """The engine of that name on a device; raises ImportError when its libraries are missing."""
    module, _, attribute = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)(device, options)
    return engine
