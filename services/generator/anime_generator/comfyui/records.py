"""What a ComfyUI server says of prompts when it is asked: its queue and its history. Pure.

Ask for the queue first and the history second: a prompt goes from one to the other, so that the other way round it is
missed in between. One that is in neither is not known to the server (any more): its memory does not outlive it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Where(StrEnum):
    """Where a prompt is."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    NOWHERE = "nowhere"


class Outcome(StrEnum):
    """How a prompt ended."""

    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class File:
    """A file that a node put out; `place` is output, temp or input, `kind` the list that it stood in."""

    node: str
    kind: str
    name: str
    subfolder: str
    place: str
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as queue or history tell of it; `ahead` are those that run before it."""

    where: Where
    ahead: int = 0
    outcome: Outcome | None = None
    files: tuple[File, ...] = ()
    error: Mapping[str, Any] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)


NOWHERE = Prompt(Where.NOWHERE)
RUNNING, PENDING = "queue_running", "queue_pending"
"""The two parts of the queue."""
_ENDINGS = {
    "execution_success": Outcome.SUCCESS,
    "execution_error": Outcome.ERROR,
    "execution_interrupted": Outcome.INTERRUPTED,
}


def find(prompt_id: str, queue: Mapping[str, Any], history: Mapping[str, Any]) -> Prompt:
    """Where a prompt is; `queue` is the answer of `/queue`, `history` that of `/history/<prompt_id>` asked after it."""
    if isinstance(entry := history.get(prompt_id), Mapping):
        return ended(entry)
    for number, each in enumerate(queued(queue, RUNNING)):
        if each[1] == prompt_id:
            return Prompt(Where.RUNNING, number, extra=_extra(each))
    pending = sorted(queued(queue, PENDING), key=lambda each: each[0])
    for number, each in enumerate(pending):
        if each[1] == prompt_id:
            return Prompt(Where.PENDING, number + len(list(queued(queue, RUNNING))), extra=_extra(each))
    return NOWHERE


def queued(queue: Mapping[str, Any], part: str) -> Iterator[list[Any]]:
    """The entries of one part of the queue: number, prompt id, nodes, extra data, outputs."""
    entries = queue.get(part)
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, list) and len(each) >= 2 and isinstance(each[0], int | float):
            yield each


def waiting(queue: Mapping[str, Any]) -> int:
    """How many prompts wait or run."""
    return sum(1 for part in (RUNNING, PENDING) for _ in queued(queue, part))


def ended(entry: Mapping[str, Any]) -> Prompt:
    """How a prompt ended, by its entry in the history. Failed and interrupted differ by their messages alone."""
    status = entry.get("status") or {}
    told = {str(each[0]): each[1] for each in status.get("messages") or () if isinstance(each, list) and len(each) == 2}
    outcome = next((ending for name, ending in _ENDINGS.items() if name in told), None)
    if outcome is None:
        outcome = Outcome.SUCCESS if status.get("status_str") == "success" else Outcome.ERROR
    cached = told.get("execution_cached", {}).get("nodes") or ()
    prompt = entry.get("prompt")
    return Prompt(
        Where.ENDED,
        outcome=outcome,
        files=files_of(entry.get("outputs") or {}),
        error=told.get("execution_error", {}),
        cached=frozenset(map(str, cached)),
        extra=_extra(prompt) if isinstance(prompt, list) else {},
    )


def files_of(outputs: Mapping[str, Any]) -> tuple[File, ...]:
    """Every file in the outputs of a prompt: videos stand under `gifs` or `images`, sounds under `audio`, …"""
    return tuple(each for node, output in outputs.items() for each in _files(str(node), output))


def _files(node: str, output: object) -> Iterator[File]:
    for kind, entries in output.items() if isinstance(output, Mapping) else ():
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, Mapping) and isinstance(each.get("filename"), str) and each["filename"]:
                yield File(
                    node=node,
                    kind=str(kind),
                    name=each["filename"],
                    subfolder=str(each.get("subfolder") or ""),
                    place=str(each.get("type") or "output"),
                    media_type=str(each.get("format") or ""),
                )


def _extra(entry: list[Any]) -> Mapping[str, Any]:
    extra = entry[3] if len(entry) > 3 else None
    return extra if isinstance(extra, Mapping) else {}
