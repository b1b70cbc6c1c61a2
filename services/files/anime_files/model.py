"""What the library decides, without any I/O: keys, the outcome of a filing, whose staging may go, search words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from string import Formatter
from typing import Literal
from uuid import UUID

from anime_common.artifact_keys import checked, upload_key
from anime_common.contracts import errors
from anime_common.contracts.files import Filed, FilingFailed, RegisterUpload
from anime_common.contracts.generation import Settings
from anime_common.contracts.jobs import Job, JobFiling
from anime_common.contracts.vocabulary import EXTENSIONS, SLUG_PATTERN, Output, StagedOutput
from anime_common.messages import Outgoing, uuid7

SERVICE = "files"
"""What the bus calls this service."""

DEFAULT_TEMPLATE = "{project}/{date}/{type}/{code}_{index}.{ext}"

RESERVED_FOLDERS = frozenset({"health", "staging", "thumbnails", "trash", "uploads"})
"""Folders at the top of the store that are not the library: a project named so gets an underscore (no slug has one)."""

_NAMES = frozenset({"project", "date", "year", "month", "type", "code", "index", "ext"})
_NEEDED = frozenset({"project", "code", "index"})

FilingId = tuple[UUID, UUID]
"""Job and attempt."""


def check_template(template: str) -> None:
    """Raise ValueError unless `template` makes safe keys that tell the files of all jobs apart."""
    found: set[str] = set()
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if name not in _NAMES or spec or conversion:
            raise ValueError(f"{{{name}}} is not known: use {', '.join(sorted(_NAMES))}, without any formatting")
        found.add(name)
    if missing := _NEEDED - found:
        raise ValueError(f"{', '.join(sorted(missing))} must appear, or files of different jobs would share a name")
    if not template.startswith("{project}/") or not template.endswith(".{ext}"):
        raise ValueError("must start with {project}/ and end with .{ext}")
    checked(library_key(template, project="p", day=date(2000, 1, 1), code="c0de", index=0, media_type="image/png"))


def file_type(media_type: str) -> Literal["image", "video", "audio"]:
    """The kind of a staged file; animated pictures are pictures."""
    if media_type.startswith("video/"):
        return "video"
    return "audio" if media_type.startswith("audio/") else "image"


def library_key(
    template: str,
    *,
    project: str,
    day: date,
    code: str,
    index: int,
    media_type: str,
    suffix: int = 1,
    kind: str | None = None,
) -> str:
    """Where a file goes; from `suffix` 2 on, with that number before the extension. Raises ValueError if unsafe.

    `kind` is the type of the file, that of its media type unless given. The index has two digits (a job has at most 16
    pictures), so that names sort as pictures do.
    """
    if not re.fullmatch(SLUG_PATTERN, project):
        raise ValueError(f"{project!r} is not the slug of a project")
    extension = EXTENSIONS[media_type]
    key = template.format(
        project=f"{project}_" if project in RESERVED_FOLDERS else project,
        date=day.isoformat(),
        year=f"{day.year:04d}",
        month=f"{day.month:02d}",
        type=kind or file_type(media_type),
        code=code,
        index=f"{index:02d}",
        ext=extension,
    )
    if suffix > 1:
        key = f"{key.removesuffix(f'.{extension}')}-{suffix}.{extension}"
    return checked(key)


def thumbnail_key(file_id: UUID) -> str:
    """Where the thumbnail of a file goes. Folders by the random end of the id, so that they fill evenly."""
    return f"thumbnails/{file_id.hex[-2:]}/{file_id}.webp"


@dataclass(frozen=True, slots=True)
class Picture:
    """What the bytes of an upload show. Width and height are as it is shown: turned as its EXIF orientation says.

    `thumbnail` is a WebP picture; None: it can be its own.
    """

    media_type: str
    width: int
    height: int
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload that is to be reserved, and the day it is filed under."""

    question: RegisterUpload
    picture: Picture
    day: date
    template: str

    def key_of(self, suffix: int) -> str:
        """The `suffix`-th choice of a key, counted from 1: made of the id, never of the name that somebody gave."""
        return library_key(
            self.template,
            project=self.question.project,
            day=self.day,
            code=self.question.id.hex[-8:],
            index=0,
            media_type=self.picture.media_type,
            suffix=suffix,
            kind="upload",
        )


def expired_uploads(objects: Mapping[str, datetime], before: datetime) -> list[str]:
    """The keys of uploads last written before a time; what else lies in the folder is not ours to remove."""
    return [key for key, at in objects.items() if at < before and _is_upload(key)]


