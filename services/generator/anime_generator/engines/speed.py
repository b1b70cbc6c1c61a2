"""What makes a pipeline quicker without changing what it draws: memory format, attention, compilation.

`docs/speed.md` has the reasons and the figures behind each default.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING, Any

import torch

from anime_generator.engines.protocol import EngineError
from anime_generator.registry.entries import DiffusersOptions

if TYPE_CHECKING:
    from anime_generator.device import Device
    from anime_generator.registry import ModelSpec


def speed_up(pipe: Any, spec: ModelSpec, device: Device) -> None:
    """Prepare a pipeline that is on its device; raises EngineError naming an option that this machine cannot do."""
    wanted = DiffusersOptions.model_validate(spec.options)
    on_card = device.kind == "cuda"
    channels_last = on_card if wanted.channels_last is None else wanted.channels_last
    if channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if wanted.attention == "xformers":
        if not on_card or importlib.util.find_spec("xformers") is None:
            raise _impossible(spec, "attention", "xformers needs a card, and the package xformers")
        pipe.unet.enable_xformers_memory_efficient_attention()
    if wanted.compile:
        if (missing := _missing_compiler(on_card=on_card)) is not None:
            raise _impossible(spec, "compile", f"it needs {missing}")
        pipe.unet.compile()


def _missing_compiler(*, on_card: bool) -> str | None:
    """What torch.compile needs and this machine lacks."""
    if on_card:
        return None if importlib.util.find_spec("triton") is not None else "the package triton"
    return None if shutil.which("g++") is not None else "a C++ compiler (g++)"


def _impossible(spec: ModelSpec, option: str, why: str) -> EngineError:
    return EngineError("model_unusable", f"models.{spec.key}.options.{option}: {why}")
