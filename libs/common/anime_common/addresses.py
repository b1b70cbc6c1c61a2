"""Addresses to listen at: which of them only this machine reaches, and how one gets there."""

from __future__ import annotations

import ipaddress

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - they are asked for, not taken
"""Every address of the machine, and the one of them by which it reaches itself."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """How this machine reaches an HTTP server of its own that listens at `host`."""
    reached = WILDCARDS.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
