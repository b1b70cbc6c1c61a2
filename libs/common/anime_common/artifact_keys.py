"""The keys under which artifacts lie: made by rule from ids, slugs and extensions, never taken from a message."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anime_common.contracts.vocabulary import EXTENSIONS

if TYPE_CHECKING:
    from uuid import UUID

UPLOADS = "uploads"
"""The folder of what people have sent and files has not taken into the library yet."""

KEY = re.compile(r"[a-z0-9][a-zA-Z0-9_.-]*(?:/[a-zA-Z0-9][a-zA-Z0-9_.-]*)*")


def staging_key(job_id: UUID, attempt_id: UUID, index: int, media_type: str) -> str:
    """Where an attempt leaves its file `index`."""
    return f"{staging_prefix(job_id, attempt_id)}/{index}.{EXTENSIONS[media_type]}"


def staging_prefix(job_id: UUID, attempt_id: UUID | None = None) -> str:
    """The folder of a job's staged files, or of one attempt's."""
    return f"staging/{job_id}/{attempt_id}" if attempt_id else f"staging/{job_id}"


def upload_key(upload_id: UUID) -> str:
    """Where the gateway leaves the bytes of an upload, until files has taken them into the library."""
    return f"{UPLOADS}/{upload_id}"


def checked(key: str) -> str:
    """`key`, if it is one that this system makes; raises ValueError otherwise."""
    if not KEY.fullmatch(key) or ".." in key or len(key) > 1000 or max(map(len, key.split("/"))) > 200:
        raise ValueError(f"not an artifact key: {key!r}")
    return key
