"""What the ledger hears and says: commands, job events, projects, the queue, and the questions it answers."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from anime_common.contracts.generator import Heartbeat
from anime_common.contracts.vocabulary import (
    Cursor,
    GenerationRequest,
    JobError,
    JobState,
    ModelInfo,
    Name,
    Output,
    Phase,
    Priority,
    Progress,
    Settings,
    Slug,
    StagedOutput,
    StrictBool,
    not_blank,
    printable,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Empty, Rpc

JobRef = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z-]{8,36}$")]
"""A job's id (UUID) or its 8-character code."""


class Job(Model):
    """A job as everybody sees it."""

    id: UUID
    code: str = Field(description="Short id, 8 characters, unique.")
    version: int = Field(description="Grows with every change.")
    epoch: int
    state: JobState
    client: str = Field(description="Who submitted it.")
    project_id: UUID
    project: str = Field(description="Slug of the project.")
    priority: Priority
    request: GenerationRequest
    settings: Settings | None = Field(None, description="Absent until a model is known.")
    prompt_note: str | None = Field(None, description="What Echo did to the prompt, or why it did not.")
    not_before: datetime | None = None
    paused: bool = False
    attempt_id: UUID | None = None
    attempt: int = Field(0, description="How many times it was given to a worker.")
    failures: int = 0
    worker: str | None = None
    cancel_requested: bool = False
    parent_id: UUID | None = None
    error: JobError | None = None
    message: str | None = Field(None, description="Why it waits, or what happened last.")
    warnings: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    timings: dict[Phase, float] = Field(default_factory=dict, description="Seconds a phase of the last attempt.")
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None
    dispatched_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class JobView(Job):
    """A job with its progress."""

    progress: Progress


class SubmitJob(
    Message, wire="jobs.submit", kind=Kind.COMMAND, subject="anime.cmd.jobs.submit.{client}", extra="forbid"
):
    """Make a job. The same `job_id` with the same request is the same job; with another request it is a conflict."""

    job_id: UUID
    request: GenerationRequest
    expires_at: AwareDatetime | None = Field(None, description="Refuse the job when read later than this.")


class CancelJob(
    Message, wire="jobs.cancel", kind=Kind.COMMAND, subject="anime.cmd.jobs.cancel.{client}", extra="forbid"
):
    """Stop a job."""

    job: JobRef


class RetryJob(Message, wire="jobs.retry", kind=Kind.COMMAND, subject="anime.cmd.jobs.retry.{client}", extra="forbid"):
    """Run a failed or cancelled job again, under the same id, with a fresh retry budget."""

    job: JobRef


class JobChanges(Request):
    """What may be changed of a waiting job; absent fields stay."""

    priority: Priority | None = None
    not_before: AwareDatetime | None = Field(None, description="null takes the limit away.")
    paused: StrictBool | None = None


class PrioritizeJob(
    Message, wire="jobs.prioritize", kind=Kind.COMMAND, subject="anime.cmd.jobs.prioritize.{client}", extra="forbid"
):
    """Change when a job runs."""

    job: JobRef
    changes: JobChanges
    clear_not_before: bool = False


class JobEvent(Message):
    """What every job event carries: the job as it is after the change."""

    job: Job

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

    attempt_id: UUID
    repeat: int = 0
    staged: tuple[StagedOutput, ...]
    settings: Settings
    date: date


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

    command_id: str
    client: str
    status: int
    job: Job


class CommandRefused(
    Message, wire="jobs.command_refused", kind=Kind.EVENT, subject="anime.evt.jobs.command_refused.{command_id}"
):
    """The answer to a command that was refused. For its sender alone."""

    command_id: str
    client: str
    status: int
    code: str
    message: str
    field: str | None = None
    job_id: UUID | None = None


class ProjectState(StrEnum):
    """Archived projects take no new jobs."""

    ACTIVE = "active"
    ARCHIVED = "archived"


ProjectName = Annotated[
    str, Field(strict=True, min_length=1, max_length=100), AfterValidator(not_blank), AfterValidator(printable)
]
Description = Annotated[str, Field(strict=True, max_length=4000), AfterValidator(printable)]


class Project(Model):
    """A production: its jobs and files lie together."""

    id: UUID
    slug: str
    name: str
    description: str = ""
    state: ProjectState = ProjectState.ACTIVE
    version: int = 1
    jobs: int = 0
    created_at: datetime
    updated_at: datetime


class NewProject(Request):
    """A project to be made; the slug is made from the name unless given."""

    name: ProjectName
    slug: Slug | None = None
    description: Description = ""


