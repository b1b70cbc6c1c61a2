"""What is kept with a prompt on the server, for us to find it again: whose it is, and the job that it is for. Pure.

A server knows nothing of jobs, and outlives us. A worker that has been started anew reads here what it was drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from pydantic import ValidationError

from anime_common.contracts.generator import OfferedJob
from anime_common.messages import Model
from anime_generator.comfyui.records import PENDING, RUNNING, ended, queued

NAME = "tower_anime"
"""Of our part of a prompt's extra data."""
RECENT = 86_400.0
"""Seconds after its end for which a prompt may still be taken up: the ledger may have been away as long as we."""
LATEST = 4
"""Attempts that have ended which are taken up at most: a worker has one in work, and few on their way out."""


class Mark(Model):
    """Our part of a prompt's extra data. `worker` drives the server; `index` is the picture of the job."""

    worker: str
    offer_id: UUID
    epoch: int
    index: int
    job: OfferedJob


@dataclass(frozen=True, slots=True)
class Ours:
    """A prompt of a worker. `ended_at` is when it ended, in seconds since 1970; None while it waits or runs."""

    prompt_id: str
    mark: Mark
    running: bool = False
    ended_at: float | None = None


def prompt_id_of(attempt_id: UUID, index: int, tries: int) -> str:
    """The id of the prompt for a picture: that of the attempt for the first, made of it for all others."""
    if index == 0 and tries == 0:
        return str(attempt_id)
    return str(uuid5(attempt_id, f"{index}/{tries}"))


def extra_of(mark: Mark) -> dict[str, Any]:
    """What goes with the prompt."""
    return {NAME: mark.model_dump(mode="json")}


def ours(worker: str, queue: Mapping[str, Any], history: Mapping[str, Any]) -> tuple[Ours, ...]:
    """The prompts of a worker that a server knows, those that wait or run first."""
    return tuple(_ours(worker, queue, history))


def resumable(found: tuple[Ours, ...], now: float) -> tuple[Mark, ...]:
    """What a worker that comes back can go on with: a mark for each attempt that waits, runs or has ended lately.

    Most of those that have ended are done with; the ledger says so as soon as it hears of them.
    """
    alive = {each.mark.job.attempt_id: each.mark for each in reversed(found) if each.ended_at is None}
    over: dict[UUID, Mark] = {}
    for each in sorted(found, key=lambda each: -(each.ended_at or 0.0)):
        recent = each.ended_at is not None and now - each.ended_at < RECENT
        if recent and each.mark.job.attempt_id not in alive:
            over.setdefault(each.mark.job.attempt_id, each.mark)
    return (*reversed(alive.values()), *tuple(over.values())[:LATEST])


def _ours(worker: str, queue: Mapping[str, Any], history: Mapping[str, Any]) -> Iterator[Ours]:
    for part in (RUNNING, PENDING):
        for entry in queued(queue, part):
            mark = _mark(worker, entry[3] if len(entry) > 3 else None)
            if mark is not None:
                yield Ours(str(entry[1]), mark, running=part == RUNNING)
    for prompt_id, entry in history.items():
        if isinstance(entry, Mapping):
            mark = _mark(worker, ended(entry).extra)
            if mark is not None:
                yield Ours(prompt_id, mark, ended_at=_ended_at(entry))


def _mark(worker: str, extra: object) -> Mark | None:
    said = extra.get(NAME) if isinstance(extra, Mapping) else None
    try:
        mark = Mark.model_validate(said)
    except ValidationError:
        return None  # somebody else's, or of a version that we are not
    return mark if mark.worker == worker else None


def _ended_at(entry: Mapping[str, Any]) -> float:
    """When it ended, by the last of the server's messages about it; long ago when those do not say."""
    messages = (entry.get("status") or {}).get("messages") or ()
    stamps = [
        told[1]["timestamp"] / 1000
        for told in messages
        if isinstance(told, list) and len(told) == 2 and isinstance(told[1], Mapping)
        if isinstance(told[1].get("timestamp"), int | float)
    ]
    return max(stamps, default=0.0)
