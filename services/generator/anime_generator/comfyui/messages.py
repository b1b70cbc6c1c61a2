"""What a ComfyUI server sends over its WebSocket, as values. Pure.

Source: traffic of a real server (version 0.3.64), kept in `tests/data/comfyui`. Text frames are JSON objects
`{"type": …, "data": {…}}`; binary frames begin with a big-endian 32-bit event: 1 is an image type (1 JPEG, 2 PNG)
and the image, 4 is the length of a JSON text, that text, and the image.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_EVENT = struct.Struct(">I")
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_MEDIA_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True, slots=True)
class NodeState:
    """How far a node is; `state` is pending, running or finished, `node` the one that people see it under."""

    node: str
    state: str
    value: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Began:
    """A prompt has left the queue."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Cached:
    """These nodes need not run: their results are there from an earlier prompt."""

    prompt_id: str
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class States:
    """Every node of a prompt that has begun."""

    prompt_id: str
    nodes: tuple[NodeState, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """A node begins; none is the end of the prompt. After a reconnect the prompt is not named."""

    prompt_id: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step of a node is done."""

    prompt_id: str | None
    node: str | None
    value: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Executed:
    """A node has put something out."""

    prompt_id: str
    node: str
    output: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """A prompt succeeded, failed or was interrupted, as `type` says. The server has not written its history yet."""

    prompt_id: str
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """So many prompts wait or run, whoever sent them."""

    remaining: int


@dataclass(frozen=True, slots=True)
class Image:
    """A preview, or a picture that a node sends rather than saves. Older servers do not say of which prompt."""

    prompt_id: str | None
    node: str | None
    media_type: str
    data: bytes


Message = Began | Cached | States | Executing | Progressed | Executed | Ended | Waiting | Image

ENDS = ("execution_success", "execution_error", "execution_interrupted")


def read_text(text: str | bytes) -> Message | None:
    """A text frame; None for what says nothing about a prompt, of newer servers, or of their extensions."""
    try:
        frame = json.loads(text)
        data = frame["data"]
        return _read(str(frame["type"]), data) if isinstance(data, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_binary(frame: bytes) -> Image | None:
    """A binary frame; None when it is no image."""
    try:
        (event,) = _EVENT.unpack_from(frame)
        (number,) = _EVENT.unpack_from(frame, 4)
        if event == _PREVIEW and number in _MEDIA_TYPES:
            return Image(None, None, _MEDIA_TYPES[number], frame[8:])
        if event == _PREVIEW_WITH_METADATA and 8 + number <= len(frame):
            told = json.loads(frame[8 : 8 + number])
            return Image(_text(told["prompt_id"]), _node(told), str(told["image_type"]), frame[8 + number :])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return None


def _read(kind: str, data: Mapping[str, Any]) -> Message | None:
    if kind in ENDS:
        return Ended(str(data["prompt_id"]), kind, data)
    reader = _READERS.get(kind)
    return reader(data) if reader is not None else None


_READERS: dict[str, Callable[[Mapping[str, Any]], Message]] = {
    "status": lambda data: Waiting(int(data["status"]["exec_info"]["queue_remaining"])),
    "execution_start": lambda data: Began(str(data["prompt_id"])),
    "execution_cached": lambda data: Cached(str(data["prompt_id"]), frozenset(map(str, data["nodes"]))),
    "progress_state": lambda data: States(
        str(data["prompt_id"]), tuple(_state(name, each) for name, each in data["nodes"].items())
    ),
    "executing": lambda data: Executing(_text(data.get("prompt_id")), _node(data)),
    "progress": lambda data: Progressed(
        _text(data.get("prompt_id")), _node(data), float(data["value"]), float(data["max"])
    ),
    "executed": lambda data: Executed(str(data["prompt_id"]), str(_node(data)), data.get("output") or {}),
}


def _state(name: str, state: Mapping[str, Any]) -> NodeState:
    node = str(state.get("display_node_id") or name)
    return NodeState(node, str(state["state"]), float(state["value"]), float(state["max"]))


def _node(data: Mapping[str, Any]) -> str | None:
    """The node that people see: those of a loop or a subgraph are shown under the one that made them."""
    found = data.get("display_node") or data.get("display_node_id") or data.get("node") or data.get("node_id")
    return None if found is None else str(found)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
