"""The header of a safetensors file: names, types and shapes of its tensors, without reading one of them.

A file is an unsigned 64-bit little-endian length, a JSON text of that length, and the bytes of the tensors, one after
another without gaps. Source: https://github.com/huggingface/safetensors (Format).
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

MAX_HEADER = 100_000_000
"""Bytes; what the safetensors library takes at most."""

_LENGTH = struct.Struct("<Q")
_BITS = {
    "BOOL": 8,
    **dict.fromkeys(("U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E5M2": "float8",
    "F8_E4M3": "float8",
}


class HeaderError(Exception):
    """That is no whole safetensors file; the text says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type (such as F16), shape and bytes of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself; `size` is the whole file in bytes."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    size: int

    @property
    def dtype(self) -> str:
        """The type that most bytes have, by its usual name."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counted[tensor.dtype] += tensor.size
        if not counted:
            return ""
        most = counted.most_common(1)[0][0]
        return _NAMES.get(most, most.lower())

    @property
    def parameters(self) -> int:
        """How many numbers it holds, those kept beside the weights for training (EMA) left out."""
        return sum(math.prod(each.shape) for name, each in self.tensors.items() if not name.startswith("model_ema."))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; empty when there is none of that name."""
        found = self.tensors.get(name)
        return found.shape if found is not None else ()


def read_header(path: Path) -> Header:
    """The header of the file at `path`; raises HeaderError, also for a file that is cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return parse_header(file, size)
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}") from error


def parse_header(file: BinaryIO, size: int) -> Header:
    """The header of a file of `size` bytes, which is read no further than that; raises HeaderError."""
    start = file.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        raise HeaderError(f"is no safetensors file: it has {size} bytes only")
    (length,) = _LENGTH.unpack(start)
    if length > MAX_HEADER:
        raise HeaderError("is no safetensors file: its header would be too long")
    if _LENGTH.size + length > size:
        raise HeaderError(f"is cut off: its header alone has {length} bytes, the file {size}")
    text = file.read(length)
    if len(text) < length:
        raise HeaderError("is cut off within its header")
    tables = _tables(text)
    metadata = _metadata(tables.pop("__metadata__", {}))
    spans: list[tuple[int, int]] = []
    tensors = {name: _tensor(name, table, spans) for name, table in tables.items()}
    _check_spans(spans, size - _LENGTH.size - length)
    return Header(tensors, metadata, size)


def _tables(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"is no safetensors file: its header is not JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise HeaderError("is no safetensors file: its header is not a table")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise HeaderError("is no safetensors file: its __metadata__ is not a table of texts")
    return found


def _tensor(name: str, table: object, spans: list[tuple[int, int]]) -> Tensor:
    wrong = HeaderError(f"is no safetensors file: the entry of the tensor {name[:80]!r} is not one")
    if not isinstance(table, dict):
        raise wrong
    dtype, shape, offsets = table.get("dtype"), table.get("shape"), table.get("data_offsets")
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    if begin > end:
        raise wrong
    bits = _BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise HeaderError(f"is damaged: the tensor {name[:80]!r} has not the bytes that its shape needs")
    spans.append((begin, end))
    return Tensor(dtype, tuple(shape), end - begin)


def _counts(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(each) is int and 0 <= each < 2**63 for each in found)


def _check_spans(spans: list[tuple[int, int]], room: int) -> None:
    """The tensors fill the rest of the file without gaps, or it is damaged."""
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise HeaderError("is damaged: its tensors do not lie one after another")
        reached = end
    if reached > room:
        missing = reached - room
        raise HeaderError(f"is cut off: {missing} of the {reached} bytes of its tensors are missing")
    if reached < room:
        raise HeaderError(f"is damaged: {room - reached} bytes follow its last tensor")
