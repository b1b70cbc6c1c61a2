"""The vocabulary of the system: every message and rpc, by the service that owns it."""

from anime_common.contracts import batches, characters, echo, files, generator, jobs, projects, statistics

__all__ = ["batches", "characters", "echo", "files", "generator", "jobs", "projects", "statistics"]
