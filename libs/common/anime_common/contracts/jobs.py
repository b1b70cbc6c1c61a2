"""What the ledger hears and says: commands, job events, the queue, and the questions it answers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic.json_schema import SkipJsonSchema

from anime_common.contracts.casting import Composition
from anime_common.contracts.generation import GenerationRequest, Settings
from anime_common.contracts.generator import Heartbeat, TokenCount
from anime_common.contracts.vocabulary import (
    Cursor,
    Day,
    JobError,
    JobState,
    ModelInfo,
    ModelKey,
    Name,
    Output,
    Phase,
    Priority,
    Progress,
    Reached,
    StagedOutput,
    StrictBool,
    When,
    Work,
    on_one_line,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Empty, Rpc

JobRef = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z-]{8,36}$")]
"""A job's id (UUID) or its 8-character code."""

COMMAND_IDENTITY = "{command_id}"
"""A command is known by an id of its sender's own making (UUIDv7), the same one for every repeat of one request."""


class Job(Model):
    """A job as everybody sees it."""

    id: UUID = Field(description="The job.")
    code: str = Field(description="Short id, 8 characters, unique.")
    version: int = Field(description="Grows with every change.")
    epoch: int = Field(
        description="The ledger's epoch when the job was made; newer is what is greater in (epoch, version)."
    )
    state: JobState = Field(description="Where it is in its life.")
    client: str = Field(description="Who submitted it.")
    project_id: UUID = Field(description="The project.")
    project: str = Field(description="Slug of the project.")
    priority: Priority = Field(description="Priority class.")
    request: GenerationRequest = Field(description="What was asked for, as it was sent.")
    settings: Settings | None = Field(None, description="Absent until a model is known.")
    composition: Composition | None = Field(
        None, description="What its prompt is composed of, once a model is known; settings have the outcome."
    )
    prompt_note: str | None = Field(None, description="What Echo did to the prompt, or why it did not.")
    not_before: datetime | None = Field(None, description="Earliest start.")
    paused: bool = Field(False, description="Whether it waits until it is resumed.")
    attempt_id: UUID | None = Field(None, description="The attempt that owns it, or owned it last.")
    attempt: int = Field(0, description="How many times it was given to a worker.")
    failures: int = Field(0, description="Failed tries since the last retry by hand.")
    worker: str | None = Field(None, description="The worker that has it, or had it last.")
    cancel_requested: bool = Field(False, description="Whether a running attempt was asked to stop.")
    parent_id: UUID | None = Field(None, description="The job that this one repeats with changes.")
    batch_id: UUID | None = Field(None, description="The batch that it is of.")
    labels: dict[str, str] = Field(default_factory=dict, description="Its value on each axis of its batch.")
    error: JobError | None = Field(None, description="Why it failed, or why it is tried again.")
    reached: Reached | None = Field(
        None, description="How far the last attempt came, of a job that failed or was cancelled in work."
    )
    message: str | None = Field(None, description="Why it waits, or what happened last.")
    warnings: tuple[str, ...] = Field((), description="What went otherwise than asked, for people.")
    outputs: tuple[Output, ...] = Field((), description="Its pictures, once they are in the library.")
    timings: dict[Phase, float] = Field(default_factory=dict, description="Seconds a phase of the last attempt.")
    created_at: datetime = Field(description="When it was accepted.")
    updated_at: datetime = Field(description="When it last changed.")
    queued_at: datetime | None = Field(None, description="When it last came into the queue.")
    dispatched_at: datetime | None = Field(None, description="When it was last given to a worker.")
    started_at: datetime | None = Field(None, description="When the last attempt began.")
    ended_at: datetime | None = Field(None, description="When it ended.")


class JobView(Job):
    """A job with its progress."""

    progress: Progress = Field(description="How far it is.")


class SubmitJob(
    Message, wire="jobs.submit", kind=Kind.COMMAND, subject="anime.cmd.jobs.submit.{client}", extra="forbid"
):
    """Make a job. The same `job_id` with the same request is the same job; with another request it is a conflict."""

    identity: ClassVar[str] = COMMAND_IDENTITY

    job_id: UUID = Field(description="Made by the sender (UUID).")
    request: GenerationRequest = Field(description="What to draw.")
    expires_at: When | None = Field(None, description="Refuse the job when read later than this.")