class ProjectChanges(Request):
    """What to change of a project; absent fields stay. A slug never changes: it is the folder of its files."""

    name: ProjectName | None = None
    description: Description | None = None
    state: ProjectState | None = None

    @model_validator(mode="after")
    def _some_change(self) -> ProjectChanges:
        if not self.model_fields_set:
            raise ValueError("nothing to change: give name, description or state")
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name} must not be null")
        return self


class CreateProject(Request):
    """Make a project under an id of the caller's making: a repeat of the same call changes nothing."""

    id: UUID
    project: NewProject


class ProjectRef(Request):
    """Names a project by id or slug."""

    project: Name


class UpdateProject(ProjectRef):
    """Change a project; with `expected_version`, only if nobody changed it since."""

    changes: ProjectChanges
    expected_version: int | None = None


class DeleteProject(ProjectRef):
    """Delete a project without jobs; one with jobs is refused, unless `archive` or `force` says what to do."""

    force: bool = Field(False, description="Delete its ended jobs from the ledger too (files stay in the library).")
    archive: bool = Field(False, description="Archive it instead when it has jobs.")


class DeletedProject(Model):
    """What became of a project: deleted, or archived when `project` says so."""

    deleted: bool
    jobs: int
    project: Project


class ProjectQuery(Request):
    """Which projects to list, by slug."""

    state: ProjectState | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor | None = None


class ProjectPage(Model):
    """One page of projects."""

    items: tuple[Project, ...]
    next: str | None = None


class ProjectChanged(
    Message, wire="jobs.project_changed", kind=Kind.EVENT, subject="anime.evt.jobs.project_changed.{project_id}"
):
    """A project was made, changed or (`deleted`) removed."""

    project_id: UUID
    project: Project
    deleted: bool = False


class QueueEntry(Model):
    """One waiting job: its place (1 = next) and when it should end."""

    job_id: UUID
    code: str
    position: int
    eta_seconds: float | None = None
    state: JobState
    priority: Priority
    project: str
    message: str | None = None


class QueueState(Message, wire="tel.queue", kind=Kind.TELEMETRY, subject="anime.tel.queue"):
    """The queue: the first 500 places, then counts."""

    at: datetime
    entries: tuple[QueueEntry, ...]
    waiting: int = Field(description="Jobs preparing or queued.")
    counts: dict[JobState, int] = Field(description="Jobs that have not ended, by state.")
    workers: int = Field(description="Workers that could take a job.")


class WorkerView(Model):
    """A generator as the ledger knows it."""

    worker: str
    status: str = Field(description="idle, busy, draining, silent or lost")
    last_seen: datetime
    heartbeat: Heartbeat


class Workers(Model):
    """All generators seen since the ledger started, and those it stored as lost."""

    items: tuple[WorkerView, ...]


class CatalogueEntry(Model):
    """A model that some worker can or could run."""

    model: ModelInfo
    workers: tuple[str, ...] = Field((), description="Live workers that can run it now.")
    resident: tuple[str, ...] = Field((), description="Those that hold it in memory.")


class Catalogue(Model):
    """Every model ever announced."""

    items: tuple[CatalogueEntry, ...]


class JobQuestion(Request):
    """Names a job by id or code."""

    job: JobRef


class JobQuery(Request):
    """Which jobs to list; newest first."""

    state: tuple[JobState, ...] = ()
    project: Name | None = None
    client: Name | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor | None = None


class JobPage(Model):
    """One page of jobs."""

    items: tuple[JobView, ...]
    next: str | None = None


class LedgerStats(Model):
    """Counts and speeds for dashboards and `GET /stats`."""

    epoch: int
    counts: dict[JobState, int]
    completed_last_hour: int
    failed_last_hour: int
    median_seconds: float | None = Field(None, description="Median time from start to completion, last 24 h.")
    outbox: int = Field(description="Messages not yet published.")
    scheduler: bool = Field(description="Whether the instance that answers is the active scheduler.")


GET_JOB = Rpc("jobs", "get", JobQuestion, JobView)
LIST_JOBS = Rpc("jobs", "list", JobQuery, JobPage)
GET_QUEUE = Rpc("jobs", "queue", Empty, QueueState)
GET_WORKERS = Rpc("jobs", "generators", Empty, Workers)
GET_CATALOGUE = Rpc("jobs", "models", Empty, Catalogue)
GET_STATS = Rpc("jobs", "stats", Empty, LedgerStats)
CREATE_PROJECT = Rpc("jobs", "create_project", CreateProject, Project)
GET_PROJECT = Rpc("jobs", "get_project", ProjectRef, Project)
LIST_PROJECTS = Rpc("jobs", "list_projects", ProjectQuery, ProjectPage)
UPDATE_PROJECT = Rpc("jobs", "update_project", UpdateProject, Project)
DELETE_PROJECT = Rpc("jobs", "delete_project", DeleteProject, DeletedProject)
