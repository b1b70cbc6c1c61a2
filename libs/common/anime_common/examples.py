"""Plausible examples of every message and answer, made from their types: the same ones every time.

Documentation shows them, contract tests read them back, and tests start from them. A field is filled from, in this
order: what the caller gives, what is known of the class, the field's own `examples`, what is known of its name, and
its type.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from anime_common.contracts import (
    batches,
    casting,
    characters,
    echo,
    files,
    generation,
    generator,
    jobs,
    projects,
    statistics,
    vocabulary,
)
from anime_common.contracts.vocabulary import JobState

M = TypeVar("M", bound=BaseModel)

JOB = "0198c5a0-7c10-7a3e-9d51-3f6b2c8e4a10"
ATTEMPT = "0198c5a0-8a02-7b71-8c4e-91d05e6f7a21"
OFFER = "0198c5a0-8a01-7c0d-a2b6-5d7e1f90c3b4"
INCARNATION = "0198c59f-0042-7d15-b8a9-0c4f6e2d81a7"
PROJECT = "0198b1e4-3300-7e88-9f10-a7c5d2b46e03"
FILE = "0198c5a0-b5f4-7f2c-8d63-e4b1907a5c38"
COMMAND = "0198c5a0-7c0f-7491-b0d7-62fa8e35c91d"
CODE = "k7m2p9qd"
EXAMPLE_TIME = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SHA = "9f2c5a1e7d3b8c4f6a0e1d2c3b4a59687786950413223140f1e2d3c4b5a69788"
PROMPT = "1girl, blue hair, twintails, smile, classroom"
TIMINGS = {"loading": 0.9, "encoding": 0.1, "sampling": 8.4, "decoding": 0.6, "saving": 0.2}

_NAMES: Mapping[str, Any] = {
    "attempt": 1,
    "attempt_id": ATTEMPT,
    "at": "2026-03-01T12:00:00.500Z",
    "cancelled_at": "2026-03-01T12:00:07Z",
    "client": "tower",
    "clip_skip": 1,
    "command_id": COMMAND,
    "content_url": f"/api/anime/files/{FILE}/content",
    "created_at": "2026-03-01T12:00:00Z",
    "cursor": "MjAyNi0wMy0wMQ",
    "date": "2026-03-01",
    "description": "The morning scenes of episode one.",
    "device": "tower-gpu-0",
    "engine": "diffusers",
    "engines": ["diffusers"],
    "epoch": 1,
    "eta_seconds": 4.5,
    "failed_at": "2026-03-01T12:00:07Z",
    "family": "stable-diffusion-1",
    "fields": ["negative_prompt", "steps", "guidance", "sampler", "seed", "count"],
    "file_id": FILE,
    "finished_at": "2026-03-01T12:00:11Z",
    "free_slots": 0,
    "guidance": 7.0,
    "guidance_rescale": 0.0,
    "height": 512,
    "id": JOB,
    "incarnation": INCARNATION,
    "index": 0,
    "job": CODE,
    "job_id": JOB,
    "job_version": 1,
    "key": f"sunrise/2026-03-01/image/{CODE}_0.png",
    "max_steps": 150,
    "media_type": "image/png",
    "model": "sprite",
    "negative_prompt": "lowres, bad anatomy",
    "offer_id": OFFER,
    "percent": 46.0,
    "position": 1,
    "preset": "fast",
    "priority": "normal",
    "project": "sunrise",
    "project_id": PROJECT,
    "prompt": PROMPT,
    "provider": "builtin",
    "reason": "every provider is away",
    "released_at": "2026-03-01T12:00:07Z",
    "repeat": 0,
    "resident": ["sprite"],
    "sampler": "dpm++ 2m karras",
    "samplers": ["dpm++ 2m karras", "euler a"],
    "seed": 1234567890,
    "sent_at": "2026-03-01T12:00:05Z",
    "sha256": SHA,
    "size": 418_503,
    "slots": 1,
    "slug": "sunrise",
    "started_at": "2026-03-01T12:00:02Z",
    "step": 9,
    "steps": 20,
    "stream_created": "2026-02-01T08:00:00.123456789Z",
    "tags": ["classroom"],
    "thumbnail_key": f"thumbnails/{FILE}.webp",
    "thumbnail_url": f"/api/anime/files/{FILE}/thumbnail",
    "timings": TIMINGS,
    "title": "Sprite",
    "updated_at": "2026-03-01T12:00:11Z",
    "version": 4,
    "warnings": [],
    "width": 512,
    "worker": "tower-0",
}
"""What a field of this name usually holds."""

_OUTPUT = {"file_id": FILE, "key": _NAMES["key"], "index": 0, "seed": _NAMES["seed"], "sha256": SHA, "size": 418_503}

_JSON = dict[str, Any]

_WAITING: _JSON = {
    **dict.fromkeys(("attempt_id", "worker", "parent_id", "error", "message", "prompt_note", "not_before")),
    **dict.fromkeys(("outputs", "timings", "reached", "dispatched_at", "started_at", "ended_at")),
    "attempt": 0,
    "queued_at": "2026-03-01T12:00:00.100Z",
    "updated_at": "2026-03-01T12:00:00.100Z",
}
_OFFERED: _JSON = {
    **_WAITING,
    "attempt_id": ATTEMPT,
    "attempt": 1,
    "worker": "tower-0",
    "dispatched_at": "2026-03-01T12:00:01Z",
    "updated_at": "2026-03-01T12:00:01Z",
}
_RUNNING: _JSON = {**_OFFERED, "started_at": "2026-03-01T12:00:02Z", "updated_at": "2026-03-01T12:00:02Z"}
_ENDED: _JSON = {**_RUNNING, "ended_at": "2026-03-01T12:00:11Z", "updated_at": "2026-03-01T12:00:11Z"}
_ERROR: _JSON = {
    "code": "out_of_memory",
    "message": "the card has too little memory for 2048×2048",
    "retryable": False,
}
_REACHED: _JSON = {"phase": "sampling", "step": 9, "steps": 20, "percent": 46.0}
_JOBS: Mapping[JobState, _JSON] = {
    JobState.PREPARING: {**_WAITING, "queued_at": None},
    JobState.QUEUED: _WAITING,
    JobState.DISPATCHED: _OFFERED,
    JobState.RUNNING: _RUNNING,
    JobState.FILING: {**_RUNNING, "timings": TIMINGS},
    JobState.COMPLETED: {**_ENDED, "timings": TIMINGS, "outputs": [{**_OUTPUT, "width": 512, "height": 512}]},
    JobState.FAILED: {**_ENDED, "failures": 3, "error": _ERROR, "reached": _REACHED},
    JobState.CANCELLED: {**_ENDED, "message": "cancelled", "reached": _REACHED},
}

_STILL: _JSON = dict.fromkeys(("duration", "frames"))

_UPLOAD: _JSON = {
    **dict.fromkeys(("job_id", "attempt_id", "code", "settings", "duration", "frames")),
    "key": "sunrise/2026-03-01/upload/3f9c81ab_00.png",
    "type": "upload",
    "name": "sketch of the rooftop.png",
    "rating": 0,
    "favourite": False,
    "tags": [],
    "version": 1,
}


def _job(state: JobState, version: int = 4) -> _JSON:
    return {**_JOBS[state], "state": state, "version": version}


_CLASSES: Mapping[type[BaseModel], Mapping[str, Any]] = {
    echo.Change: {"kind": "added", "text": "masterpiece"},
    echo.OptimizedPrompt: {"prompt": f"masterpiece, {PROMPT}"},
    generation.GenerationRequest: {
        **dict.fromkeys(("not_before", "init_image", "mask", "strength", "hires", "upscale", "workflow")),
        "width": 512,
        "project": "sunrise",
        "loras": [{"key": "ink-style"}],
    },
    generation.Settings: dict.fromkeys(("init_image", "mask", "strength", "hires", "upscale", "workflow")),
    casting.CharacterUse: {"character": "yuki", "version": None, "words": "waving", "outfit": None},
    casting.Piece: {"source": "request", "text": PROMPT, "character": None},
    casting.UsedCharacter: {"slug": "yuki", "name": "Yuki", "version": 2},
    characters.Content: {
        "name": "Yuki",
        "aliases": ["Snow"],
        "design_prompt": "",
        "negative_prompt": "",
        "seed": {"mode": "scene", "seed": None},
        "references": [{"file_id": FILE, "note": "front"}],
    },
    characters.Canon: {
        "figure": "girl",
        "species": None,
        "hair": ["long hair", "silver hair"],
        "eyes": ["red eyes"],
        "skin": ["pale skin"],
        "outfit": ["school uniform"],
        "accessories": ["hair ribbon"],
        "key_colours": [{"part": "hair ribbon", "name": "crimson", "hex": "#c2183c"}],
        "traits": ["small fang"],
        "never": ["glasses"],
    },
    characters.CanonChanges: {"key_colours": [{"part": "hair ribbon", "name": "crimson"}]},
    characters.KeyColour: {"part": "hair ribbon", "name": "crimson", "hex": "#c2183c"},
    characters.CharacterLora: {"key": "yuki-v2", "weight": 0.8, "trigger": "yuki"},
    characters.NewCharacter: {"slug": "yuki", "note": "as in the pilot"},
    characters.CharacterChanges: {
        "lora": {"key": "yuki-v2"},
        "references": [{"file_id": FILE}],
        "seed": {"mode": "free", "seed": None},
    },
    characters.SeedPolicy: {"mode": "fixed", "seed": 7},
    characters.Character: {"slug": "yuki", "version": 2, "versions": 3, "revision": 4},
    characters.CharacterVersion: {"version": 2, "current": True},
    characters.CharacterRef: {"character": "yuki"},
    characters.CompareVersions: {"before": 1, "after": 2},
    characters.Difference: {
        "field": "canon.hair",
        "before": "long hair",
        "after": "short hair",
        "added": ["short hair"],
        "removed": ["long hair"],
    },
    batches.Axis: {"name": "hair", "values": ["silver hair", "black hair"]},
    batches.Batch: {
        "code": "b4k7m2p9",
        "name": "Hair and scenes",
        "total": 4,
        "counts": {"completed": 3, "running": 1},
        "percent": 75.0,
        "sheet": None,
        "ended_at": None,
        "paused": False,
    },
    batches.SheetPlan: {
        "title": "Hair and scenes",
        "column_axis": "hair",
        "columns": ["silver hair", "black hair"],
        "row_axis": "scene",
        "rows": ["rooftop", "classroom"],
    },
    batches.SheetCell: {"row": 0, "column": 1, "label": ""},
    batches.BatchEnded: {"batch": {"ended_at": "2026-03-01T12:00:11Z", "percent": 100.0, "counts": {"completed": 4}}},
    batches.NewBatch: {
        "name": "Hair and scenes",
        "request": {"prompt": "1girl, {hair}, {scene}", "priority": "batch", "loras": []},
        "prompts": [],
        "variables": {"hair": ["silver hair", "black hair"], "scene": ["rooftop", "classroom"]},
        "casts": [],
        "vary": {"steps": [4, 12]},
        "seeds": [],
        "count": 2,
        "dynamic": None,
        "sheet": {"columns": "hair", "rows": "scene"},
        "not_before": None,
    },
    batches.Dynamic: {"choose": "all", "count": None, "seed": None},
    batches.Sample: {"prompt": "1girl, silver hair, rooftop", "labels": {"hair": "silver hair", "scene": "rooftop"}},
    batches.RetryBatch: {"code": "out_of_memory"},
    batches.BatchRef: {"batch": "b4k7m2p9"},
    vocabulary.JobError: {"code": "out_of_memory", "message": "the card has too little memory", "retryable": False},
    vocabulary.LoraUse: {"key": "ink-style", "weight": 0.7},
    vocabulary.LoraInfo: {"key": "ink-style", "title": "Ink style", "family": "sd15", "trigger_words": ["ink style"]},
    vocabulary.EmbeddingInfo: {"key": "easy-negative", "title": "EasyNegative", "family": "sd15"},
    vocabulary.Preset: {"name": "fast", "title": "Fast", "steps": 6, "guidance": 1.5},
    vocabulary.ModelInfo: {"key": "sprite", "default": True},
    vocabulary.SizeLimits: {"minimum": 64, "maximum": 1024, "multiple": 8},
    vocabulary.StagedOutput: _STILL,
    vocabulary.Output: _STILL,
    vocabulary.Reached: _REACHED,
    vocabulary.AttemptProgress: {"phase": "sampling", "image": 0, "images": 1, "preview": True},
    vocabulary.Progress: {
        "state": "running",
        "phase": "sampling",
        "position": None,
        "attempt_id": ATTEMPT,
        "preview_url": f"/api/anime/jobs/{JOB}/preview",
        "message": None,
    },
    jobs.SubmitJob: {"expires_at": None},
    jobs.JobQuery: {"batch": "b4k7m2p9"},
    jobs.RetryFilter: {"code": "out_of_memory", "batch": "b4k7m2p9", "since": "2026-03-01T12:00:00Z"},
    statistics.History: {"submitted": {"completed": 41, "failed": 1}, "completed": 41, "failed": 1, "cancelled": 0},
    statistics.ModelSpeed: {"within_target": 0.98},
    statistics.Retries: {"codes": {"out_of_memory": 1}},
    statistics.EchoUse: {"reasons": {"no answer from Echo in 20 s": 1}},
    jobs.Retried: {"codes": {"out_of_memory": 1}},
    jobs.Job: {"code": CODE, "batch_id": None, "labels": {}, "paused": False, "failures": 0, **_job(JobState.QUEUED)},
    jobs.JobChanges: {
        "priority": "interactive",
        "not_before": None,
        "paused": None,
        "before": None,
        "after": None,
        "move": "front",
    },
    jobs.JobAccepted: {"job": _job(JobState.QUEUED, version=1)},
    jobs.JobQueued: {"job": _job(JobState.QUEUED, version=2)},
    jobs.JobDispatched: {"job": _job(JobState.DISPATCHED, version=3)},
    jobs.JobStarted: {"job": _job(JobState.RUNNING, version=4)},
    jobs.JobFiling: {"job": _job(JobState.FILING, version=5)},
    jobs.JobCompleted: {"job": _job(JobState.COMPLETED, version=6)},
    jobs.JobFailed: {"job": _job(JobState.FAILED, version=9)},
    jobs.JobCancelled: {"job": _job(JobState.CANCELLED, version=6)},
    jobs.JobUpdated: {"job": {**_job(JobState.QUEUED, version=3), "priority": "interactive"}},
    jobs.CommandDone: {"status": 201, "job": _job(JobState.QUEUED)},
    jobs.CommandRefused: {
        "status": 422,
        "code": "unknown_model",
        "message": "no worker has announced the model 'spritee'; there is: sprite",
        "field": "request.model",
    },
    projects.Project: {
        "id": PROJECT,
        "name": "Sunrise",
        "jobs": 12,
        "counts": {"completed": 11, "failed": 1},
        "cover": FILE,
    },
    projects.StyleChanges: {"loras": [{"key": "ink-style"}], "prompt_prefix": "anime screencap"},
    projects.NewProject: {"name": "Sunrise", "cover": None},
    projects.ProjectStyle: {
        "prompt_prefix": "anime screencap",
        "prompt_suffix": "soft lighting",
        "loras": [{"key": "ink-style"}],
        "width": 512,
        "height": 768,
    },
    jobs.QueueEntry: {"code": CODE, "message": None, "state": "queued"},
    jobs.CatalogueEntry: {"workers": ["tower-0"]},
    jobs.QueueState: {"waiting": 1, "workers": 1, "counts": {"queued": 1, "running": 1}},
    generator.AttemptFailed: {"code": "out_of_memory", "message": "the card has too little memory", "counts": True},
    generator.AttemptReleased: {"reason": "the worker drains"},
    generator.AttemptFinished: {"timings": TIMINGS},
    generator.OfferedJob: {"code": CODE},
    generator.DeviceInfo: {
        "id": "tower-gpu-0",
        "kind": "cuda",
        "name": "NVIDIA GeForce RTX 3060",
        "memory_total": 12 << 30,
        "memory_free": 7 << 30,
    },
    generator.HeldAttempt: {"started": True, "ended": False},
    generator.ResidentModel: {
        "key": "sprite",
        "tier": "device",
        "bytes": 18_350_080,
        "measured": True,
        "preloaded": True,
        "reason": "drew the last job",
    },
    generator.Heartbeat: {
        "version": "0.1.0",
        "batch_limit": 4,
        "batch_limits": {"counterfeit": 2},
        "draining": False,
        "goodbye": False,
    },
    generator.FactPosition: {"sequence": 4711},
    files.FilingFailed: {"code": "corrupt", "message": "the sha256 of a staged file is not the promised one"},
    files.FileView: {
        **_STILL,
        "id": FILE,
        "code": CODE,
        "name": None,
        "rating": 4,
        "favourite": True,
        "trashed_at": None,
    },
    files.FileTrashed: {"file": {"trashed_at": "2026-03-01T12:00:11Z"}},
    files.FileUploaded: {"file": _UPLOAD},
    files.RegisterUpload: {"id": FILE, "name": "sketch of the rooftop.png"},
}
"""What is known of a class beyond the names of its fields; None leaves a field out. Subclasses inherit it."""


def example(cls: type[M], **given: Any) -> M:
    """An example of a model, valid by its own rules; `given` replaces fields (JSON values; None leaves one out)."""
    return cls.model_validate_json(json.dumps(_object(cls, given)))


def _object(cls: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        known |= _CLASSES.get(base, {})
    known |= given
    values = {name: _field(name, info, known) for name, info in cls.model_fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def _field(name: str, info: FieldInfo, known: Mapping[str, Any]) -> Any:
    model = _model_in(info.annotation)
    if name in known:
        value = known[name]
        return _object(model, value) if model is not None and isinstance(value, dict) else value
    if info.examples:
        return info.examples[0]
    if name in _NAMES and model is None:
        return _NAMES[name]
    return _of(info.annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds directly (not in a collection), if it does."""
    plain = _plain(annotation)
    return plain if isinstance(plain, type) and issubclass(plain, BaseModel) else None


def _plain(annotation: Any) -> Any:
    """An annotation without `Annotated` and `None`; of a union, the first member."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return _plain(next(member for member in get_args(annotation) if member is not type(None)))
    return annotation


_SCALARS: Mapping[Any, Any] = {
    bool: False,
    int: 1,
    float: 1.0,
    str: "text",
    UUID: JOB,
    datetime: "2026-03-01T12:00:00Z",
    date: "2026-03-01",
}


def _of(annotation: Any) -> Any:
    """An example of a type."""
    plain = _plain(annotation)
    origin, arguments = get_origin(plain), get_args(plain)
    if origin is tuple:
        return [_of(arguments[0])]
    if origin is dict:
        return {_of(arguments[0]): _of(arguments[1])}
    if origin is Literal:
        return arguments[0]
    if issubclass(plain, BaseModel):
        return _object(plain, {})
    if issubclass(plain, Enum):
        return next(iter(plain)).value
    return _SCALARS[plain]
