"""What echo-bridge hears and says: optimise a prompt."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from anime_common.contracts.vocabulary import PromptText, not_blank
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc


class OptimizePrompt(Message, wire="echo.optimize", kind=Kind.COMMAND, subject="anime.cmd.echo.optimize"):
    """Improve the prompt of a job that waits in `preparing`. `job_version` and `repeat` name this very question."""

    job_id: UUID
    job_version: int
    repeat: int = 0
    epoch: int
    prompt: str
    negative_prompt: str = ""
    family: str = ""


class Change(Model):
    """One thing the optimiser did, for people."""

    kind: str = Field(description="normalised, reordered, deduplicated, added")
    text: str


class OptimizedPrompt(Model):
    """The outcome of an optimisation: the text to use and what was done to it."""

    prompt: str
    negative_prompt: str = ""
    provider: str
    changes: tuple[Change, ...] = ()


class PromptOptimized(Message, wire="echo.optimized", kind=Kind.EVENT, subject="anime.evt.echo.optimized.{job_id}"):
    """The answer to `OptimizePrompt`."""

    job_id: UUID
    job_version: int
    repeat: int = 0
    epoch: int
    result: OptimizedPrompt


class OptimizeFailed(Message, wire="echo.failed", kind=Kind.EVENT, subject="anime.evt.echo.failed.{job_id}"):
    """No provider could improve the prompt: the original is used."""

    job_id: UUID
    job_version: int
    repeat: int = 0
    epoch: int
    reason: str


class OptimizeQuestion(Request):
    """A prompt to improve now, without a job."""

    prompt: Annotated[PromptText, AfterValidator(not_blank)]
    negative_prompt: PromptText | None = None
    family: Annotated[str, Field(strict=True, max_length=64)] = ""


OPTIMIZE = Rpc("echo", "optimize", OptimizeQuestion, OptimizedPrompt)
