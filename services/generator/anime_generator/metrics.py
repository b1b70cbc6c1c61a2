"""Prometheus metrics of the generator."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ATTEMPTS = Counter("anime_attempts_total", "Attempts that ended on this worker, by outcome.", ["outcome"])
PICTURES = Counter("anime_pictures_total", "Pictures staged, by model.", ["model"])
PHASE_SECONDS = Histogram(
    "anime_phase_seconds",
    "Time of a finished attempt in each phase.",
    ["model", "phase"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
HELD = Gauge("anime_attempts_held", "Attempts that this worker holds, by stage.", ["stage"])
ENGINE_RESTARTS = Counter("anime_engine_restarts_total", "Engine processes that had to be replaced.")
ENGINE_USABLE = Gauge("anime_engine_usable", "1 while the engine process takes orders.")
RESIDENT = Gauge("anime_models_resident", "Models in the device's memory, ready to draw.")
RESIDENT_BYTES = Gauge("anime_models_bytes", "Bytes of the models in memory, by tier (device, host).", ["tier"])
MEMORY_FREE = Gauge("anime_device_memory_free_bytes", "Free memory of the device, as last measured.")
REGISTRY_PROBLEMS = Gauge(
    "anime_registry_problems",
    "Mistakes in the registry of models as its file stands; with any, the one before is in force.",
)