def _is_upload(key: str) -> bool:
    try:
        return key == upload_key(UUID(key.rpartition("/")[2]))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a filing ended. `code` (of the table of errors) and `message` say why, when it failed."""

    filed: bool
    code: str = ""
    message: str = ""

    @property
    def retryable(self) -> bool:
        """Whether making the outputs again may help, as the table of errors says."""
        return errors.retryable(self.code)


FILED = Verdict(filed=True)


def failed(code: str, message: str) -> Verdict:
    """The verdict that the outputs cannot be filed."""
    return Verdict(False, code, message)


@dataclass(frozen=True, slots=True)
class Look:
    """What a staged file turned out to be: the key of its thumbnail (sounds have none), seconds and frames (see
    `StagedOutput`).
    """

    thumbnail_key: str | None
    duration: float | None = None
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is to be reserved: everything that will be known of it, except where it goes.

    `key_of(n)` is the n-th choice of a key, counted from 1.
    """

    id: UUID
    filing: JobFiling
    staged: StagedOutput
    key_of: Callable[[int], str]

    @property
    def settings(self) -> Settings:
        """What makes this very picture again: the settings of the job with its own seed."""
        return self.filing.settings.model_copy(update={"seed": self.staged.seed, "count": 1})


def entries(filing: JobFiling, template: str) -> list[Entry] | Verdict:
    """What a filing reserves, or why it cannot be filed at all."""
    indexes = [staged.index for staged in filing.staged]
    if len(set(indexes)) != len(indexes):
        return failed("bad_listing", f"the worker listed an index twice: {indexes}")
    found = []
    for staged in filing.staged:

        def key_of(suffix: int, staged: StagedOutput = staged) -> str:
            return library_key(
                template,
                project=filing.job.project,
                day=filing.date,
                code=filing.job.code,
                index=staged.index,
                media_type=staged.media_type,
                suffix=suffix,
            )

        try:
            key_of(1)
        except ValueError as error:
            return failed("bad_key", str(error))
        found.append(Entry(uuid7(), filing, staged, key_of))
    return found


def filing_id(filing: JobFiling) -> FilingId:
    """What a filing is about; its repeats have the same."""
    return filing.job.id, filing.attempt_id


def answer(filing: JobFiling, verdict: Verdict, outputs: Sequence[Output]) -> Outgoing:
    """The fact that answers one `JobFiling`, with the epoch and repeat number it asked under."""
    job_id, attempt_id, epoch = filing.job.id, filing.attempt_id, filing.job.epoch
    message: Filed | FilingFailed
    if verdict.filed:
        message = Filed(job_id=job_id, attempt_id=attempt_id, repeat=filing.repeat, epoch=epoch, outputs=tuple(outputs))
    else:
        message = FilingFailed(
            job_id=job_id,
            attempt_id=attempt_id,
            repeat=filing.repeat,
            epoch=epoch,
            code=verdict.code,
            message=verdict.message,
            retryable=verdict.retryable,
        )
    return Outgoing(message, message.ident())


def over(job: Job, staged: Iterable[UUID]) -> set[UUID]:
    """Which of the staged attempts of a job are over, by what is known of the job.

    A job that failed or was cancelled may be retried under the same id, and its end may be heard late: an attempt
    that is newer than what is known must keep its files. Attempt ids are UUIDv7 made by the ledger, so they sort by
    time: over are those before the attempt that the job names, and that one too when the job has ended; if it names
    none, those made before its last change. (Should clocks of ledger instances disagree so much that a living attempt
    looks older, its filing fails as missing and the generator draws the picture again.)
    """
    last = job.attempt_id
    if last is None:
        return {attempt for attempt in staged if _minted(attempt) <= job.updated_at}
    return {attempt for attempt in staged if attempt.int < last.int or (attempt == last and job.state.ended)}


def abandoned(objects: Mapping[str, datetime], before: datetime) -> dict[UUID, set[UUID]]:
    """The staged attempts, by job, to which nothing was written since `before`; `objects` are keys with their times.

    What lies elsewhere in the folder is not ours to remove.
    """
    last: dict[tuple[UUID, UUID], datetime] = {}
    for key, at in objects.items():
        try:
            _, job, attempt, _ = key.split("/")
            ident = UUID(job), UUID(attempt)
        except ValueError:
            continue
        last[ident] = max(at, last.get(ident, at))
    found: dict[UUID, set[UUID]] = {}
    for (job_id, attempt_id), at in last.items():
        if at < before:
            found.setdefault(job_id, set()).add(attempt_id)
    return found


def _minted(attempt: UUID) -> datetime:
    """When a UUIDv7 was made (RFC 9562 §5.7)."""
    return datetime.fromtimestamp((attempt.int >> 80) / 1000, UTC)


def words(text: str) -> list[str]:
    """The words of a text as the search knows them: folded, without punctuation, at most 64 characters each."""
    return [word[:64] for word in re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())]


def search_text(prompt: str, tags: Iterable[str], name: str | None = None) -> str:
    """The words by which a file is found."""
    return " ".join(sorted({*words(prompt), *words(" ".join(tags)), *words(name or "")}))
