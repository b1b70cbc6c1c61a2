"""What the files service says, and what it answers about the library."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from anime_common.contracts.generation import Settings
from anime_common.contracts.vocabulary import (
    Cursor,
    Day,
    FileType,
    Name,
    Output,
    Prose,
    Sha256,
    Slug,
    StrictBool,
    StrictInt,
    on_one_line,
    printable,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Empty, Rpc

ANSWER_IDENTITY = "{epoch}:{type}:{job_id}:{attempt_id}[:{repeat}]"


class Filed(Message, wire="files.filed", kind=Kind.EVENT, subject="anime.evt.files.filed.{job_id}"):
    """Every output of an attempt lies in the library, verified and indexed."""

    identity: ClassVar[str] = ANSWER_IDENTITY

    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt that made them.")
    repeat: int = Field(0, description="As in the filing that is answered.")
    epoch: int = Field(description="As in the filing that is answered.")
    outputs: tuple[Output, ...] = Field(description="The files, by index.")


class FilingFailed(
    Message, wire="files.filing_failed", kind=Kind.EVENT, subject="anime.evt.files.filing_failed.{job_id}"
):
    """The outputs of an attempt could not be filed; their reservation is withdrawn."""

    identity: ClassVar[str] = ANSWER_IDENTITY

    job_id: UUID = Field(description="The job.")
    attempt_id: UUID = Field(description="The attempt that made them.")
    repeat: int = Field(0, description="As in the filing that is answered.")
    epoch: int = Field(description="As in the filing that is answered.")
    code: str = Field(description="What went wrong, for programs: stable.")
    message: Prose = Field(description="What went wrong, for people.")
    retryable: bool = Field(description="Whether drawing the pictures again may help.")


FileName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255), AfterValidator(on_one_line)
]
"""What somebody calls a file: a text for people, which no path is made of."""


class FileView(Model):
    """A file of the library."""

    id: UUID = Field(description="The file.")
    key: str = Field(description="Key in the artifact store.")
    thumbnail_key: str | None = Field(None, description="Key of its thumbnail; absent of sounds.")
    job_id: UUID | None = Field(None, description="The job that made it; absent for uploads.")
    attempt_id: UUID | None = Field(None, description="The attempt that made it.")
    code: str | None = Field(None, description="Short id of the job; absent for uploads.")
    name: str | None = Field(None, description="What whoever uploaded it called it; absent for what a job made.")
    project_id: UUID = Field(description="The project.")
    project: str = Field(description="Slug of the project when it was filed.")
    date: Day = Field(description="Day it was filed under.")
    index: int = Field(description="Number of the picture in its job, from 0.")
    type: FileType = Field(description="Kind of file; a folder of the library.")
    media_type: str = Field(description="Media type.")
    size: int = Field(description="Bytes.")
    width: int = Field(
        description="Pixels; of an upload, as it is shown: turned as its EXIF orientation says; 0 of a sound."
    )
    height: int = Field(description="Pixels; 0 of a sound.")
    duration: float | None = Field(None, description="Seconds; absent of what does not move or sound.")
    frames: int | None = Field(None, description="Pictures of a clip or animation; absent of all else.")
    sha256: Sha256 = Field(description="SHA-256 of the bytes.")
    settings: Settings | None = Field(None, description="What makes this very picture again.")
    rating: int = Field(0, description="0 (none) to 5.")
    favourite: bool = Field(False, description="Whether somebody marked it.")
    tags: tuple[str, ...] = Field((), description="In small letters.")
    created_at: datetime = Field(description="When it was filed.")
    updated_at: datetime = Field(description="When it was last changed.")
    trashed_at: datetime | None = Field(None, description="When it was moved to the trash; absent of all others.")
    version: int = Field(1, description="Grows with every change.")
    content_url: str | None = Field(None, description="Where the gateway serves it; absent on the bus.")
    thumbnail_url: str | None = Field(None, description="Where the gateway serves its thumbnail; absent on the bus.")


class FileUploaded(Message, wire="files.uploaded", kind=Kind.EVENT, subject="anime.evt.files.uploaded.{file_id}"):
    """Somebody's own picture lies in the library, verified and indexed."""

    identity: ClassVar[str] = "{epoch}:{type}:{file_id}:{file.version}"

    file_id: UUID = Field(description="The file.")
    epoch: int = Field(0, description="The newest epoch of the ledger that files has heard of.")
    file: FileView = Field(description="The file.")


class FileUpdated(Message, wire="files.updated", kind=Kind.EVENT, subject="anime.evt.files.updated.{file_id}"):
    """Somebody curated a file."""

    identity: ClassVar[str] = "{epoch}:{type}:{file_id}:{file.version}"

    file_id: UUID = Field(description="The file.")
    epoch: int = Field(0, description="The newest epoch of the ledger that files has heard of.")
    file: FileView = Field(description="The file as it is now.")


class FileDeleted(Message, wire="files.deleted", kind=Kind.EVENT, subject="anime.evt.files.deleted.{file_id}"):
    """A file has left the library."""

    identity: ClassVar[str] = "{epoch}:{type}:{file_id}:{version}"

    file_id: UUID = Field(description="The file.")
    epoch: int = Field(0, description="The newest epoch of the ledger that files has heard of.")
    job_id: UUID | None = Field(None, description="The job that made it; absent for uploads.")
    key: str = Field(description="Key that it had in the artifact store; never given again.")


