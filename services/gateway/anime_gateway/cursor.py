"""The place of a client in the two event streams: what `id:` of an event holds and `Last-Event-ID` brings back.

A cursor names, for the ledger's stream and for the facts', which incarnation of the stream it belongs to (a digest of
its creation time) and the last sequence that was delivered: `1f0c9a2e.812-77ab01d3.1420`. After the end of a job, the
stream of that job appends the job's version (`…-9`): whoever comes back with it has seen the end.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal

_TOKEN = re.compile(r"([0-9a-f]{8})\.([0-9]{1,18})-([0-9a-f]{8})\.([0-9]{1,18})(?:-([0-9]{1,9}))?")


def incarnation(created: str) -> str:
    """The identity of a stream, from its creation time."""
    return hashlib.sha256(created.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in one stream: everything up to `sequence` was delivered."""

    stream: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in both streams; `end` is the version of the ended job that its stream showed last."""

    ledger: Mark
    facts: Mark
    end: int | None = None

    def __str__(self) -> str:
        """The token, as in `id:`."""
        text = f"{self.ledger.stream}.{self.ledger.sequence}-{self.facts.stream}.{self.facts.sequence}"
        return text if self.end is None else f"{text}-{self.end}"

    @classmethod
    def parse(cls, token: str) -> Cursor | None:
        """The cursor of a token; None when it is not one of ours."""
        found = _TOKEN.fullmatch(token.strip())
        if found is None:
            return None
        ledger, ledger_sequence, facts, facts_sequence, end = found.groups()
        return cls(
            Mark(ledger, int(ledger_sequence)), Mark(facts, int(facts_sequence)), int(end) if end is not None else None
        )

    def ended(self, version: int) -> Cursor:
        """This place, after the end of a job at `version`."""
        return replace(self, end=version)

    def problem(self, now: Cursor) -> Literal["other_stream", "future"] | None:
        """Why a client cannot go on from here when the streams are at `now`: `other_stream`, `future` or None."""
        for mine, current in ((self.ledger, now.ledger), (self.facts, now.facts)):
            if mine.stream != current.stream:
                return "other_stream"
            if mine.sequence > current.sequence:
                return "future"
        return None

    def behind(self, now: Cursor) -> int:
        """How many stored messages lie between here and `now`."""
        return now.ledger.sequence - self.ledger.sequence + now.facts.sequence - self.facts.sequence
