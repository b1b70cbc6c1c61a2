"""Enlarging pictures: Real-ESRGAN's networks for drawings where their weights are installed, Lanczos everywhere.

Synchronous, for the engine's process; nothing stays in memory between calls. docs/upscaling.md tells how to install
and choose, docs/decisions/0005 why it is done this way.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

from PIL import Image

from anime_generator.engines.protocol import EngineError
from anime_generator.upscalers.catalogue import NETWORKS
from anime_generator.upscalers.weights import DISTRIBUTION, file_of, folder

MISSING = "upscaler_missing"
LANCZOS = "lanczos"
KNOWN = (*NETWORKS, LANCZOS)
TILE = 192
SMALLEST_TILE = 16
"""Sides of tiles in pixels of the original."""
_INSTALL = "install tower-anime-generator[upscale] (make setup does it)"
_WIDE_MODES = ("I", "F")
_FILTER = Image.Resampling.LANCZOS

OnProgress = Callable[[float], None]


def available(device: str = "cpu") -> tuple[str, ...]:
    """Names usable here, the best for this device first, `lanczos` last.

    `device` is torch's name of it. On the CPU the quick network comes first: the others take minutes a picture there.
    """
    usable = [name for name in NETWORKS if why_missing(name) is None]
    if device.startswith("cpu"):
        usable.sort(key=lambda name: NETWORKS[name].cost)
    return (*usable, LANCZOS)


def why_missing(name: str) -> str | None:
    """Why an upscaler cannot be used here and what to do, or None when it can."""
    if name == LANCZOS:
        return None
    if name not in NETWORKS:
        return f"there is no upscaler {name!r}; known are: {', '.join(KNOWN)}"
    if importlib.util.find_spec("torch") is None:
        return f"the upscaler {name} needs torch, which is not installed: {_INSTALL}"
    if folder() is None:
        return f"the upscaler {name} needs the weights in {DISTRIBUTION}, which is not installed: {_INSTALL}"
    if file_of(NETWORKS[name].file) is None:
        return f"the upscaler {name} needs {NETWORKS[name].file}, which the installed {DISTRIBUTION} lacks: {_INSTALL}"
    return None


def upscale(
    name: str,
    image: Image.Image,
    factor: float,
    on_progress: OnProgress | None = None,
    device: str = "cpu",
    *,
    tile: int = TILE,
) -> Image.Image:
    """The picture `factor` times as wide and as high, each side rounded; RGB, or RGBA where it is transparent.

    A network enlarges 4 times, in tiles of at most `tile` pixels of the original; Lanczos makes the asked size of that.
    Smaller tiles take less memory and more time. `on_progress` is told the share that is done, in (0, 1], after every
    tile; it starts again with smaller tiles when memory was too short. What it raises passes through. `device` is
    torch's name of it (`cpu`, `cuda:0`).

    Raises EngineError: `upscaler_missing`, `invalid_image` (more than 8 bits a channel), `out_of_memory`, or what the
    device says; ValueError for a factor that is not a positive number and for tiles below 16 pixels.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor must be a positive number, not {factor}")
    if tile < SMALLEST_TILE:
        raise ValueError(f"tile must be at least {SMALLEST_TILE} pixels, not {tile}")
    if (reason := why_missing(name)) is not None:
        raise EngineError(MISSING, reason)
    if image.mode.startswith(_WIDE_MODES):
        raise EngineError("invalid_image", f"pictures of mode {image.mode} cannot be upscaled")
    tell = on_progress or _nobody
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    if name == LANCZOS or factor <= 1:
        enlarged = image.convert("RGBA" if image.has_transparency_data else "RGB").resize(size, _FILTER)
        tell(1.0)
        return enlarged
    return _drawn(name, image, size, tell, device, tile)


def _drawn(
    name: str, image: Image.Image, size: tuple[int, int], tell: OnProgress, device: str, tile: int
) -> Image.Image:
    from anime_generator.upscalers.drawing import enlarge

    enlarged = enlarge(NETWORKS[name], image.convert("RGB"), tell, device, tile)
    if enlarged.size != size:
        enlarged = enlarged.resize(size, _FILTER)
    if image.has_transparency_data:
        enlarged.putalpha(image.convert("RGBA").getchannel("A").resize(size, _FILTER))
    return enlarged


def _nobody(_share: float) -> None:
    """Where nobody wants to be told."""
