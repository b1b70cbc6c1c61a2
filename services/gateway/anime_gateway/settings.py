"""Settings of the gateway."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator

from anime_common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Read from environment variables `ANIME_*`. Times in seconds, sizes in bytes."""

    gateway_host: str = Field("127.0.0.1", description="Address of the door; only loopback, as there are no tokens.")
    gateway_port: int = Field(8328, ge=0, le=65535, description="Port of the door; 0 takes a free one.")
    gateway_submit_wait: float = Field(1.0, gt=0, le=30, description="Longest wait for the answer to a command.")
    gateway_publish_wait: float = Field(5.0, gt=0, le=60, description="Longest time to get a command stored.")
    gateway_rpc_wait: float = Field(5.0, gt=0, le=60, description="Longest wait for the answer to a question.")
    gateway_prefer_wait: float = Field(120.0, gt=0, le=3600, description="Largest N of `Prefer: wait=N`.")
    gateway_max_body: int = Field(256 * 1024, ge=1024, description="Largest request body.")
    gateway_heartbeat: float = Field(15.0, gt=0, description="Silence after which a stream says that it lives.")
    gateway_tail_check: float = Field(2.0, gt=0, description="How often the live feed is compared with the streams.")
    gateway_streams: int = Field(10_000, ge=1, description="Most event streams and subscriptions at a time.")
    gateway_stream_queue: int = Field(4096, ge=16, description="Most events that wait for one client.")
    gateway_stuck_after: float = Field(30.0, gt=0, description="A client that takes nothing for so long is closed.")
    gateway_replay: int = Field(20_000, ge=1, description="Most stored messages looked through to resume a client.")

    @field_validator("gateway_host")
    @classmethod
    def _only_loopback(cls, value: str) -> str:
        try:
            loopback = value == "localhost" or ipaddress.ip_address(value).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                "must be a loopback address (127.0.0.1, ::1 or localhost): without access tokens, which do not exist "
                "yet, anybody who reached another address could use everything"
            )
        return value