class CancelJob(
    Message, wire="jobs.cancel", kind=Kind.COMMAND, subject="anime.cmd.jobs.cancel.{client}", extra="forbid"
):
    """Stop a job."""

    identity: ClassVar[str] = COMMAND_IDENTITY

    job: JobRef = Field(description="The job.")


class RetryJob(Message, wire="jobs.retry", kind=Kind.COMMAND, subject="anime.cmd.jobs.retry.{client}", extra="forbid"):
    """Run a failed or cancelled job again, under the same id, with a fresh retry budget."""

    identity: ClassVar[str] = COMMAND_IDENTITY

    job: JobRef = Field(description="The job.")


class Move(StrEnum):
    """Where a waiting job goes among those of its project and priority class."""

    FRONT = "front"
    BACK = "back"


class JobChanges(Request):
    """What may be changed of a waiting job; absent fields stay."""

    priority: Priority | SkipJsonSchema[None] = Field(None, description="New priority class.")
    not_before: When | None = Field(None, description="null takes the limit away.")
    paused: StrictBool | SkipJsonSchema[None] = Field(None, description="True holds the job back, false lets it go on.")
    before: JobRef | SkipJsonSchema[None] = Field(
        None, description="Put it before this waiting job of its project and priority class."
    )
    after: JobRef | SkipJsonSchema[None] = Field(None, description="Put it after this one.")
    move: Move | SkipJsonSchema[None] = Field(
        None, description="Put it before or after all others of its project and priority class."
    )

    @property
    def moves(self) -> bool:
        """Whether the job goes to another place."""
        return any(each is not None for each in (self.before, self.after, self.move))

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(each is not None for each in (self.before, self.after, self.move)) > 1:
            raise ValueError("a job can go to one place: give one of before, after, move")
        return self


class PrioritizeJob(
    Message, wire="jobs.prioritize", kind=Kind.COMMAND, subject="anime.cmd.jobs.prioritize.{client}", extra="forbid"
):
    """Change when a job runs."""

    identity: ClassVar[str] = COMMAND_IDENTITY

    job: JobRef = Field(description="The job.")
    changes: JobChanges = Field(description="What to change.")
    clear_not_before: bool = Field(False, description="Take the earliest start away.")


class JobEvent(Message):
    """What every job event carries: the job as it is after the change."""

    identity: ClassVar[str] = "{job.epoch}:{type}:{job.id}:{job.version}"

    job: Job = Field(description="The job as it is after the change.")

    @property
    def job_id(self) -> UUID:
        """Of the job."""
        return self.job.id


class JobAccepted(JobEvent, wire="jobs.accepted", kind=Kind.EVENT, subject="anime.evt.jobs.accepted.{job_id}"):
    """The job is in the ledger, preparing or queued."""


class JobQueued(JobEvent, wire="jobs.queued", kind=Kind.EVENT, subject="anime.evt.jobs.queued.{job_id}"):
    """The job waits for a worker: prepared, released, lost with its worker, or to be tried again."""


class JobDispatched(JobEvent, wire="jobs.dispatched", kind=Kind.EVENT, subject="anime.evt.jobs.dispatched.{job_id}"):
    """The job was offered to a worker."""


class JobStarted(JobEvent, wire="jobs.started", kind=Kind.EVENT, subject="anime.evt.jobs.started.{job_id}"):
    """A worker runs the job."""


class JobFiling(JobEvent, wire="jobs.filing", kind=Kind.EVENT, subject="anime.evt.jobs.filing.{job_id}"):
    """The outputs of an attempt are to be filed. `project` and `date` are as of now and stay for repeats."""

    identity: ClassVar[str] = "{job.epoch}:{type}:{job.id}:{job.version}[:{repeat}]"

    attempt_id: UUID = Field(description="The attempt that made them.")
    repeat: int = Field(0, description="Number of the repeat; 0 the first time. Copied by the answer.")
    staged: tuple[StagedOutput, ...] = Field(description="The files in staging.")
    settings: Settings = Field(description="What they were made with.")
    date: Day = Field(description="Day to file them under, in the configured time zone.")


