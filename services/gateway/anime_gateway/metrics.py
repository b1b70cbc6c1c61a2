"""Metrics of the gateway."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUEST_SECONDS = Histogram(
    "anime_http_request_seconds",
    "Time to answer a request of the API, by route; event streams are not counted.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STREAMS = Gauge("anime_streams_open", "Event streams and subscriptions that are open.", ["kind"])
FRAMES = Counter("anime_stream_frames_total", "Events handed to clients' queues, by name.", ["event"])
STREAMS_CLOSED = Counter("anime_streams_closed_total", "Event streams ended by the gateway, by reason.", ["reason"])
FEED_REPAIRED = Counter("anime_feed_repaired_total", "Events that the live feed missed.", ["stream"])
FEED_RESETS = Counter("anime_feed_resets_total", "Times a stream was found replaced or cut.", ["reason"])
COMMANDS = Counter("anime_commands_total", "Commands sent to the ledger, by outcome.", ["command", "outcome"])
