"""What echo-bridge hears and says: optimise a prompt."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, Field

from anime_common.contracts.vocabulary import PromptText, Prose, not_blank
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc

ANSWER_IDENTITY = "{epoch}:{type}:{job_id}:{job_version}[:{repeat}]"


class OptimizePrompt(Message, wire="echo.optimize", kind=Kind.COMMAND, subject="anime.cmd.echo.optimize"):
    """Improve the prompt of a job that waits in `preparing`. `job_version` and `repeat` name this very question."""

    identity: ClassVar[str] = "{epoch}:jobs:optimize:{job_id}:{job_version}[:{repeat}]"

    job_id: UUID = Field(description="The job.")
    job_version: int = Field(description="Version of the job that asks; copied by the answer.")
    repeat: int = Field(0, description="Number of the repeat; 0 the first time. Copied by the answer.")
    epoch: int = Field(description="The ledger's epoch; copied by the answer.")
    prompt: str = Field(description="The prompt as written.")
    negative_prompt: str = Field("", description="The negative prompt as written.")
    family: str = Field("", description="Family of the model it is for, if known.")


class Change(Model):
    """One thing the optimiser did, for people."""

    kind: str = Field(description="normalised, reordered, deduplicated, added")
    text: str = Field(description="What was done, for people.")


class OptimizedPrompt(Model):
    """The outcome of an optimisation: the text to use and what was done to it."""

    prompt: str = Field(description="The prompt to use.")
    negative_prompt: str = Field("", description="The negative prompt to use; empty: as before.")
    provider: str = Field(description="Who made it.")
    changes: tuple[Change, ...] = Field((), description="What was done to it.")


class PromptOptimized(Message, wire="echo.optimized", kind=Kind.EVENT, subject="anime.evt.echo.optimized.{job_id}"):
    """The answer to `OptimizePrompt`."""

    identity: ClassVar[str] = ANSWER_IDENTITY

    job_id: UUID = Field(description="The job.")
    job_version: int = Field(description="As in the question.")
    repeat: int = Field(0, description="As in the question.")
    epoch: int = Field(description="As in the question.")
    result: OptimizedPrompt = Field(description="The text to use.")


class OptimizeFailed(Message, wire="echo.failed", kind=Kind.EVENT, subject="anime.evt.echo.failed.{job_id}"):
    """No provider could improve the prompt: the original is used."""

    identity: ClassVar[str] = ANSWER_IDENTITY

    job_id: UUID = Field(description="The job.")
    job_version: int = Field(description="As in the question.")
    repeat: int = Field(0, description="As in the question.")
    epoch: int = Field(description="As in the question.")
    reason: Prose = Field(description="Why, for people.")


class OptimizeQuestion(Request):
    """A prompt to improve now, without a job."""

    prompt: Annotated[PromptText, AfterValidator(not_blank)] = Field(description="The prompt as written.")
    negative_prompt: PromptText | None = Field(None, description="The negative prompt as written.")
    family: Annotated[str, Field(strict=True, max_length=64)] = Field("", description="Family of the model it is for.")


OPTIMIZE = Rpc("echo", "optimize", OptimizeQuestion, OptimizedPrompt)
