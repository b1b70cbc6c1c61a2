"""Prometheus metrics of the ledger."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SUBMITTED = Counter(
    "anime_jobs_submitted_total", "Submits by outcome: accepted, or the code of the refusal.", ["outcome"]
)
ENDED = Counter("anime_jobs_ended_total", "Jobs that ended, by state.", ["state"])
JOBS = Gauge("anime_jobs", "Jobs by state.", ["state"])
WORKERS = Gauge("anime_workers", "Workers by status.", ["status"])
OFFERS = Counter("anime_offers_total", "Offers by what became of them: made, repeated, fenced.", ["kind"])
ETA_RATIO = Histogram(
    "anime_eta_ratio",
    "Seconds until the end as first told, over those that it took, of completed jobs: 1 is right, less too hopeful.",
    buckets=(0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.11, 1.25, 1.5, 2, 4, 10),
)
PLAN_SECONDS = Histogram(
    "anime_tick_seconds",
    "Time for one look at the whole: reconcile, plan, dispatch.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
