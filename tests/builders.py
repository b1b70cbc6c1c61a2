"""Builders of plausible contract values: every argument has a default, so a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from anime_common.contracts.generation import GenerationRequest, Settings
from anime_common.contracts.generator import DeviceInfo, Heartbeat, HeldAttempt
from anime_common.contracts.jobs import Job
from anime_common.contracts.vocabulary import JobState, ModelInfo, Output, Phase, Sampler, SizeLimits, StagedOutput
from anime_common.messages import uuid7

NOON = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DEFAULT_PROJECT = UUID("00000000-0000-7000-8000-000000000001")


def later(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def request(**fields: Any) -> GenerationRequest:
    """A request."""
    return GenerationRequest.model_validate({"prompt": "1girl, blue hair", **fields})


def settings(**fields: Any) -> Settings:
    """Settings of a picture."""
    defaults: dict[str, Any] = {
        "prompt": "1girl, blue hair",
        "model": "noop",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 4.0,
        "sampler": Sampler.DPMPP_2M,
        "seed": 7,
    }
    return Settings.model_validate(defaults | fields)


def model_info(**fields: Any) -> ModelInfo:
    """A model that a worker announces."""
    defaults: dict[str, Any] = {
        "key": "noop",
        "engine": "noop",
        "default": True,
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 4.0,
        "sampler": Sampler.DPMPP_2M,
        "sizes": SizeLimits(minimum=64, maximum=512, multiple=8),
    }
    return ModelInfo.model_validate(defaults | fields)


def job(**fields: Any) -> Job:
    """A queued job."""
    defaults: dict[str, Any] = {
        "id": uuid7(NOON),
        "code": "abcd2345",
        "version": 1,
        "epoch": 1,
        "state": JobState.QUEUED,
        "client": "gateway",
        "project_id": DEFAULT_PROJECT,
        "project": "default",
        "priority": "normal",
        "request": request(),
        "settings": settings(),
        "created_at": NOON,
        "updated_at": NOON,
        "queued_at": NOON,
    }
    return Job.model_validate(defaults | fields)


def staged(index: int = 0, **fields: Any) -> StagedOutput:
    """A staged picture."""
    defaults: dict[str, Any] = {
        "index": index,
        "seed": 7 + index,
        "sha256": f"{index:064x}",
        "size": 100,
        "media_type": "image/png",
        "width": 64,
        "height": 64,
    }
    return StagedOutput.model_validate(defaults | fields)


def output(index: int = 0, **fields: Any) -> Output:
    """A filed picture."""
    key = f"default/2026-06-01/image/abcd2345_{index:02d}.png"
    defaults: dict[str, Any] = {"file_id": uuid7(NOON), "key": key, **staged(index).model_dump()}
    return Output.model_validate(defaults | fields)


def held(**fields: Any) -> HeldAttempt:
    """An attempt that a worker lists."""
    defaults: dict[str, Any] = {
        "job_id": uuid7(NOON),
        "attempt_id": uuid7(NOON),
        "offer_id": uuid7(NOON),
        "phase": Phase.SAMPLING,
    }
    return HeldAttempt.model_validate(defaults | fields)


def heartbeat(**fields: Any) -> Heartbeat:
    """The heartbeat of an idle worker."""
    defaults: dict[str, Any] = {
        "worker": "w1",
        "incarnation": uuid7(NOON),
        "started_at": NOON,
        "sent_at": NOON,
        "version": "0",
        "device": DeviceInfo(id="cpu", kind="cpu", name="CPU", memory_total=1, memory_free=1),
        "engines": ("noop",),
        "models": (model_info(),),
        "resident": ("noop",),
        "slots": 1,
        "free_slots": 1,
    }
    return Heartbeat.model_validate(defaults | fields)
