"""What people see: the data of stream events, and the answers that only the gateway composes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from anime_common.contracts.batches import Batch
from anime_common.contracts.characters import Character, Content, Note
from anime_common.contracts.files import FileView, LibraryStats, ProjectUse
from anime_common.contracts.jobs import (
    CatalogueEntry,
    JobView,
    LedgerStats,
    QueueState,
    WorkerView,
)
from anime_common.contracts.projects import (
    ContentRating,
    Description,
    MaxRunning,
    Project,
    ProjectState,
    ProjectStyle,
    Title,
)
from anime_common.contracts.statistics import History
from anime_common.contracts.vocabulary import Output, StrictBool, on_one_line
from anime_common.messages import Model, Request
from anime_common.tokens import Scope

BASE = "/api/anime"


def job_url(job_id: UUID | str) -> str:
    """Where a job is."""
    return f"{BASE}/jobs/{job_id}"


def with_urls(file: FileView) -> FileView:
    """A file with the addresses of its bytes."""
    url = f"{BASE}/files/{file.id}"
    thumbnail = f"{url}/thumbnail" if file.thumbnail_key else None
    return file.model_copy(update={"content_url": f"{url}/content", "thumbnail_url": thumbnail})


class ProjectView(Project):
    """A project with how much the library holds of it."""

    files: int | None = Field(None, description="Files of the library; null while files is away.")
    bytes: int | None = Field(None, description="How large they are together; null while files is away.")
    cover_url: str | None = Field(None, description="Where the thumbnail of its cover is served.")


def project_view(project: Project, use: ProjectUse | None) -> ProjectView:
    """A project as people see it; `use` is absent while files is away."""
    return ProjectView(
        **dict(project),
        files=use.files if use else None,
        bytes=use.bytes if use else None,
        cover_url=f"{BASE}/files/{project.cover}/thumbnail" if project.cover else None,
    )


class ProjectViews(Model):
    """One page of projects."""

    items: tuple[ProjectView, ...] = Field(description="The projects.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class DeletedProjectView(Model):
    """What became of a project: deleted, or archived since there is work in it."""

    deleted: bool = Field(description="False when it was archived instead.")
    jobs: int = Field(description="How many jobs it had.")
    trashed: int = Field(description="How many of its files go to the trash.")
    trashed_bytes: int = Field(description="How large these are together.")
    project: Project = Field(description="The project as it last was.")


class JobData(Model):
    """Event `job`: something became true of a job; `job` is the job after it."""

    type: str = Field(
        description="accepted, queued, dispatched, started, filing, completed, failed, cancelled or updated"
    )
    job: JobView


class FileData(Model):
    """Event `file`: something happened in the library. `outputs` of `filed`, `file` of `uploaded`, `updated`, `trashed`
    and `restored`.
    """

    type: Literal["filed", "filing_failed", "uploaded", "updated", "trashed", "restored", "deleted"]
    job_id: UUID | None = None
    file_id: UUID | None = None
    outputs: tuple[Output, ...] = ()
    file: FileView | None = None
    code: str | None = None
    message: str | None = None


class ProjectData(Model):
    """Event `project`: a project was made, changed or deleted."""

    type: Literal["changed", "deleted"]
    project: Project


class SnapshotData(Model):
    """Event `snapshot`: every job that has not ended (or the one asked for), newest first; later events follow."""

    jobs: tuple[JobView, ...]
    truncated: bool = Field(False, description="There are more; `GET /jobs` lists them.")
    queue: QueueState | None = None


class ResetData(Model):
    """Event `reset`: the stream cannot go on from where the client was; forget everything, a snapshot follows."""

    reason: Literal["unknown", "other_stream", "future", "too_old", "too_far", "streams_replaced"]
    detail: str


class Pending(Model):
    """A command that is stored and not answered yet; it is carried out as soon as the ledger is back."""

    command_id: UUID
    job_id: str = Field(description="The job, as the request named it; of a new job, its id.")
    job_url: str = Field(description="Where to ask for the job. Until the ledger knows it, that answers 404.")
    detail: str


class Part(Model):
    """How one part of the system is."""

    ok: bool
    detail: str | None = None


class Health(Model):
    """How the system is: `degraded` when only the prompt optimiser is away, which stops nothing."""

    status: Literal["ok", "degraded", "unavailable"]
    parts: dict[str, Part]


class GatewayStats(Model):
    """What this gateway holds."""

    streams: int = Field(description="Event streams and subscriptions that are open.")
    running: int = Field(description="Attempts it follows.")


class Stats(Model):
    """Counts of the ledger, of the library and of this gateway, and a stretch of time, measured."""

    jobs: LedgerStats
    history: History
    files: LibraryStats
    gateway: GatewayStats


class WorkerList(Model):
    """All generators."""

    items: tuple[WorkerView, ...]
    next: None = None


class ModelList(Model):
    """All models."""

    items: tuple[CatalogueEntry, ...]
    next: None = None


class ProjectReplacement(Request):
    """All that a person may set of a project; the slug stays, as it is the folder of its files."""

    name: Title
    description: Description = ""
    state: ProjectState = ProjectState.ACTIVE
    rating: ContentRating = ContentRating.GENERAL
    style: ProjectStyle = ProjectStyle()
    cover: UUID | None = None
    paused: StrictBool = False
    max_running: MaxRunning | None = None


class PauseReason(Request):
    """Why the queue is held back."""

    reason: Annotated[str, Field(strict=True, max_length=200), AfterValidator(on_one_line)] = Field(
        "", description="Why, for people."
    )


class CharacterReplacement(Content, Request):
    """All of a character's content; slug, project and state stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    note: Note = Field("", description="What is new in this version.")


class BatchView(Batch):
    """A batch with the address of its contact sheet."""

    sheet_url: str | None = Field(None, description="Where its contact sheet is served.")


def batch_view(batch: Batch) -> BatchView:
    """A batch as people see it."""
    url = f"{BASE}/files/{batch.sheet}/content" if batch.sheet else None
    return BatchView(**dict(batch), sheet_url=url)


class BatchViews(Model):
    """One page of batches, newest first, without their axes."""

    items: tuple[BatchView, ...] = Field(description="The batches.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class MovedBatch(Model):
    """What an order to all jobs of a batch came to."""

    jobs: int = Field(description="How many jobs it changed.")
    batch: BatchView = Field(description="The batch after it.")


class BatchRetry(Request):
    """Which jobs of a batch to run again: those that failed, unless it says more."""

    cancelled: StrictBool = Field(False, description="Also those that were cancelled.")
    code: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Only those that failed with this code."
    )


class BatchData(Model):
    """Event `batch`: a batch was accepted, changed, or has ended."""

    type: Literal["changed", "ended"]
    batch: BatchView


class CharacterData(Model):
    """Event `character`: a character was made, changed or deleted."""

    type: Literal["changed", "deleted"]
    character: Character


class Session(Model):
    """Who asks, as far as the gateway is concerned."""

    required: bool = Field(description="Whether a token is needed.")
    signed_in: bool = Field(description="Whether a good token was presented.")
    name: str | None = Field(None, description="Name of the token.")
    scope: Scope | None = Field(None, description="What the token may do; each scope includes those before it.")
    expires_at: datetime | None = Field(None, description="When the token ends by itself.")


class SignIn(Request):
    """What a browser signs in with."""

    token: Annotated[str, Field(max_length=200, description="An access token.")]
