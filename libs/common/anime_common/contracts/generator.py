"""What generators say and hear: facts about attempts, heartbeats, progress, offers, control."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from anime_common.contracts.generation import Settings
from anime_common.contracts.vocabulary import (
    AttemptProgress,
    EmbeddingInfo,
    LoraInfo,
    ModelInfo,
    ModelKey,
    NodeCost,
    Phase,
    Prose,
    Reached,
    StagedOutput,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc

PREVIEWS = "anime.tel.preview.{job_id}.{attempt_id}"
"""Where a worker shows the picture in work: a small JPEG every few steps, nothing around it."""


class AttemptFact(Message):
    """What every fact about an attempt names: the attempt owns the job or the fact changes nothing."""

    identity: ClassVar[str] = "{epoch}:{type}:{job_id}:{attempt_id}"

    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt; a fact of one that does not own the job changes nothing.")
    epoch: int = Field(description="Epoch of the offer.")
    worker: str = Field(description="Name of the worker.")
    incarnation: UUID = Field(description="Incarnation of the worker: new at each start.")


class AttemptStarted(
    AttemptFact, wire="generator.started", kind=Kind.EVENT, subject="anime.evt.generator.started.{job_id}"
):
    """A worker has begun an attempt."""

    engine: str = Field(description="Engine that runs it.")
    started_at: datetime = Field(description="When work began.")


class AttemptFinished(
    AttemptFact, wire="generator.finished", kind=Kind.EVENT, subject="anime.evt.generator.finished.{job_id}"
):
    """All outputs of an attempt lie in staging, fsynced. `timings` are seconds a phase; `settings` what was used."""

    engine: str = Field(description="Engine that ran it.")
    device: str = Field(description="Id of the device it ran on.")
    settings: Settings = Field(description="What was really used.")
    outputs: tuple[StagedOutput, ...] = Field(description="The files in staging.")
    timings: dict[Phase, float] = Field(description="Seconds a phase.")
    warnings: tuple[Prose, ...] = Field((), description="What went otherwise than asked, for people.")
    workflow: str | None = Field(None, description="The workflow that drew it, of an engine that has such.")
    costs: tuple[NodeCost, ...] = Field((), description="What each of its nodes cost, the dearest first.")
    finished_at: datetime = Field(description="When the last file was safe.")


class AttemptFailed(
    AttemptFact, wire="generator.failed", kind=Kind.EVENT, subject="anime.evt.generator.failed.{job_id}"
):
    """An attempt ended without its outputs. `counts` is false when the job is not to blame (a group's crash)."""

    code: str = Field(description="What went wrong, for programs: stable.")
    message: Prose = Field(description="What went wrong, for people.")
    retryable: bool = Field(description="Whether trying again may help.")
    counts: bool = Field(
        True, description="Whether it uses up one of the job's tries; false when the job is not to blame."
    )
    reached: Reached | None = Field(None, description="How far it came.")
    engine: str = Field("", description="Engine that ran it.")
    timings: dict[Phase, float] = Field(default_factory=dict, description="Seconds a phase, until it failed.")
    workflow: str | None = Field(None, description="The workflow that ran, of an engine that has such.")
    costs: tuple[NodeCost, ...] = Field((), description="What each of its nodes cost, the dearest first.")
    failed_at: datetime = Field(description="When it failed.")


class AttemptCancelled(
    AttemptFact, wire="generator.cancelled", kind=Kind.EVENT, subject="anime.evt.generator.cancelled.{job_id}"
):
    """An attempt was stopped as asked; `outputs` are the pictures finished before, staged."""

    settings: Settings | None = Field(None, description="What was used; absent when nothing was drawn.")
    outputs: tuple[StagedOutput, ...] = Field((), description="The pictures finished before, in staging.")
    reached: Reached | None = Field(None, description="How far it came.")
    cancelled_at: datetime = Field(description="When it stopped.")


class AttemptReleased(
    AttemptFact, wire="generator.released", kind=Kind.EVENT, subject="anime.evt.generator.released.{job_id}"
):
    """A worker gives an attempt back unharmed (it drains, or cannot run it): to be queued again at once."""

    reason: Prose = Field(description="Why, for people.")
    released_at: datetime = Field(description="When it was given back.")


class OfferedJob(Model):
    """One job of an offer."""

    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt: names ownership and the staging folder.")
    attempt: int = Field(description="Number of the attempt, from 1.")
    code: str = Field(description="Short id of the job.")
    project: str = Field(description="Slug of the project.")
    settings: Settings = Field(description="What to draw.")
    traceparent: str | None = Field(None, description="W3C trace context of the request behind the job.")


class Offer(Message, wire="jobs.offer", kind=Kind.OFFER, subject="anime.dispatch.{worker}"):
    """An offer of one or several jobs to one incarnation of one worker; repeated until listed in a heartbeat.

    All jobs of an offer have an equal `Settings.batch_key()` and may run in one forward pass.
    """

    identity: ClassVar[str] = "{epoch}:{type}:{offer_id}[:{repeat}]"

    offer_id: UUID = Field(description="The offer; heartbeats list what is held of it.")
    repeat: int = Field(0, description="Number of the repeat; 0 the first time.")
    epoch: int = Field(description="The ledger's epoch.")
    worker: str = Field(description="Name of the worker.")
    incarnation: UUID = Field(description="The only incarnation that may take it.")
    jobs: tuple[OfferedJob, ...] = Field(description="What to run: one job, or several in one batch.")


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

    offer_id: UUID = Field(description="The offer it came with.")
    started: bool = Field(False, description="Whether work has begun.")
    ended: bool = Field(False, description="Whether it has ended, its last fact not yet confirmed.")


class FactPosition(Model):
    """Where a worker's last fact was stored: the stream's creation time and the sequence."""

    stream_created: str = Field(description="When the stream was created: its identity.")
    sequence: int = Field(description="Sequence in that stream.")


class DeviceInfo(Model):
    """The card (or CPU) a worker runs on; memory in bytes."""

    id: str = Field(description="Name of the device; workers on one card share it.")
    kind: Literal["cuda", "cpu", "simulated", "other"] = Field(
        description="What it is; other: a kind that only a server which draws for us knows."
    )
    name: str = Field(description="Name for people.")
    memory_total: int = Field(description="Bytes.")
    memory_free: int = Field(description="Bytes.")


class ResidentModel(Model):
    """A model that is, or was, in a worker's memory."""

    key: str = Field(description="Key of the model.")
    tier: Literal["device", "host"] | None = Field(
        None,
        description="Where its weights lie: `device`, ready to draw; `host`, the machine's own memory, from where they "
        "come back by a copy; absent once given up.",
    )
    bytes: int = Field(description="What the weights take.")
    measured: bool = Field(False, description="Whether that was measured; else it is the registry's estimate.")
    last_used: datetime | None = Field(None, description="When it last drew or was loaded.")
    preloaded: bool = Field(False, description="Whether it is loaded before the first job; goes after others.")
    pinned: bool = Field(False, description="Whether it goes last of all.")
    reason: str = Field("", description="Why it is where it is, for people.")


class Heartbeat(Message, wire="tel.generator", kind=Kind.TELEMETRY, subject="anime.tel.generator.{worker}"):
    """The whole state of a worker, every few seconds and at once on change."""

    worker: str = Field(description="Name of the worker.")
    incarnation: UUID = Field(description="New at each start.")
    started_at: datetime = Field(description="When this incarnation began.")
    sent_at: datetime = Field(description="When this was sent; an older one is dropped.")
    version: str = Field(description="Version of the software.")
    device: DeviceInfo = Field(description="The card or CPU it runs on.")
    engines: tuple[str, ...] = Field(description="Engines it has.")
    models: tuple[ModelInfo, ...] = Field(description="Models it can run.")
    loras: tuple[LoraInfo, ...] = Field((), description="LoRAs it has; each fits the models of its family.")
    embeddings: tuple[EmbeddingInfo, ...] = Field(
        (), description="Textual-inversion embeddings it has; each fits the models of its family."
    )
    brief: bool = Field(
        False, description="LoRAs and embeddings are left out: they are as this incarnation told them last."
    )
    warnings: tuple[str, ...] = Field((), description="What somebody should mend, for people.")
    resident: tuple[str, ...] = Field((), description="Keys of the models in memory, ready to draw.")
    residency: tuple[ResidentModel, ...] = Field(
        (), description="Every model in its memory, or given up lately, and why; most recently used last."
    )
    slots: int = Field(description="Offers that can run side by side.")
    free_slots: int = Field(description="Slots without an offer.")
    batch_limit: int = Field(1, description="Jobs it can run in one forward pass.")
    batch_limits: dict[str, int] = Field(
        default_factory=dict,
        description="The same by model, where memory has shown that fewer fit; shrinks and grows as it learns.",
    )
    backlog: int | None = Field(
        None, description="Prompts of others in the queue of the server that draws for it; absent: there is none."
    )
    draining: bool = Field(False, description="Whether it takes nothing new.")
    goodbye: bool = Field(False, description="The last heartbeat of this incarnation: it has let go of everything.")
    attempts: tuple[HeldAttempt, ...] = Field((), description="Every attempt it holds.")
    last_fact: FactPosition | None = Field(None, description="Where its last fact was stored; absent before the first.")

    def catalogue(self) -> tuple[ModelInfo, ...]:
        """Its models, each with the LoRAs and embeddings that fit it."""
        return tuple(
            model.model_copy(
                update={
                    "loras": tuple(each for each in self.loras if each.fits(model.family, model.key)),
                    "embeddings": tuple(each for each in self.embeddings if each.family == model.family),
                }
            )
            for model in self.models
        )

    def completed(self, before: Heartbeat) -> Heartbeat:
        """A brief one with what the one before told, if that was of the same incarnation."""
        if not self.brief or before.brief or before.incarnation != self.incarnation:
            return self
        return self.model_copy(update={"loras": before.loras, "embeddings": before.embeddings, "brief": False})


class CancelAttempt(Model):
    """Stop an attempt between two steps and say so with a `cancelled` fact."""

    action: Literal["cancel"] = Field("cancel", description="Names the order.")
    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt to stop.")


class AbandonAttempt(Model):
    """Stop an attempt that is nobody's any more; delete nothing, report nothing."""

    action: Literal["abandon"] = Field("abandon", description="Names the order.")
    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt to stop.")


class Renew(Model):
    """This incarnation was declared lost: drop everything and come back as a new one."""

    action: Literal["renew"] = Field("renew", description="Names the order.")
    incarnation: UUID = Field(description="The incarnation that was lost.")


class Drain(Model):
    """Finish what runs, give back what waits, take nothing new (until `resume` is true)."""

    action: Literal["drain"] = Field("drain", description="Names the order.")
    resume: bool = Field(False, description="True takes the order back.")


class UnloadModel(Model):
    """Give up a resident model, or all of them, once idle."""

    action: Literal["unload"] = Field("unload", description="Names the order.")
    model: str | None = Field(None, description="Key of the model; absent: all.")


Action = Annotated[
    CancelAttempt | AbandonAttempt | Renew | Drain | UnloadModel,
    Field(discriminator="action"),
]


class Control(Message, wire="ctl.generator", kind=Kind.CONTROL, subject="anime.ctl.generator.{worker}"):
    """An order to one worker; safe to repeat."""

    worker: str = Field(description="Name of the worker.")
    order: Action = Field(description="What to do.")


class TokensQuestion(Request):
    """How long texts are for a model of this worker."""

    model: ModelKey = Field(description="Key of the model.")
    texts: Annotated[tuple[Annotated[str, Field(max_length=20_000)], ...], Field(min_length=1, max_length=8)] = Field(
        description="The texts."
    )


class TokenCount(Model):
    """How long a text is for a model."""

    tokens: int = Field(description="How many tokens it has.")
    window: int = Field(description="How many the model reads at a time; 0: all there are.")
    windows: tuple[int, ...] = Field((), description="How many stand in each window that it fills.")


class TokensAnswer(Model):
    """How long texts are, by the model's own tokenizer."""

    tokenizer: str = Field(description="What counted.")
    counts: tuple[TokenCount, ...] = Field(description="One for each text, in their order.")


COUNT_TOKENS = Rpc("generator", "tokens", TokensQuestion, TokensAnswer, "{worker}")
"""Asked of one worker: `COUNT_TOKENS.at(name)`."""
