"""What the ledger says of a stretch of time: how quick, how often again, how long waited, what came of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from anime_common.contracts.vocabulary import JobState, Priority
from anime_common.messages import Model, Request
from anime_common.rpc_contract import Rpc

TARGET_SECONDS = 30.0
"""What a picture is to take at most, on the card that the product is made for."""


class Window(StrEnum):
    """A stretch of time until now."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"
    ALL = "all"

    @property
    def length(self) -> timedelta | None:
        """None: from the beginning."""
        return {
            Window.HOUR: timedelta(hours=1),
            Window.DAY: timedelta(days=1),
            Window.WEEK: timedelta(days=7),
            Window.MONTH: timedelta(days=30),
            Window.ALL: None,
        }[self]


class StatsQuestion(Request):
    """Which stretch of time."""

    window: Window = Field(Window.DAY, description="How far back to look.")


class ModelSpeed(Model):
    """How quick a model was: of finished attempts, from start to end, loading included."""

    model: str = Field(description="The model.")
    finished: int = Field(description="Attempts that finished.")
    pictures: int = Field(description="Pictures that these made.")
    median_seconds: float = Field(description="Half of them took no longer.")
    p95_seconds: float = Field(description="19 of 20 took no longer.")
    within_target: float = Field(description="Part of them that took no longer than the target, 0 to 1.")
    median_loading: float | None = Field(None, description="Median seconds of loading, of those that had to load.")


class ClassWait(Model):
    """How long jobs of a class waited, from when they could have run until a worker began."""

    priority: Priority = Field(description="The class, as it was at last.")
    jobs: int = Field(description="Jobs that were begun.")
    median_seconds: float = Field(description="Half of them waited no longer.")
    p95_seconds: float = Field(description="19 of 20 waited no longer.")


class Retries(Model):
    """Second and later attempts."""

    attempts: int = Field(description="Attempts beyond the first of their job.")
    jobs: int = Field(description="Jobs that needed them.")
    codes: dict[str, int] = Field(description="Attempts that failed, were lost or taken back, by why.")


class EchoUse(Model):
    """What became of prompts that Echo was to improve."""

    asked: int = Field(description="Jobs that asked for it.")
    improved: int = Field(description="Jobs whose prompt Echo has answered for.")
    fell_back: int = Field(description="Jobs that run with their own words, since no answer came or it was refused.")
    reasons: dict[str, int] = Field(description="The latter by why, the most frequent ones.")


class History(Model):
    """A stretch of time, measured."""

    window: Window = Field(description="What was asked for.")
    since: datetime | None = Field(None, description="Where it begins; absent: with the first job.")
    until: datetime = Field(description="Where it ends: now.")
    submitted: dict[JobState, int] = Field(description="Jobs that were submitted in it, by state.")
    completed: int = Field(description="Jobs that were completed in it.")
    failed: int = Field(description="Jobs that failed in it.")
    cancelled: int = Field(description="Jobs that were cancelled in it.")
    target_seconds: float = Field(TARGET_SECONDS, description="What a picture is to take at most.")
    models: tuple[ModelSpeed, ...] = Field(description="Speeds by model, the most used first.")
    waits: tuple[ClassWait, ...] = Field(description="Waiting times by class.")
    retries: Retries = Field(description="What was tried more than once.")
    files: int = Field(description="Files that completed jobs made.")
    bytes: int = Field(description="How large they are together.")
    echo: EchoUse = Field(description="What became of prompts.")
    eta_factor: float | None = Field(
        None, description="By what factor half of the jobs were told wrong at most when they would end."
    )


GET_HISTORY = Rpc("jobs", "history", StatsQuestion, History)
