"""The networks that can be run, the best first: which file, which architecture, and how they are cut into tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

FACTOR = 4
"""How many times every network enlarges each side. The ×2 and ×3 files of AnimeVideoV3 hold the same weights and
shrink the same ×4 picture by bicubic interpolation, so nothing is gained by running them.
"""


@dataclass(frozen=True, slots=True)
class Network:
    """A network of Real-ESRGAN (https://github.com/xinntao/Real-ESRGAN).

    `overlap`: pixels of its surroundings that a tile is drawn with. `cost`: multiplications for one pixel of the
    original, in thousands. `blocks`: how deep it is.
    """

    file: str
    architecture: Literal["compact", "residual_dense"]
    blocks: int
    overlap: int
    cost: int


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "realesrgan-x4plus-anime": Network("REALESRGAN_X4PLUSANIME_UP4X.bin", "residual_dense", 6, 24, 5_700),
        "realesr-animevideov3": Network("REALESRGAN_ANIMAVIDEOV3_UP4X.bin", "compact", 16, 18, 620),
        "realesrgan-x4plus": Network("REALESRGAN_X4PLUS_UP4X.bin", "residual_dense", 23, 24, 17_900),
    }
)
