"""`Idempotency-Key`: a caller's key makes the id of what is created, so that a repeated request creates it once."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

from fastapi import Header

from anime_common.messages import uuid7, uuid8
from anime_gateway.commands import CLIENT
from anime_gateway.problems import invalid

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable characters. The same key with the same request creates nothing twice.",
    ),
]
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


def id_for(what: str, key: str | None) -> UUID:
    """The id of what is to be created: of `key` if there is one, else a new UUIDv7; raises Invalid on a bad key."""
    if key is None:
        return uuid7()
    if not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
    return keyed_id(what, key)


def keyed_id(what: str, key: str) -> UUID:
    """The id that belongs to a key: of what is created, the client and the key."""
    return uuid8(what, CLIENT, key)
