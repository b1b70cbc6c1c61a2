"""Settings of the gateway."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from anime_common.addresses import WILDCARDS, is_loopback
from anime_common.settings import ServiceSettings
from anime_common.tokens import TokensUnreadable, read_tokens

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252}[a-z0-9])?|\[[0-9a-f:.]+\]")


class GatewaySettings(ServiceSettings):
    """Read from environment variables `ANIME_*`. Times in seconds, sizes in bytes."""

    gateway_host: str = Field("127.0.0.1", description="Address of the door; any but loopback needs tokens.")
    gateway_port: int = Field(8328, ge=0, le=65535, description="Port of the door; 0 takes a free one.")
    gateway_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validate_default=True, description="Names by which people reach the door, besides loopback; with commas."
    )
    gateway_tokens: Path | None = Field(None, validate_default=True, description="File of access tokens.")
    gateway_require_tokens: bool | None = Field(
        None, validate_default=True, description="Whether a token is needed; default: unless the address is loopback."
    )
    gateway_submit_wait: float = Field(1.0, gt=0, le=30, description="Longest wait for the answer to a command.")
    gateway_publish_wait: float = Field(5.0, gt=0, le=60, description="Longest time to get a command stored.")
    gateway_rpc_wait: float = Field(5.0, gt=0, le=60, description="Longest wait for the answer to a question.")
    gateway_prefer_wait: float = Field(120.0, gt=0, le=3600, description="Largest N of `Prefer: wait=N`.")
    gateway_max_body: int = Field(256 * 1024, ge=1024, description="Largest request body.")
    gateway_max_upload: int = Field(32 * 1024 * 1024, ge=1024, description="Largest picture that is uploaded.")
    gateway_uploads: int = Field(8, ge=1, le=256, description="Most uploads at a time; others wait.")
    gateway_upload_wait: float = Field(15.0, gt=0, le=60, description="Longest wait for files to take an upload.")
    gateway_heartbeat: float = Field(15.0, gt=0, description="Silence after which a stream says that it lives.")
    gateway_tail_check: float = Field(2.0, gt=0, description="How often the live feed is compared with the streams.")
    gateway_streams: int = Field(10_000, ge=1, description="Most event streams and subscriptions at a time.")
    gateway_stream_queue: int = Field(4096, ge=16, description="Most events that wait for one client.")
    gateway_stuck_after: float = Field(
        30.0, gt=0, description="A client that takes or sends nothing for so long is closed."
    )
    gateway_replay: int = Field(20_000, ge=1, description="Most stored messages looked through to resume a client.")

    gateway_rate: float = Field(500.0, gt=0, description="Requests a second of one token or address, in the long run.")
    gateway_burst: int = Field(5000, ge=1, description="Requests at once of one token or address.")
    gateway_write_rate: float = Field(100.0, gt=0, description="The same for requests that change something.")
    gateway_write_burst: int = Field(2000, ge=1, description="The same for requests that change something.")
    gateway_failure_rate: float = Field(0.2, gt=0, description="Wrong tokens a second of one address.")
    gateway_failure_burst: int = Field(20, ge=1, description="Wrong tokens at once of one address.")
    gateway_token_check: float = Field(2.0, gt=0, description="Longest life of a stream whose token is revoked.")

    @property
    def tokens_required(self) -> bool:
        """Whether requests to the API must present a token."""
        return self.gateway_require_tokens or not is_loopback(self.gateway_host)

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a `Host` header may have, without ports, in lower case."""
        own = () if self.gateway_host in WILDCARDS else (self.gateway_host,)
        return LOOPBACK | {_as_host(name) for name in (*own, *self.gateway_hosts)}

    @field_validator("gateway_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("gateway_hosts")
    @classmethod
    def _named(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(_as_host(name)):
                raise ValueError(f"{name!r} is no host name or address; give names without scheme and port")
        if not value and info.data.get("gateway_host") in WILDCARDS:
            raise ValueError(
                "name the host names and addresses by which people reach this machine, as in "
                "tower,tower.lan,192.168.1.10: ANIME_GATEWAY_HOST takes requests for any"
            )
        return value

    @field_validator("gateway_tokens")
    @classmethod
    def _there_are_tokens(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        host = info.data.get("gateway_host")
        if host is None or is_loopback(host):
            return value
        if value is None:
            raise ValueError("must name the file of access tokens: ANIME_GATEWAY_HOST is no loopback address")
        try:
            good = [token for token in read_tokens(value) if not token.expired(datetime.now(UTC))]
        except TokensUnreadable as error:
            raise ValueError(str(error)) from error
        if not good:
            raise ValueError(
                f"{value} holds no token that is good, and ANIME_GATEWAY_HOST is no loopback address: make one first, "
                "with `anime token create NAME --scope admin`"
            )
        return value

    @field_validator("gateway_require_tokens")
    @classmethod
    def _not_switched_off(cls, value: bool | None, info: ValidationInfo) -> bool | None:  # noqa: FBT001 - pydantic's way
        host = info.data.get("gateway_host")
        if value is False and host is not None and not is_loopback(host):
            raise ValueError("can only be switched off while ANIME_GATEWAY_HOST is a loopback address")
        if value and info.data.get("gateway_tokens") is None:
            raise ValueError("needs ANIME_GATEWAY_TOKENS, the file of access tokens")
        return value


def _as_host(name: str) -> str:
    """A name or address as a `Host` header has it: IPv6 in brackets."""
    lower = name.lower()
    return f"[{lower}]" if ":" in lower and not lower.startswith("[") else lower
