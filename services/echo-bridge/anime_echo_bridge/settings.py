"""Settings of the echo bridge."""

from __future__ import annotations

from pydantic import Field

from anime_common.settings import ServiceSettings


class EchoSettings(ServiceSettings):
    """`ANIME_ECHO_*`, and what every service has. Times in seconds."""

    echo_batch: int = Field(64, ge=1, le=500, description="How many commands share one transaction.")
    echo_relay_interval: float = Field(0.25, gt=0, description="How often the outbox is looked at without being told.")