class JobCompleted(JobEvent, wire="jobs.completed", kind=Kind.EVENT, subject="anime.evt.jobs.completed.{job_id}"):
    """Every output is in the library."""


class JobFailed(JobEvent, wire="jobs.failed", kind=Kind.EVENT, subject="anime.evt.jobs.failed.{job_id}"):
    """The job ended without its pictures; `job.error` says why."""


class JobCancelled(JobEvent, wire="jobs.cancelled", kind=Kind.EVENT, subject="anime.evt.jobs.cancelled.{job_id}"):
    """The job was stopped as asked; `job.outputs` are the pictures kept."""


class JobUpdated(JobEvent, wire="jobs.updated", kind=Kind.EVENT, subject="anime.evt.jobs.updated.{job_id}"):
    """Something but the state has changed: priority, pause, a requested cancel, a file moved or deleted."""


class CommandDone(
    Message, wire="jobs.command_done", kind=Kind.EVENT, subject="anime.evt.jobs.command_done.{command_id}"
):
    """The answer to a command that was carried out; `command_id` is its ce-id. For its sender alone."""

    identity: ClassVar[str] = "{epoch}:{type}:{command_id}:0"

    command_id: str = Field(description="The `ce-id` of the command.")
    client: str = Field(description="Who sent it.")
    status: int = Field(description="201 for a new job, else 200.")
    job: Job = Field(description="The job after the command.")


class CommandRefused(
    Message, wire="jobs.command_refused", kind=Kind.EVENT, subject="anime.evt.jobs.command_refused.{command_id}"
):
    """The answer to a command that was refused. For its sender alone."""

    identity: ClassVar[str] = "{epoch}:{type}:{command_id}:0"

    command_id: str = Field(description="The `ce-id` of the command.")
    client: str = Field(description="Who sent it.")
    status: int = Field(description="Why, as an HTTP status.")
    code: str = Field(description="Why, for programs: stable.")
    message: str = Field(description="Why, for people.")
    field: str | None = Field(None, description="The field at fault.")
    job_id: UUID | None = Field(None, description="The job in question.")


class QueueEntry(Model):
    """One waiting job: its place (1 = next) and when it should end."""

    job_id: UUID = Field(description="The job.")
    code: str = Field(description="Short id of the job.")
    position: int = Field(description="Place in the queue, 1 = next.")
    eta_seconds: float | None = Field(
        None, description="Estimated seconds until the job ends; absent when nobody can know."
    )
    state: JobState = Field(description="State of the job.")
    priority: Priority = Field(description="Priority class.")
    project: str = Field(description="Slug of the project.")
    batch_id: UUID | None = Field(None, description="The batch that it is of.")
    message: str | None = Field(None, description="Why it waits.")


class QueueState(Message, wire="tel.queue", kind=Kind.TELEMETRY, subject="anime.tel.queue"):
    """The queue: the first 500 places, then counts."""

    at: datetime = Field(description="As of when.")
    entries: tuple[QueueEntry, ...] = Field(description="The first 500 places.")
    waiting: int = Field(description="Jobs preparing or queued.")
    counts: dict[JobState, int] = Field(description="Jobs that have not ended, by state.")
    workers: int = Field(description="Workers that could take a job.")
    paused_since: datetime | None = Field(None, description="Since when nothing new is started; absent: it goes on.")
    pause_reason: str = Field("", description="Why, for people.")


class HoldQueue(Request):
    """Hold the whole queue back, or let it go on; what runs is not touched."""

    paused: StrictBool = Field(description="True holds it back.")
    reason: Annotated[str, Field(strict=True, max_length=200), AfterValidator(on_one_line)] = Field(
        "", description="Why, for people."
    )


class WorkerView(Model):
    """A generator as the ledger knows it."""

    worker: str = Field(description="Name of the worker.")
    status: str = Field(description="idle, busy, draining, silent or lost")
    last_seen: datetime = Field(description="When it was last heard.")
    heartbeat: Heartbeat = Field(description="What it said last.")


class Workers(Model):
    """All generators seen since the ledger started, and those it stored as lost."""

    items: tuple[WorkerView, ...] = Field(description="The workers, by name.")


