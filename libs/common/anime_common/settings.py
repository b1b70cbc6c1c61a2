"""Settings that every service has: where the bus, the database and the artifacts are, how to log and to be watched.

Each service subclasses `ServiceSettings` in its own `settings.py`; nothing else reads the environment.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be an IANA time zone such as UTC or Asia/Tokyo")
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]
"""The name of a time zone."""


class ServiceSettings(BaseSettings):
    """Read from environment variables `ANIME_*`. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ANIME_", frozen=True, extra="ignore", env_ignore_empty=True)

    nats_url: str = Field("nats://127.0.0.1:4222", description="Where the NATS server is.")
    nats_user: str | None = Field(None, description="User on the bus; default: the service's name.")
    nats_password: SecretStr | None = Field(None, description="Password on the bus.")
    nats_password_file: Path | None = Field(None, description="File that holds the password on the bus.")
    postgres_dsn: str = Field("postgresql://127.0.0.1:5432/anime", description="Where PostgreSQL is.")
    postgres_password_file: Path | None = Field(None, description="File that holds the database password.")
    postgres_pool: int = Field(6, ge=2, le=64, description="Largest number of database connections.")
    artifacts_url: str = Field("file:///var/lib/anime/artifacts", description="Artifact store: file:// or s3://.")
    http_host: str = Field("127.0.0.1", description="Address of health and metrics.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of health and metrics; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP endpoint for traces; off by default.")
    failpoints: str = Field("", description="Fault injection for tests: name=action[*times][,…].")
    failpoints_record: Path | None = Field(None, description="File that failpoints write to when they act.")
    stop_grace: float = Field(10.0, gt=0, description="Longest ordered shutdown.")

    @field_validator("nats_url")
    @classmethod
    def _nats_scheme(cls, value: str) -> str:
        if not value.startswith(("nats://", "tls://", "ws://", "wss://")):
            raise ValueError("must start with nats://, tls://, ws:// or wss://")
        return value

    @field_validator("postgres_dsn")
    @classmethod
    def _postgres_scheme(cls, value: str) -> str:
        if not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _artifacts_scheme(cls, value: str) -> str:
        if not value.startswith(("file://", "s3://")):
            raise ValueError("must start with file:// or s3://")
        return value

    def nats_secret(self) -> str | None:
        """The password on the bus."""
        if self.nats_password is not None:
            return self.nats_password.get_secret_value()
        return self.nats_password_file.read_text().strip() if self.nats_password_file else None

    def postgres_secret(self) -> str | None:
        """The database password, unless the DSN holds one."""
        return self.postgres_password_file.read_text().strip() if self.postgres_password_file else None


_CREDENTIALS = re.compile(r"//[^/@\s]*@")

S = TypeVar("S", bound=BaseSettings)


def load(cls: type[S]) -> S:
    """The settings, or exit status 2 with every mistake at once, by variable name."""
    try:
        return cls()
    except ValidationError as error:
        prefix = cls.model_config.get("env_prefix", "")
        for problem in error.errors(include_url=False):
            name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
            given = _CREDENTIALS.sub("//***@", repr(problem["input"]))
            sys.stderr.write(f"{name}: {problem['msg']} (got {given})\n")
        raise SystemExit(2) from error
