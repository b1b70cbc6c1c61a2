"""The two architectures of Real-ESRGAN as functions of a picture and of weights in the order in which files hold them.

`compact`: SRVGGNetCompact of https://github.com/xinntao/Real-ESRGAN. `residual_dense`: RRDBNet of ESRGAN
(https://arxiv.org/abs/1809.00219). Both take pictures (batch, 3, h, w) in [0, 1] to (batch, 3, 4h, 4w), not clamped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import functional

from anime_generator.upscalers.catalogue import FACTOR, Network
from anime_generator.upscalers.weights import Shape

FEATURES = 64
GROWTH = 32
DENSE_PER_BLOCK = 3
SLOPE = 0.2
"""Of the leaky rectifier, and the share of a residual that is added."""


def shapes_of(network: Network) -> list[Shape]:
    """The shapes of all weights of a network, in order."""
    return _compact_shapes(network.blocks) if network.architecture == "compact" else _dense_shapes(network.blocks)


def run(network: Network, weights: Iterable[Any], picture: Any) -> Any:
    """What the network draws."""
    draw = _compact if network.architecture == "compact" else _residual_dense
    return draw(picture, iter(weights), network.blocks)


def _convolution_shapes(channels: int, filters: int) -> list[Shape]:
    return [(filters, channels, 3, 3), (filters,)]


def _compact_shapes(blocks: int) -> list[Shape]:
    shapes = [*_convolution_shapes(3, FEATURES), (FEATURES,)]
    for _ in range(blocks):
        shapes += [*_convolution_shapes(FEATURES, FEATURES), (FEATURES,)]
    return shapes + _convolution_shapes(FEATURES, 3 * FACTOR**2)


def _dense_shapes(blocks: int) -> list[Shape]:
    dense: list[Shape] = []
    for already in range(FEATURES, FEATURES + 4 * GROWTH, GROWTH):
        dense += _convolution_shapes(already, GROWTH)
    dense += _convolution_shapes(FEATURES + 4 * GROWTH, FEATURES)
    features = _convolution_shapes(FEATURES, FEATURES)
    return [
        *_convolution_shapes(3, FEATURES),
        *(dense * DENSE_PER_BLOCK * blocks),
        *(features * 4),  # after the blocks, after each doubling, and at full size
        *_convolution_shapes(FEATURES, 3),
    ]


def _compact(picture: Any, weights: Iterator[Any], blocks: int) -> Any:
    drawn = picture
    for _ in range(1 + blocks):
        drawn = functional.prelu(_convolution(drawn, weights), next(weights))
    details = functional.pixel_shuffle(_convolution(drawn, weights), FACTOR)
    return details.add_(functional.interpolate(picture, scale_factor=FACTOR, mode="nearest"))


def _residual_dense(picture: Any, weights: Iterator[Any], blocks: int) -> Any:
    first = _convolution(picture, weights)
    drawn = first
    for _ in range(blocks):
        block = drawn
        for _ in range(DENSE_PER_BLOCK):
            block = _dense(block, weights)
        drawn = block.mul_(SLOPE).add_(drawn)
    drawn = _convolution(drawn, weights).add_(first)
    for _ in range(2):
        drawn = _rectified(_convolution(functional.interpolate(drawn, scale_factor=2, mode="nearest"), weights))
    return _convolution(_rectified(_convolution(drawn, weights)), weights)


def _dense(features: Any, weights: Iterator[Any]) -> Any:
    parts = [features]
    for _ in range(4):
        parts.append(_rectified(_convolution(torch.cat(parts, 1), weights)))
    return _convolution(torch.cat(parts, 1), weights).mul_(SLOPE).add_(features)


def _convolution(features: Any, weights: Iterator[Any]) -> Any:
    return functional.conv2d(features, next(weights), next(weights), padding=1)


def _rectified(features: Any) -> Any:
    return functional.leaky_relu(features, SLOPE, inplace=True)
