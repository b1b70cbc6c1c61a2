"""Previews of a picture in work: the estimate of x0, mapped from latents to colours by one small matrix.

The matrix is fitted to the model's own VAE when it is loaded (least squares over a synthetic picture that it encodes),
so no table per family is needed. Mapping costs a fraction of a millisecond; decoding with a VAE costs a step or more.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

CALIBRATION_PIXELS = 128
JPEG_QUALITY = 75


class PreviewMap:
    """A linear map from latent channels to RGB in [0, 1]: a matrix (channels + 1, 3), the last row the offset."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def jpeg(self, latent: Any, longer_side: int) -> bytes:
        """One latent (channels, height, width) as a JPEG whose longer side has `longer_side` pixels."""
        colours = torch.einsum("chw,cr->hwr", latent.float(), self._matrix[:-1]) + self._matrix[-1]
        pixels = (colours.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
        image = Image.fromarray(pixels)
        scale = longer_side / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


def fit_preview_map(vae: Any, encode: Any) -> PreviewMap:
    """Fit the map to a VAE. `encode` takes pixels (1, 3, h, w) in [-1, 1] to latents as the sampler sees them."""
    pixels = torch.from_numpy(_calibration_picture(CALIBRATION_PIXELS))
    target = pixels.to(vae.device, vae.dtype)[None] * 2 - 1
    with torch.no_grad():
        latents = encode(target)[0].float().cpu()
    channels, height, width = latents.shape
    colours = torch.nn.functional.interpolate(pixels[None], size=(height, width), mode="area")[0]
    rows = torch.cat([latents.reshape(channels, -1).T, torch.ones(height * width, 1)], dim=1)
    # gelsd copes with channels that carry nothing, where a plain solve would not.
    matrix = torch.linalg.lstsq(rows, colours.reshape(3, -1).T, driver="gelsd").solution
    return PreviewMap(matrix.to(vae.device))


def _calibration_picture(side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A picture (3, side, side) in [0, 1] of soft blobs in many colours, the same every time."""
    rng = np.random.default_rng(7)
    coarse = rng.random((8, 8, 3))
    smooth = Image.fromarray((coarse * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(smooth, dtype=np.float32).transpose(2, 0, 1) / 255)