class ProfileQuestion(Request):
    """What to look at: exactly one of a job, a workflow or a model; of the latter two the last `days`."""

    job: JobRef | None = Field(None, description="A job, by id or code.")
    workflow: Name | None = Field(None, description="A workflow of a ComfyUI server, by its name.")
    model: ModelKey | None = Field(None, description="A model, by its key.")
    days: Annotated[int, Field(ge=1, le=3650)] = Field(30, description="How far back to look.")

    def subjects(self) -> tuple[str, ...]:
        """The names of the fields that are given."""
        return tuple(name for name in ("job", "workflow", "model") if getattr(self, name) is not None)


class PhaseShare(Model):
    """What a phase took; the median where there are several runs."""

    phase: Phase = Field(description="The phase.")
    seconds: float = Field(description="Seconds.")
    share: float = Field(description="Of the whole, 0 to 1.")


class NodeShare(Model):
    """What a node of a workflow took; the median of the runs in which it ran."""

    title: str = Field(description="Name for people.")
    kind: Work = Field(description="What it spends its time with.")
    seconds: float = Field(description="Seconds.")
    share: float = Field(description="Of the whole, 0 to 1.")
    cached: float = Field(description="Share of the runs in which its result was there already, 0 to 1.")


class Profile(Model):
    """What finished attempts spent their time with."""

    subject: str = Field(description="What was asked for.")
    engine: str = Field(description="Engine that drew; empty without runs.")
    model: str = Field(description="Model that drew; empty without runs.")
    workflow: str | None = Field(None, description="Workflow that drew, of an engine that has such.")
    runs: int = Field(description="How many attempts were looked at: 1 for a job, 0 when nothing is recorded.")
    seconds: float = Field(description="Seconds of all phases.")
    phases: tuple[PhaseShare, ...] = Field(description="The phases, in order.")
    nodes: tuple[NodeShare, ...] = Field((), description="The nodes of the workflow, the dearest first.")
    hints: tuple[str, ...] = Field((), description="What would help, for people.")


class Attempt(Model):
    """One try of a worker at a job. Times are of the ledger, but for the start, which is the worker's."""

    id: UUID = Field(description="The attempt.")
    number: int = Field(description="From 1.")
    worker: str = Field(description="Name of the worker.")
    model: str | None = Field(None, description="Key of the model; absent when it was not settled yet.")
    engine: str | None = Field(None, description="Engine that ran it; absent when it told nothing of its work.")
    outcome: str | None = Field(
        None, description="finished, failed, cancelled, released, lost or fenced; absent while it lasts."
    )
    offered_at: datetime = Field(description="When it was offered to the worker.")
    started_at: datetime | None = Field(None, description="When work began.")
    ended_at: datetime | None = Field(None, description="When it ended.")
    code: str | None = Field(
        None, description="Why it failed, for programs; also of pictures that were drawn and could not be filed."
    )
    error: str | None = Field(None, description="Why it ended, for people.")
    reached: Reached | None = Field(None, description="How far it came, of one that ended without its pictures.")
    retry_delay: float | None = Field(
        None, description="Seconds until the next attempt at the earliest; absent when none was to follow."
    )


class Attempts(Model):
    """Every attempt of a job."""

    job_id: UUID = Field(description="The job.")
    job_code: str = Field(description="Short id of the job.")
    failures: int = Field(description="How many of the job's tries are used up.")
    next_try_at: datetime | None = Field(None, description="When it is tried again at the earliest.")
    items: tuple[Attempt, ...] = Field(description="The attempts, the first one first.")


class CatalogueEntry(Model):
    """A model that some worker can or could run."""

    model: ModelInfo = Field(description="The model.")
    workers: tuple[str, ...] = Field((), description="Live workers that can run it now.")
    resident: tuple[str, ...] = Field((), description="Those that hold it in memory.")


class Catalogue(Model):
    """Every model ever announced."""

    items: tuple[CatalogueEntry, ...] = Field(description="The models, the default first.")


class PreviewQuestion(Request):
    """What would be drawn for a request."""

    request: GenerationRequest = Field(description="As it would be submitted.")


