"""Weights move between the device and the machine's own memory here.

On CUDA they wait in pinned pages, which the card copies from directly, several times as fast as from pageable ones.
The modules stay as they are (precision, memory format, hooks): only their tensors change places.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from anime_generator.device import Device


def to_host(modules: Iterable[Any], device: Device) -> None:
    """Move the weights to the machine's own memory; raises RuntimeError when it has no room for them."""
    pinned = device.kind == "cuda"
    copies: dict[int, Any] = {}
    for module in modules:
        for tensor in _tensors(module):
            if id(tensor) not in copies:
                copy = torch.empty_like(tensor.data, device="cpu", pin_memory=pinned)
                copies[id(tensor)] = copy.copy_(tensor.data, non_blocking=pinned)
    _settle(device)
    _replace(modules, copies)


def to_device(modules: Iterable[Any], device: Device) -> None:
    """Bring the weights back; raises torch.OutOfMemoryError, and has moved nothing then."""
    copies: dict[int, Any] = {}
    for module in modules:
        for tensor in _tensors(module):
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.data.to(device.torch_name, non_blocking=True)
    _settle(device)
    _replace(modules, copies)


def _tensors(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def _replace(modules: Iterable[Any], copies: dict[int, Any]) -> None:
    for module in modules:
        for tensor in _tensors(module):
            # Tied weights are seen once for each of their names, and assigned the same copy each time.
            tensor.data = copies[id(tensor)]


def _settle(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize(device.torch_name)
