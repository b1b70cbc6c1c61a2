"""Prometheus metrics of the echo bridge."""

from __future__ import annotations

from prometheus_client import Counter

OPTIMIZED = Counter("anime_echo_optimized_total", "Prompts answered, by provider and outcome.", ["provider", "outcome"])