class PromptLength(Model):
    """How long a prompt is, by its model's own tokenizer; or why that is not known."""

    tokenizer: str | None = Field(None, description="What counted.")
    prompt: TokenCount | None = Field(None, description="Of the prompt.")
    negative_prompt: TokenCount | None = Field(None, description="Of the negative prompt.")
    unknown: str | None = Field(None, description="Why nothing was counted.")


class PromptPreview(Model):
    """What a job of a request would be accepted with."""

    composition: Composition = Field(description="What its prompt is composed of.")
    settings: Settings = Field(
        description="What its pictures would be made with; a seed that is drawn at random is new each time."
    )
    warnings: tuple[str, ...] = Field((), description="What becomes otherwise than asked, for people.")
    length: PromptLength = Field(description="How long its prompts are.")


class JobQuestion(Request):
    """Names a job by id or code."""

    job: JobRef = Field(description="The job.")


class RetryFilter(Request):
    """Which failed jobs to run again: those to which everything applies that is given, and something must be."""

    code: Annotated[str, Field(strict=True, min_length=1, max_length=64)] | None = Field(
        None, description="Those that failed with this code, see docs/errors.md."
    )
    project: Name | None = Field(None, description="Those of this project (id or slug).")
    batch: JobRef | None = Field(None, description="Those of this batch (id or code).")
    model: ModelKey | None = Field(None, description="Those that this model failed to draw.")
    since: When | None = Field(None, description="Those that failed at this time or later.")
    limit: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(1000, description="At most so many, oldest first.")
    dry_run: StrictBool = Field(False, description="Run none; say how many there are.")

    @model_validator(mode="after")
    def _some_filter(self) -> RetryFilter:
        if all(getattr(self, name) is None for name in ("code", "project", "batch", "model", "since")):
            raise ValueError("say which: give code, project, batch, model or since")
        return self


class Retried(Model):
    """How many failed jobs are run again."""

    found: int = Field(description="How many there were, at most the limit.")
    retried: int = Field(description="How many are run again: none of a dry run.")
    codes: dict[str, int] = Field(description="How many there were by why they failed.")
    more: bool = Field(description="Whether there are more than the limit: ask again.")


class JobQuery(Request):
    """Which jobs to list; newest first."""

    state: tuple[JobState, ...] = Field((), description="Jobs in one of these states; empty: all.")
    project: Name | None = Field(None, description="Jobs of this project (id or slug).")
    client: Name | None = Field(None, description="Jobs that this client submitted.")
    batch: JobRef | None = Field(None, description="Jobs of this batch (id or code).")
    character: Name | None = Field(None, description="Jobs in which this character appears (id or slug).")
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most jobs of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class JobPage(Model):
    """One page of jobs."""

    items: tuple[JobView, ...] = Field(description="The jobs.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class LedgerStats(Model):
    """Counts and speeds for dashboards and `GET /stats`."""

    epoch: int = Field(description="The ledger's epoch.")
    counts: dict[JobState, int] = Field(description="Jobs by state.")
    completed_last_hour: int = Field(description="Jobs completed in the last hour.")
    failed_last_hour: int = Field(description="Jobs failed in the last hour.")
    median_seconds: float | None = Field(None, description="Median time from start to completion, last 24 h.")
    outbox: int = Field(description="Messages not yet published.")
    scheduler: bool = Field(description="Whether the instance that answers is the active scheduler.")


GET_JOB = Rpc("jobs", "get", JobQuestion, JobView)
LIST_JOBS = Rpc("jobs", "list", JobQuery, JobPage)
GET_QUEUE = Rpc("jobs", "queue", Empty, QueueState)
GET_WORKERS = Rpc("jobs", "generators", Empty, Workers)
GET_ATTEMPTS = Rpc("jobs", "attempts", JobQuestion, Attempts)
GET_PROFILE = Rpc("jobs", "profile", ProfileQuestion, Profile)
GET_CATALOGUE = Rpc("jobs", "models", Empty, Catalogue)
GET_STATS = Rpc("jobs", "stats", Empty, LedgerStats)
PREVIEW_PROMPT = Rpc("jobs", "preview_prompt", PreviewQuestion, PromptPreview)
HOLD_QUEUE = Rpc("jobs", "hold_queue", HoldQueue, QueueState)
RETRY_JOBS = Rpc("jobs", "retry_jobs", RetryFilter, Retried)
