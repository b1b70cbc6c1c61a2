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
PLAN_SECONDS = Histogram(
    "anime_tick_seconds",
    "Time for one look at the whole: reconcile, plan, dispatch.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
