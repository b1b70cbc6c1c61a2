"""What the doctor finds, and whom it examines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from anime_cli.settings import ClientSettings, StackSettings
from anime_cli.stack_file import StackFile, read_stack_file


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and not wrong."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and how to mend it."""

    about: str
    verdict: Verdict
    detail: str
    mend: str | None = None


def ok(about: str, detail: str) -> Finding:
    """All is well."""
    return Finding(about, Verdict.OK, detail)


def note(about: str, detail: str, mend: str | None = None) -> Finding:
    """Something to know."""
    return Finding(about, Verdict.NOTE, detail, mend)


def wrong(about: str, detail: str, mend: str) -> Finding:
    """Something to mend."""
    return Finding(about, Verdict.WRONG, detail, mend)


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: the settings of the stack and of the client, and the stack that runs, if one does."""

    settings: StackSettings
    client: ClientSettings
    url: str
    stack: StackFile | None


def patient(settings: StackSettings, client: ClientSettings, url: str | None) -> Patient:
    """Find out what there is to examine."""
    stack = read_stack_file(settings.home)
    return Patient(settings, client, (url or client.gateway_url()).rstrip("/"), stack)