class FileTrashed(Message, wire="files.trashed", kind=Kind.EVENT, subject="anime.evt.files.trashed.{file_id}"):
    """A file lies in the trash, since its project was deleted; it is deleted for good after some days."""

    identity: ClassVar[str] = "{epoch}:{type}:{file_id}:{file.version}"

    file_id: UUID = Field(description="The file.")
    epoch: int = Field(0, description="The newest epoch of the ledger that files has heard of.")
    file: FileView = Field(description="The file as it is now.")


class FileRestored(Message, wire="files.restored", kind=Kind.EVENT, subject="anime.evt.files.restored.{file_id}"):
    """A file was taken out of the trash."""

    identity: ClassVar[str] = "{epoch}:{type}:{file_id}:{file.version}"

    file_id: UUID = Field(description="The file.")
    epoch: int = Field(0, description="The newest epoch of the ledger that files has heard of.")
    file: FileView = Field(description="The file as it is now.")


class SheetMade(Message, wire="files.sheet_made", kind=Kind.EVENT, subject="anime.evt.files.sheet_made.{batch_id}"):
    """The contact sheet of a batch lies in the library."""

    identity: ClassVar[str] = "{epoch}:{type}:{batch_id}:{batch_version}"

    batch_id: UUID = Field(description="The batch.")
    batch_version: int = Field(description="Version of the batch that it shows.")
    epoch: int = Field(description="As in the event that asked for it.")
    file: FileView = Field(description="The sheet.")


class SheetFailed(
    Message, wire="files.sheet_failed", kind=Kind.EVENT, subject="anime.evt.files.sheet_failed.{batch_id}"
):
    """No contact sheet could be made of a batch; its pictures are not touched by that."""

    identity: ClassVar[str] = "{epoch}:{type}:{batch_id}:{batch_version}"

    batch_id: UUID = Field(description="The batch.")
    batch_version: int = Field(description="Version of the batch that it would have shown.")
    epoch: int = Field(description="As in the event that asked for it.")
    reason: Prose = Field(description="Why, for people.")


Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=64), AfterValidator(printable)
]


class FileRef(Request):
    """Names a file."""

    id: UUID = Field(description="The file.")


class FileQuery(Request):
    """Which files to list; newest first."""

    q: Annotated[str, Field(max_length=200), AfterValidator(printable)] | None = Field(
        None, description="Words of the prompt or of the name, or a tag."
    )
    project: Name | None = Field(None, description="Project id or slug.")
    job_id: UUID | None = Field(None, description="Files of this job.")
    type: FileType | None = Field(None, description="Files of this kind.")
    tag: Tag | None = Field(None, description="Files with this tag.")
    favourite: bool | None = Field(None, description="Marked files, or those that are not.")
    min_rating: Annotated[int, Field(ge=0, le=5)] | None = Field(None, description="Files rated so or better.")
    trashed: bool = Field(False, description="What lies in the trash, instead of the library.")
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most files of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class FilePage(Model):
    """One page of files; `next` is the cursor of the page after it."""

    items: tuple[FileView, ...] = Field(description="The files.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class FileChanges(Request):
    """What a person may change of a file; absent fields stay."""

    rating: Annotated[StrictInt, Field(ge=0, le=5)] | None = Field(None, description="0 takes the rating away.")
    favourite: StrictBool | None = Field(None, description="Mark it, or take the mark away.")
    tags: Annotated[tuple[Tag, ...], Field(max_length=50)] | None = Field(None, description="All tags it shall have.")


class UpdateFile(Request):
    """Change what a person may change of a file."""

    id: UUID = Field(description="The file.")
    changes: FileChanges = Field(description="What to change.")


class RegisterUpload(Request):
    """Take what lies at `uploads/<id>` into the library; the same question again is answered with the same file."""

    id: UUID = Field(description="The upload, and the file that it becomes: made by whoever took the bytes in.")
    sha256: Sha256 = Field(description="SHA-256 of the bytes.")
    size: Annotated[StrictInt, Field(ge=0)] = Field(description="Bytes.")
    project_id: UUID = Field(description="The project.")
    project: Slug = Field(description="Its slug.")
    name: FileName | None = Field(None, description="What whoever uploaded it calls it; for people, and for searching.")


class LibraryStats(Model):
    """How much the library holds; bytes."""

    files: int = Field(description="How many.")
    bytes: int = Field(description="How large together.")
    trashed: int = Field(0, description="How many lie in the trash.")
    trashed_bytes: int = Field(0, description="How large these are together.")


class UseQuestion(Request):
    """How much the library holds of each of these projects."""

    project_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=200)] = Field(description="The projects.")


class ProjectUse(Model):
    """How much the library holds of a project, without what lies in the trash."""

    project_id: UUID = Field(description="The project.")
    files: int = Field(description="How many files.")
    bytes: int = Field(description="How large together.")


class Use(Model):
    """How much the library holds of projects."""

    items: tuple[ProjectUse, ...] = Field(description="One for each project that was asked about, in that order.")


GET_FILE = Rpc("files", "get", FileRef, FileView)
LIST_FILES = Rpc("files", "list", FileQuery, FilePage)
UPDATE_FILE = Rpc("files", "update", UpdateFile, FileView)
DELETE_FILE = Rpc("files", "delete", FileRef, FileView)
REGISTER_UPLOAD = Rpc("files", "register_upload", RegisterUpload, FileView)
RESTORE_FILE = Rpc("files", "restore", FileRef, FileView)
LIBRARY_USE = Rpc("files", "use", UseQuestion, Use)
LIBRARY_STATS = Rpc("files", "stats", Empty, LibraryStats)
