"""Prometheus metrics that every service has. Service-specific ones are declared in the service's own `metrics.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUS_CONNECTED = Gauge("anime_bus_connected", "1 while the connection to NATS is up.")
PUBLISHED = Counter("anime_published_total", "Messages stored in JetStream.", ["stream"])
HANDLED = Counter("anime_handled_total", "Messages of a durable consumer by outcome.", ["consumer", "outcome"])
HANDLE_SECONDS = Histogram(
    "anime_handle_seconds",
    "Time to handle one batch of a durable consumer, commit included.",
    ["consumer"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
OUTBOX_PENDING = Gauge("anime_outbox_pending", "Messages committed and not yet published, as last seen by the relay.")
RPC_SECONDS = Histogram(
    "anime_rpc_seconds",
    "Time to answer a question.",
    ["name", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LEADING = Gauge("anime_leading", "1 while this process holds the named advisory lock.", ["lock"])
