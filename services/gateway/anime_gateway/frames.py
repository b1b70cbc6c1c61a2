"""Events as clients get them: encoded once, as an SSE event and as a WebSocket message, and shared by all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from anime_common.contracts.batches import BatchChanged, BatchEnded
from anime_common.contracts.characters import CharacterChanged
from anime_common.contracts.files import (
    Filed,
    FileDeleted,
    FileRestored,
    FileTrashed,
    FileUpdated,
    FileUploaded,
    FilingFailed,
)
from anime_common.contracts.jobs import Job, JobEvent, JobFiling, JobView
from anime_common.contracts.projects import ProjectChanged
from anime_common.messages import Message
from anime_gateway.public import BatchData, CharacterData, FileData, JobData, ProjectData, batch_view, with_urls

if TYPE_CHECKING:
    from pydantic import BaseModel

    from anime_gateway.cursor import Cursor

HEARTBEAT = b":\n\n"
"""A comment: tells proxies and clients that the stream lives."""


class Frame:
    """One event for people. `serial` is its place in this gateway's order of events.

    `key` marks what only its newest is wanted of (progress of a job, the queue). `view` is the job of an event of the
    ledger. `job_id` says whose stream it belongs to, besides the stream of everything.
    """

    __slots__ = ("_sse", "_text", "cursor", "data", "event", "job_id", "key", "serial", "view")

    def __init__(
        self,
        event: str,
        data: bytes,
        *,
        serial: int,
        cursor: Cursor | None = None,
        job_id: UUID | None = None,
        key: object = None,
        view: JobView | None = None,
    ) -> None:
        self.event, self.data, self.serial, self.cursor = event, data, serial, cursor
        self.job_id, self.key, self.view = job_id, key, view
        self._sse: bytes | None = None
        self._text: str | None = None

    @property
    def ends(self) -> bool:
        """Whether the job of this event has ended with it."""
        return self.view is not None and self.view.state.ended

    @property
    def sse(self) -> bytes:
        """The event on an SSE stream."""
        if self._sse is None:
            ident = f"id: {self.cursor}\n" if self.cursor is not None else ""
            self._sse = f"{ident}event: {self.event}\ndata: ".encode() + self.data + b"\n\n"
        return self._sse

    @property
    def text(self) -> str:
        """The event as a WebSocket message."""
        if self._text is None:
            ident = f'"id":"{self.cursor}",' if self.cursor is not None else ""
            self._text = f'{{{ident}"event":{json.dumps(self.event)},"data":{self.data.decode()}}}'
        return self._text

    def as_last(self) -> Frame:
        """The same event with an id that says: the job's end was seen."""
        assert self.view is not None
        cursor = self.cursor.ended(self.view.version) if self.cursor else None
        return Frame(
            self.event, self.data, serial=self.serial, cursor=cursor, job_id=self.job_id, key=self.key, view=self.view
        )


def encode(data: BaseModel) -> bytes:
    """The JSON of what people see; absent values are null."""
    return data.__pydantic_serializer__.to_json(data)


def frame_of(message: Message, cursor: Cursor, serial: int, view_of: Callable[[Job], JobView]) -> Frame | None:
    """The event that people see of a stored message; None when it is not for them.

    Answers to commands are for their senders, facts of workers for the ledger; a repeated `filing` says nothing new.
    """
    match message:
        case JobFiling(repeat=repeat) if repeat:
            return None
        case JobEvent():
            view = view_of(message.job)
            data = encode(JobData(type=message.wire.removeprefix("jobs."), job=view))
            return Frame("job", data, serial=serial, cursor=cursor, job_id=view.id, view=view)
        case ProjectChanged() | CharacterChanged() | BatchChanged() | BatchEnded():
            name, made = _production(message)
            return Frame(name, encode(made), serial=serial, cursor=cursor)
        case Filed() | FilingFailed() | FileUploaded() | FileUpdated() | FileTrashed() | FileRestored() | FileDeleted():
            file = _file_data(message)
            return Frame("file", encode(file), serial=serial, cursor=cursor, job_id=file.job_id)
        case _:
            return None


def _file_data(
    message: Filed | FilingFailed | FileUploaded | FileUpdated | FileTrashed | FileRestored | FileDeleted,
) -> FileData:
    match message:
        case Filed():
            return FileData(type="filed", job_id=message.job_id, outputs=message.outputs)
        case FilingFailed():
            return FileData(type="filing_failed", job_id=message.job_id, code=message.code, message=message.message)
        case FileUploaded():
            return FileData(type="uploaded", file_id=message.file_id, file=with_urls(message.file))
        case FileUpdated() | FileTrashed() | FileRestored():
            file = with_urls(message.file)
            kind = {"type": message.wire.removeprefix("files.")}
            return FileData.model_validate({**kind, "job_id": file.job_id, "file_id": file.id, "file": file})
        case FileDeleted():
            return FileData(type="deleted", job_id=message.job_id, file_id=message.file_id)


def _production(
    message: ProjectChanged | CharacterChanged | BatchChanged | BatchEnded,
) -> tuple[str, ProjectData | CharacterData | BatchData]:
    """The event about a project, a character or a batch, and its data."""
    match message:
        case ProjectChanged():
            return "project", ProjectData(type="deleted" if message.deleted else "changed", project=message.project)
        case CharacterChanged():
            kind = "deleted" if message.deleted else "changed"
            return "character", CharacterData.model_validate({"type": kind, "character": message.character})
        case BatchChanged():
            return "batch", BatchData(type="changed", batch=batch_view(message.batch))
        case BatchEnded():
            return "batch", BatchData(type="ended", batch=batch_view(message.batch))
