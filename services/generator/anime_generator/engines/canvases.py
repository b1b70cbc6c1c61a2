"""Pictures that people begin with, as passes need them: brought to size, without transparency, as tensors.

numpy and torch are imported where they are needed: engines that draw elsewhere do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

CROPPED = 0.02
"""From this share of a side on, cutting something off is worth telling."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """What is drawn over: a picture at the size of what is drawn, and where; no `cover` (grey) means everywhere."""

    ground: Image.Image
    cover: Image.Image | None

    @classmethod
    def of(cls, picture: Image.Image, mask: Image.Image | None, size: tuple[int, int]) -> Canvas:
        """A picture with its mask, brought to a size (width, height); the mask is scaled to its picture before."""
        if mask is None:
            return cls(fitted(picture, size), None)
        same = mask if mask.size == picture.size else mask.resize(picture.size)
        return cls(fitted(picture, size), ImageOps.fit(opaque(same).convert("L"), size, Image.Resampling.BILINEAR))

    def uncovered(self, drawn: Image.Image) -> Image.Image:
        """What was drawn, with every pixel outside of the mask as it was."""
        return drawn if self.cover is None else Image.composite(drawn, self.ground, self.cover)


def opaque(image: Image.Image) -> Image.Image:
    """The picture in RGB; what was transparent is white."""
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        ground = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(ground, seen).convert("RGB")
    return image.convert("RGB")


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture filling a size (width, height): scaled, and cut at its longer side about the middle."""
    return ImageOps.fit(opaque(image), size, Image.Resampling.LANCZOS)


def cut_off(image: Image.Image, size: tuple[int, int]) -> str | None:
    """What to tell of a part of the picture that filling that size cuts off; None when it cuts off hardly any."""
    ratio = (image.width / image.height) / (size[0] / size[1])
    if min(ratio, 1 / ratio) >= 1 - CROPPED:
        return None
    was, now = (f"{width} x {height}" for width, height in (image.size, size))
    return f"init_image: cut from {was} to the shape of {now} pixels"


def pixels_of(images: list[Image.Image]) -> Any:
    """Pictures of one size as pixels (pictures, 3, h, w) in [-1, 1]."""
    import numpy as np
    import torch

    stacked = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).div(127.5).sub(1).contiguous()


def cells_of(mask: Image.Image, scale: int) -> Any:
    """A mask (1, 1, h, w) over latents: 1 in every cell of which any pixel is to be drawn anew."""
    import numpy as np
    import torch

    shades = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None, None]
    return (torch.nn.functional.max_pool2d(shades, scale) > 0.5).float()
