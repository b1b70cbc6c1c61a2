"""What generators say and hear: facts about attempts, heartbeats, progress, offers, control."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from anime_common.contracts.vocabulary import AttemptProgress, ModelInfo, Phase, Settings, StagedOutput
from anime_common.messages import Kind, Message, Model

PREVIEWS = "anime.tel.preview.{job_id}.{attempt_id}"
"""Where a worker shows the picture in work: a small JPEG every few steps, nothing around it."""


class AttemptFact(Message):
    """What every fact about an attempt names: the attempt owns the job or the fact changes nothing."""

    job_id: UUID
    attempt_id: UUID
    epoch: int
    worker: str
    incarnation: UUID


class AttemptStarted(
    AttemptFact, wire="generator.started", kind=Kind.EVENT, subject="anime.evt.generator.started.{job_id}"
):
    """A worker has begun an attempt."""

    engine: str
    started_at: datetime


class AttemptFinished(
    AttemptFact, wire="generator.finished", kind=Kind.EVENT, subject="anime.evt.generator.finished.{job_id}"
):
    """All outputs of an attempt lie in staging, fsynced. `timings` are seconds a phase; `settings` what was used."""

    engine: str
    device: str
    settings: Settings
    outputs: tuple[StagedOutput, ...]
    timings: dict[Phase, float]
    warnings: tuple[str, ...] = ()
    finished_at: datetime


class AttemptFailed(
    AttemptFact, wire="generator.failed", kind=Kind.EVENT, subject="anime.evt.generator.failed.{job_id}"
):
    """An attempt ended without its outputs. `counts` is false when the job is not to blame (a group's crash)."""

    code: str
    message: str
    retryable: bool
    counts: bool = True
    failed_at: datetime


class AttemptCancelled(
    AttemptFact, wire="generator.cancelled", kind=Kind.EVENT, subject="anime.evt.generator.cancelled.{job_id}"
):
    """An attempt was stopped as asked; `outputs` are the pictures finished before, staged."""

    settings: Settings | None = None
    outputs: tuple[StagedOutput, ...] = ()
    cancelled_at: datetime


class AttemptReleased(
    AttemptFact, wire="generator.released", kind=Kind.EVENT, subject="anime.evt.generator.released.{job_id}"
):
    """A worker gives an attempt back unharmed (it drains, or cannot run it): to be queued again at once."""

    reason: str
    released_at: datetime


class OfferedJob(Model):
    """One job of an offer."""

    job_id: UUID
    attempt_id: UUID
    attempt: int
    code: str
    project: str
    settings: Settings
    traceparent: str | None = Field(None, description="W3C trace context of the request behind the job.")


class Offer(Message, wire="jobs.offer", kind=Kind.OFFER, subject="anime.dispatch.{worker}"):
    """An offer of one or several jobs to one incarnation of one worker; repeated until listed in a heartbeat.

    All jobs of an offer have an equal `Settings.batch_key()` and may run in one forward pass.
    """

    offer_id: UUID
    repeat: int = 0
    epoch: int
    worker: str
    incarnation: UUID
    jobs: tuple[OfferedJob, ...]


class JobProgress(
    AttemptProgress,
    Message,
    wire="tel.job",
    kind=Kind.TELEMETRY,
    subject="anime.tel.job.{job_id}.{attempt_id}",
):
    """Progress of an attempt; at most 10 a second."""


class HeldAttempt(AttemptProgress):
    """An attempt that a worker holds: waiting, in work, or ended with its fact not yet confirmed by the broker."""

    offer_id: UUID
    started: bool = False
    ended: bool = False


class FactPosition(Model):
    """Where a worker's last fact was stored: the stream's creation time and the sequence."""

    stream_created: str
    sequence: int


class DeviceInfo(Model):
    """The card (or CPU) a worker runs on; memory in bytes."""

    id: str
    kind: Literal["cuda", "cpu", "simulated"]
    name: str
    memory_total: int
    memory_free: int


class Heartbeat(Message, wire="tel.generator", kind=Kind.TELEMETRY, subject="anime.tel.generator.{worker}"):
    """The whole state of a worker, every few seconds and at once on change."""

    worker: str
    incarnation: UUID
    started_at: datetime
    sent_at: datetime
    version: str
    device: DeviceInfo
    engines: tuple[str, ...]
    models: tuple[ModelInfo, ...]
    resident: tuple[str, ...] = ()
    slots: int = Field(description="Offers that can run side by side.")
    free_slots: int
    batch_limit: int = 1
    draining: bool = False
    goodbye: bool = Field(False, description="The last heartbeat of this incarnation: it has let go of everything.")
    attempts: tuple[HeldAttempt, ...] = ()
    last_fact: FactPosition | None = None


class CancelAttempt(Model):
    """Stop an attempt between two steps and say so with a `cancelled` fact."""

    action: Literal["cancel"] = "cancel"
    job_id: UUID
    attempt_id: UUID


class AbandonAttempt(Model):
    """Stop an attempt that is nobody's any more; delete nothing, report nothing."""

    action: Literal["abandon"] = "abandon"
    job_id: UUID
    attempt_id: UUID


class Renew(Model):
    """This incarnation was declared lost: drop everything and come back as a new one."""

    action: Literal["renew"] = "renew"
    incarnation: UUID


class Drain(Model):
    """Finish what runs, give back what waits, take nothing new (until `resume` is true)."""

    action: Literal["drain"] = "drain"
    resume: bool = False


class UnloadModel(Model):
    """Give up a resident model, or all of them, once idle."""

    action: Literal["unload"] = "unload"
    model: str | None = None


Action = Annotated[
    CancelAttempt | AbandonAttempt | Renew | Drain | UnloadModel,
    Field(discriminator="action"),
]


class Control(Message, wire="ctl.generator", kind=Kind.CONTROL, subject="anime.ctl.generator.{worker}"):
    """An order to one worker; safe to repeat."""

    worker: str
    order: Action
