"""How handling a message ends, and the errors that people see.

A handler returns, or raises one of these; the bus alone turns that into ack, retry or dead letter.
"""

from __future__ import annotations


class Refused(Exception):
    """A request that is refused: HTTP status, stable code, text for people, and the field at fault."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


class Unavailable(Exception):
    """Infrastructure is away (database, bus, another service): wait, never count it as a failure."""


class NotStored(Unavailable):
    """The broker has not stored a message, for certain: it is away, or refused (its stream is full, or not there)."""


class TooLarge(NotStored):
    """The broker refused a message that is larger than it ever takes: trying again is of no use."""


class Unconfirmed(Unavailable):
    """The broker did not say whether it stored a message: it may have. A repeat with the same id is stored once."""


class Poison(Exception):
    """A message that cannot be handled however often it is tried: it goes to the dead letters."""


def not_found(what: str, ref: object, field: str | None = None) -> Refused:
    """The thing named does not exist."""
    return Refused(404, "not_found", f"there is no {what} {str(ref)!r}", field)
