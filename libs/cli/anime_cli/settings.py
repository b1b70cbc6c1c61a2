"""Settings of the embedded stack and of the command line, from environment variables `ANIME_*`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

WORKER = r"^[a-z0-9_-]{1,32}$"
"""What workers may be called."""


class StackSettings(BaseSettings):
    """What the stack embeds and what it takes from outside. Times in seconds.

    `ANIME_NATS_URL`, `ANIME_POSTGRES_DSN` and `ANIME_ARTIFACTS_URL` switch single parts to external ones. Everything
    else that begins with `ANIME_` goes through to the services.
    """

    model_config = SettingsConfigDict(env_prefix="ANIME_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(Path(".anime"), description="Where the state of the embedded stack lies.")
    gateway_host: str = Field("127.0.0.1", description="Address of the door for people.")
    gateway_port: int = Field(8328, ge=0, le=65535, description="Port of the door; the next free one if taken.")
    health_port: int = Field(8331, ge=0, le=65535, description="First port for the services' health and metrics.")
    gateway_tokens: Path | None = Field(
        None, description="File of the gateway's access tokens instead of <home>/secrets/gateway-tokens.json."
    )
    nats_port: int = Field(4222, ge=0, le=65535, description="Port of the embedded NATS; moved if taken.")
    nats_monitor_port: int = Field(8222, ge=0, le=65535, description="Monitoring port of the embedded NATS.")
    postgres_port: int = Field(54328, ge=0, le=65535, description="Port of the embedded PostgreSQL; moved if taken.")
    nats_url: str | None = Field(None, description="An external NATS server instead of the embedded one.")
    nats_secrets: Path | None = Field(
        None, description="Folder with one password file a bus user (nats-jobs, …) for an external NATS server."
    )
    postgres_dsn: str | None = Field(None, description="An external PostgreSQL, as somebody who may make schemas.")
    postgres_password_file: Path | None = Field(None, description="Its password, unless the DSN holds one.")
    artifacts_url: str | None = Field(None, description="An artifact store instead of <home>/artifacts.")
    worker: str = Field("local", pattern=WORKER, description="Name of the generator that draws on this machine.")
    comfyui: Path | None = Field(
        None, description="File of ComfyUI servers, each driven by a worker of its own; default: <home>/comfyui.toml."
    )
    log_format: Literal["json", "console"] = Field("console", description="How the services write their logs.")
    ready_timeout: float = Field(90.0, gt=0, description="Longest wait for the services to be ready.")
    stop_grace: float = Field(10.0, gt=0, description="Longest ordered shutdown of a service.")
    restart_delay: float = Field(0.5, gt=0, description="Wait before a service that died is started again; doubles.")
    restart_delay_max: float = Field(30.0, gt=0, description="Longest such wait.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("nats_url")
    @classmethod
    def _nats_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("nats://", "tls://", "ws://", "wss://")):
            raise ValueError("must start with nats://, tls://, ws:// or wss://")
        return value

    @field_validator("postgres_dsn")
    @classmethod
    def _postgres_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _artifacts_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("file://", "s3://")):
            raise ValueError("must start with file:// or s3://")
        return value


def comfyui_servers(settings: StackSettings) -> tuple[Path, tuple[str, ...]]:
    """The file of ComfyUI servers, and their names: none where nobody made one. Raises ValueError."""
    file = settings.comfyui or settings.home / "comfyui.toml"
    if settings.comfyui is None and not file.exists():
        return file, ()
    try:
        servers = tomllib.loads(file.read_text(encoding="utf-8")).get("servers", {})
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a TOML file: {error}") from error
    names = tuple(servers) if isinstance(servers, dict) else ()
    if wrong := [name for name in names if not re.fullmatch(WORKER, name) or name == settings.worker]:
        taken = f"and not {settings.worker}, which is the worker of this machine"
        raise ValueError(f"{file}: servers.{wrong[0]}: names are small letters, digits, - and _, at most 32, {taken}")
    return file, names


def tokens_file(settings: StackSettings | ClientSettings) -> Path:
    """Where the access tokens of the gateway are kept."""
    return settings.gateway_tokens or settings.home.expanduser().absolute() / "secrets" / "gateway-tokens.json"


class ClientSettings(BaseSettings):
    """Where the `anime` command finds the gateway: what is set, else the stack of this home, else the usual port."""

    model_config = SettingsConfigDict(env_prefix="ANIME_", frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(Path(".anime"), description="Home of the stack to talk to.")
    url: str | None = Field(None, description="The gateway, for a stack on another machine.")
    token: str | None = Field(None, description="Token for a gateway that wants one.")
    gateway_port: int = Field(8328, ge=0, le=65535, description="Its port on this machine when no stack is found.")
    gateway_tokens: Path | None = Field(None, description="File of access tokens, if not that of the home.")
    models: Path | None = Field(None, description="The generator's registry of models, which the doctor looks at.")
    comfyui: Path | None = Field(None, description="The file of ComfyUI servers, if not that of the home.")

    def registry(self) -> Path:
        """The owner's registry of models, which need not be there: the one that is set, else that of this home."""
        return self.models or self.home.expanduser().absolute() / "models.toml"

    def servers(self) -> Path:
        """The file of ComfyUI servers, which need not be there: the one that is set, else that of this home."""
        return self.comfyui or self.home.expanduser().absolute() / "comfyui.toml"

    def existing_registry(self) -> Path | None:
        """The same, or none: only one that was set must be there."""
        file = self.registry()
        return file if self.models is not None or file.exists() else None

    def gateway_url(self) -> str:
        """Base URL of the gateway, without a slash at the end."""
        from anime_cli.stack_file import read_stack_file

        if self.url is not None:
            return self.url.rstrip("/")
        running = read_stack_file(self.home)
        return running.url if running is not None else f"http://127.0.0.1:{self.gateway_port}"
