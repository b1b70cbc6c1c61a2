"""Runs a network over a picture tile by tile, in smaller tiles where memory is short."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from anime_generator.engines.faults import translated
from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError
from anime_generator.upscalers.architectures import run, shapes_of
from anime_generator.upscalers.catalogue import FACTOR, Network
from anime_generator.upscalers.weights import file_of, read_weights


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture: left and top included, right and bottom not, in pixels of the original."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its weights on a device: half precision on a card, single on the CPU."""

    network: Network
    weights: Sequence[Any]
    device: str
    precision: Any

    @classmethod
    def load(cls, network: Network, device: str) -> Loaded:
        """Read the weights; raises EngineError."""
        file = file_of(network.file)
        if file is None:
            raise EngineError("upscaler_missing", f"the weights {network.file} are not installed")
        precision = torch.float32 if device.startswith("cpu") else torch.float16
        with translated("loading an upscaler"):
            weights = [
                _placed(torch.from_numpy(array), device, precision) for array in read_weights(file, shapes_of(network))
            ]
        return cls(network, weights, device, precision)

    def draw(self, part: Any) -> Any:
        """A part (h, w, 3) of bytes as bytes (4h, 4w, 3); raises EngineError."""
        with translated("upscaling"), torch.inference_mode():
            picture = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None]
            picture = _placed(picture, self.device, self.precision) / 255
            drawn = run(self.network, self.weights, picture)[0].float()
            return drawn.clamp_(0, 1).mul_(255).round_().permute(1, 2, 0).to("cpu", torch.uint8).numpy()


def enlarge(network: Network, image: Image.Image, tell: Callable[[float], None], device: str, side: int) -> Image.Image:
    """The picture (RGB) four times as wide and as high, in tiles of at most `side` pixels of the original, or half or a
    quarter of it where memory is short. Tells its share after every tile; raises EngineError.
    """
    loaded = Loaded.load(network, device)
    for smaller in (side, side // 2):
        try:
            return _in_tiles(loaded, image, smaller, tell)
        except EngineError as error:
            if error.code != OUT_OF_MEMORY:
                raise
        if not device.startswith("cpu"):
            torch.cuda.empty_cache()
    return _in_tiles(loaded, image, side // 4, tell)


def tiles(width: int, height: int, side: int) -> Iterator[Tile]:
    """A picture cut into tiles of about equal size, none longer than `side`, row by row."""
    columns, rows = _cuts(width, side), _cuts(height, side)
    for top, bottom in rows:
        for left, right in columns:
            yield Tile(left, top, right, bottom)


def _cuts(length: int, side: int) -> list[tuple[int, int]]:
    count = -(-length // side)
    ends = [length * number // count for number in range(count + 1)]
    return list(itertools.pairwise(ends))


def _in_tiles(loaded: Loaded, image: Image.Image, side: int, tell: Callable[[float], None]) -> Image.Image:
    around = loaded.network.overlap
    # The outermost pixels are repeated: at a bare edge the network would see black.
    pixels = np.pad(np.asarray(image), ((around, around), (around, around), (0, 0)), mode="edge")
    parts = list(tiles(image.width, image.height, side))
    enlarged = Image.new("RGB", (image.width * FACTOR, image.height * FACTOR))
    inner = around * FACTOR
    for number, tile in enumerate(parts, start=1):
        drawn = loaded.draw(pixels[tile.top : tile.bottom + 2 * around, tile.left : tile.right + 2 * around])
        kept = np.ascontiguousarray(drawn[inner : drawn.shape[0] - inner, inner : drawn.shape[1] - inner])
        enlarged.paste(Image.fromarray(kept), (tile.left * FACTOR, tile.top * FACTOR))
        tell(number / len(parts))
    return enlarged


def _placed(tensor: Any, device: str, precision: Any) -> Any:
    """On the device; pictures and filters with their channels last, in which convolutions are quickest."""
    moved = tensor.to(device, precision)
    return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved
