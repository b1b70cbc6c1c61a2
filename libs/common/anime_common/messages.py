"""The message base: wire names, subjects, and the CloudEvents binding.

A message class is a frozen pydantic model with an explicit wire name, version and subject, declared once in
`anime_common.contracts.<owner>`. Commands, events, facts and offers travel over JetStream as CloudEvents 1.0 in
binary mode (attributes as `ce-*` headers, JSON body; https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md).
Telemetry and control messages travel over core NATS with the body alone.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from anime_common import strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN = re.compile(r"[a-z0-9_-]{1,64}")
"""What one token of a subject may look like."""

JSON = "application/json"


class Kind(StrEnum):
    """What a message is for; decides its subject prefix and how it is carried."""

    COMMAND = "cmd"
    EVENT = "evt"
    OFFER = "dispatch"
    TELEMETRY = "tel"
    CONTROL = "ctl"

    @property
    def stored(self) -> bool:
        """Whether messages of this kind live in a JetStream stream and carry CloudEvents headers."""
        return self in {Kind.COMMAND, Kind.EVENT, Kind.OFFER}


class Model(BaseModel):
    """Base of every value inside a message: immutable; unknown fields are ignored, so that evolution is additive.

    Numbers are finite: JSON has no others, and no browser reads them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Request(BaseModel):
    """Base of what people send: immutable; unknown fields are refused, so that a typing mistake is never swallowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Model):
    """Base of every message class.

    Declared as `class JobQueued(Message, wire="jobs.queued", kind=Kind.EVENT, subject="anime.evt.jobs.queued.{id}")`.
    `{name}` in the subject is filled from the field of that name; a name that is not a field (such as `client`)
    must be given to `subject_for`.

    `identity` is the form of its ce-id: `{name}` is filled like in the subject, `{job.id}` from a field of a field,
    `{type}` from the wire name, and an end `[:{repeat}]` is there only when the repeat number is not 0.
    """

    wire: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    kind: ClassVar[Kind]
    subject: ClassVar[str]
    identity: ClassVar[str] = ""

    def __init_subclass__(
        cls, *, wire: str = "", kind: Kind | None = None, subject: str = "", schema_version: int = 1, **config: Any
    ) -> None:
        """Register a concrete message class under its wire name and version."""
        super().__init_subclass__(**config)
        if not wire:
            return
        if kind is None or not subject:
            raise TypeError(f"{cls.__name__} needs wire, kind and subject")
        cls.wire, cls.kind, cls.subject, cls.schema_version = wire, kind, subject, schema_version
        if cls.ce_type() in REGISTRY:
            raise TypeError(f"{cls.ce_type()} is declared twice")
        REGISTRY[cls.ce_type()] = cls

    @classmethod
    def ce_type(cls) -> str:
        """The CloudEvents type: wire name and version, such as `anime.jobs.submit.v1`."""
        return f"anime.{cls.wire}.v{cls.schema_version}"

    def subject_for(self, **extra: str) -> str:
        """The subject this message is published on; raises ValueError when a token is not allowed in a subject."""
        tokens = []
        for token in self.subject.split("."):
            value = token
            if token.startswith("{"):
                name = token[1:-1]
                value = extra[name] if name in extra else str(getattr(self, name))
                if not TOKEN.fullmatch(value):
                    raise ValueError(f"{name} = {value!r} cannot be a subject token: a-z, 0-9, _ and - are allowed")
            tokens.append(value)
        return ".".join(tokens)

    def ident(self, **extra: object) -> str:
        """The ce-id: unique per message, stable per meaning, so that a repeat of the same is known as one."""
        form, bracket, _ = self.identity.partition("[")
        values = {**dict(self), "type": self.wire.replace(".", ":"), **extra}
        if bracket and values["repeat"]:
            form += ":{repeat}"
        return form.format_map(values)

    def body(self) -> bytes:
        """The JSON body."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The message in a JSON body; raises pydantic.ValidationError.

        What people send is read strictly. Everything else may come from a newer version of us, and carry what they
        sent to it: there an unknown field is ignored at any depth.
        """
        if cls.kind is Kind.COMMAND:
            return strict_json.read(cls, body)
        return strict_json.read_tolerantly(cls, body)


REGISTRY: dict[str, type[Message]] = {}
"""Every declared message class by its CloudEvents type."""


class Undecodable(ValueError):
    """A stored message that no reader can take: it goes to the dead letters. `field` names the first bad field."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Envelope:
    """The CloudEvents attributes of a received message, and the subject it came on."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime | None = None
    traceparent: str | None = None

    @property
    def last_token(self) -> str:
        """The last token of the subject: of a command, the client that sent it."""
        return self.subject.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be published, with its identity. `extra` fills subject tokens that are no fields.

    `traceparent` is the trace it belongs to, when that is not the running one.
    """

    message: Message
    id: str
    extra: tuple[tuple[str, str], ...] = ()
    traceparent: str | None = None

    @property
    def subject(self) -> str:
        """The subject it goes to."""
        return self.message.subject_for(**dict(self.extra))


def ce_headers(out: Outgoing, *, source: str, now: datetime, traceparent: str | None = None) -> dict[str, str]:
    """The headers of a stored message: CloudEvents attributes, the deduplication id and the trace context."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": out.id,
        "ce-type": out.message.ce_type(),
        "ce-source": f"/anime/{source}",
        "ce-time": now.astimezone(UTC).isoformat(timespec="milliseconds"),
        "content-type": JSON,
        "Nats-Msg-Id": out.id,
    }
    if trace := out.traceparent or traceparent:
        headers["traceparent"] = trace
    return headers


def read_envelope(subject: str, headers: Mapping[str, str] | None) -> Envelope:
    """The envelope of a received message; raises Undecodable when an attribute is missing or malformed."""
    found = {name.lower(): value for name, value in (headers or {}).items()}
    ident = found.get("ce-id", "")
    if not ident or len(ident) > 512 or not ident.isprintable():
        raise Undecodable("the header ce-id is missing, empty or longer than 512 characters", "ce-id")
    if found.get("ce-specversion", "1.0") != "1.0":
        raise Undecodable(f"ce-specversion {found['ce-specversion']!r} is not supported: 1.0 is", "ce-specversion")
    if not found.get("ce-type"):
        raise Undecodable("the header ce-type is missing", "ce-type")
    try:
        at = datetime.fromisoformat(found["ce-time"]) if "ce-time" in found else None
    except ValueError as error:
        raise Undecodable(f"ce-time {found['ce-time']!r} is not an RFC 3339 time", "ce-time") from error
    return Envelope(ident, found["ce-type"], found.get("ce-source", ""), subject, at, found.get("traceparent"))


def decode(envelope: Envelope, body: bytes) -> Message:
    """The message of an envelope; raises Undecodable with the first bad field."""
    cls = REGISTRY.get(envelope.type)
    if cls is None:
        raise Undecodable(f"unknown message type {envelope.type!r}", "ce-type")
    if not subject_matches(cls.subject, envelope.subject):
        raise Undecodable(f"{envelope.type} does not belong on {envelope.subject}", "ce-type")
    try:
        return cls.parse(body)
    except ValidationError as error:
        field, text = first_error(error)
        raise Undecodable(f"{field}: {text}" if field else text, field) from error


def subject_matches(template: str, subject: str) -> bool:
    """Whether a concrete subject fits a template with `{name}`, `*` or `>` tokens."""
    wanted, got = template.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(got) > index
        if index >= len(got) or not (part == "*" or part.startswith("{") or part == got[index]):
            return False
    return len(wanted) == len(got)


def first_error(error: ValidationError) -> tuple[str, str]:
    """The dotted field and the text of the first problem that pydantic found."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


def uuid7(at: datetime | None = None) -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then random bits; sorts by time of making."""
    millis = int((at.timestamp() if at else time.time()) * 1000) & ((1 << 48) - 1)
    return UUID(int=millis << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62))


def uuid8(*parts: object) -> UUID:
    """The UUIDv8 (RFC 9562 §5.8) that belongs to these parts: always the same one, made of their SHA-256."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:16]
    value = int.from_bytes(digest, "big") & ~(0xF << 76) & ~(0b11 << 62)
    return UUID(int=value | 8 << 76 | 0b10 << 62)
