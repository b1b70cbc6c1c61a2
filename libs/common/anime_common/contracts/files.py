"""What the files service says, and what it answers about the library."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from anime_common.contracts.vocabulary import (
    Cursor,
    Name,
    Output,
    Settings,
    Sha256,
    StrictBool,
    StrictInt,
    printable,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Empty, Rpc


class Filed(Message, wire="files.filed", kind=Kind.EVENT, subject="anime.evt.files.filed.{job_id}"):
    """Every output of an attempt lies in the library, verified and indexed."""

    job_id: UUID
    attempt_id: UUID
    repeat: int = 0
    epoch: int
    outputs: tuple[Output, ...]


class FilingFailed(
    Message, wire="files.filing_failed", kind=Kind.EVENT, subject="anime.evt.files.filing_failed.{job_id}"
):
    """The outputs of an attempt could not be filed; their reservation is withdrawn."""

    job_id: UUID
    attempt_id: UUID
    repeat: int = 0
    epoch: int
    code: str
    message: str
    retryable: bool


class FileView(Model):
    """A file of the library."""

    id: UUID
    key: str
    thumbnail_key: str | None = None
    job_id: UUID | None = None
    attempt_id: UUID | None = None
    code: str | None = None
    project_id: UUID
    project: str
    date: date
    index: int
    type: Literal["image", "video", "grid", "upload"]
    media_type: str
    size: int
    width: int
    height: int
    sha256: Sha256
    settings: Settings | None = None
    rating: int = 0
    favourite: bool = False
    tags: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime
    version: int = 1
    content_url: str | None = None
    thumbnail_url: str | None = None


class FileUpdated(Message, wire="files.updated", kind=Kind.EVENT, subject="anime.evt.files.updated.{file_id}"):
    """Somebody curated a file."""

    file_id: UUID
    epoch: int = 0
    file: FileView


class FileDeleted(Message, wire="files.deleted", kind=Kind.EVENT, subject="anime.evt.files.deleted.{file_id}"):
    """A file has left the library."""

    file_id: UUID
    epoch: int = 0
    job_id: UUID | None = None
    key: str


Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=64), AfterValidator(printable)
]


class FileRef(Request):
    """Names a file."""

    id: UUID


class FileQuery(Request):
    """Which files to list; newest first."""

    q: Annotated[str, Field(max_length=200), AfterValidator(printable)] | None = Field(
        None, description="Words of the prompt, or a tag."
    )
    project: Name | None = Field(None, description="Project id or slug.")
    job_id: UUID | None = None
    type: Literal["image", "video", "grid", "upload"] | None = None
    tag: Tag | None = None
    favourite: bool | None = None
    min_rating: Annotated[int, Field(ge=0, le=5)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor | None = None


class FilePage(Model):
    """One page of files; `next` is the cursor of the page after it."""

    items: tuple[FileView, ...]
    next: str | None = None


class FileChanges(Request):
    """What a person may change of a file; absent fields stay."""

    rating: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    favourite: StrictBool | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=50)] | None = None


class UpdateFile(Request):
    """Change what a person may change of a file."""

    id: UUID
    changes: FileChanges


class LibraryStats(Model):
    """How much the library holds; bytes."""

    files: int
    bytes: int


GET_FILE = Rpc("files", "get", FileRef, FileView)
LIST_FILES = Rpc("files", "list", FileQuery, FilePage)
UPDATE_FILE = Rpc("files", "update", UpdateFile, FileView)
DELETE_FILE = Rpc("files", "delete", FileRef, FileView)
LIBRARY_STATS = Rpc("files", "stats", Empty, LibraryStats)
