"""Batches: many jobs of one request, what the ledger says of them, and the questions and edits that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic.json_schema import SkipJsonSchema

from anime_common.contracts.casting import Cast
from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.projects import Changes, Expecting, Title
from anime_common.contracts.vocabulary import (
    Cursor,
    Day,
    JobState,
    Name,
    Priority,
    PromptText,
    StrictBool,
    StrictInt,
    When,
    not_blank,
    on_one_line,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc

MAX_JOBS = 1000
"""Jobs of a batch, unless the ledger is set to fewer."""

VariableName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,30}$")]
Value = Annotated[str, Field(strict=True, max_length=500), AfterValidator(on_one_line)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]
AxisName = Annotated[str, Field(strict=True, min_length=1, max_length=32), AfterValidator(on_one_line)]


class Varied(StrEnum):
    """The fields of a request that a batch may try several values of."""

    MODEL = "model"
    PRESET = "preset"
    SAMPLER = "sampler"
    STEPS = "steps"
    GUIDANCE = "guidance"
    CLIP_SKIP = "clip_skip"
    STRENGTH = "strength"
    NEGATIVE_PROMPT = "negative_prompt"


class Choice(StrEnum):
    """Which of the texts that a dynamic prompt stands for are drawn."""

    ALL = "all"
    RANDOM = "random"


class Dynamic(Request):
    """Prompts with variants `{a|b|c}` and wildcards `__name__`, in the syntax of the library dynamicprompts."""

    choose: Choice = Field(Choice.ALL, description="all: every text, in order. random: `count` of them.")
    count: Annotated[StrictInt, Field(ge=1, le=MAX_JOBS)] | None = Field(None, description="How many, when random.")
    seed: Seed | None = Field(None, description="Seed of the choice, when random: the same seed chooses the same.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.count is not None) != (self.choose is Choice.RANDOM):
            raise ValueError("count goes with choose: random, and only with it")
        return self


class Sheet(Request):
    """The contact sheet of a batch: which axis goes across, and which down; by default the first two."""

    columns: AxisName | None = Field(None, description="Axis across.")
    rows: AxisName | None = Field(None, description="Axis down.")


class BatchRequest(GenerationRequest):
    """The request that all jobs of a batch share. Its prompt may be left out where `prompts` are given."""

    prompt: PromptText = Field("", description="What to draw; may hold {variables} and, with `dynamic`, variants.")
    priority: Priority = Field(Priority.BATCH, description="Priority class.")


class NewBatch(Request):
    """Many jobs of one request: one for each combination of all that is listed."""

    name: Title | None = Field(None, description="Name for people.")
    request: BatchRequest = Field(description="What all jobs share.")
    prompts: Annotated[tuple[Annotated[PromptText, AfterValidator(not_blank)], ...], Field(max_length=MAX_JOBS)] = (
        Field((), description="Prompts, instead of that of the request.")
    )
    variables: Annotated[
        Mapping[VariableName, Annotated[tuple[Value, ...], Field(min_length=1, max_length=200)]], Field(max_length=8)
    ] = Field(default_factory=dict, description="What stands for {name} in prompts, negative prompt and scene.")
    dynamic: Dynamic | None = Field(None, description="Take variants and wildcards in prompts; absent: they are text.")
    casts: Annotated[tuple[Cast, ...], Field(max_length=200)] = Field(
        (), description="Casts of characters, each a list of them, instead of those of the request."
    )
    vary: Annotated[
        Mapping[Varied, Annotated[tuple[str | int | float, ...], Field(min_length=1, max_length=100)]],
        Field(max_length=4),
    ] = Field(default_factory=dict, description="Values of other fields of the request.")
    seeds: Annotated[tuple[Seed, ...], Field(max_length=MAX_JOBS)] = Field((), description="Seeds.")
    count: Annotated[StrictInt, Field(ge=1, le=MAX_JOBS)] | None = Field(
        None, description="How many jobs of each combination, each with a seed of its own; not together with seeds."
    )
    sheet: Sheet | None = Field(Sheet(), description="How its contact sheet is laid out; null: none is made.")
    not_before: When | None = Field(None, description="Earliest start of all (RFC 3339 with an offset).")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.seeds and self.count is not None:
            raise ValueError("seeds and count do not go together: give one")
        if not self.prompts and not self.request.prompt.strip():
            raise ValueError("there is nothing to draw: give request.prompt, or prompts")
        if self.prompts and self.request.prompt.strip():
            raise ValueError("request.prompt and prompts do not go together: give one")
        if self.casts and self.request.characters:
            raise ValueError("request.characters and casts do not go together: give one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("each seed may be named once")
        return self


class Axis(Model):
    """One thing in which the jobs of a batch differ, and its values in order."""

    name: str = Field(description="prompt, a variable, a field, cast or seed.")
    values: tuple[str, ...] = Field(description="Its values, as labels for people.")


class Batch(Model):
    """Many jobs that were accepted together."""

    id: UUID = Field(description="The batch.")
    code: str = Field(description="Short id, 8 characters, unique.")
    name: str = Field("", description="Name for people.")
    client: str = Field(description="Who submitted it.")
    project_id: UUID = Field(description="The project.")
    project: str = Field(description="Slug of the project.")
    version: int = Field(1, description="Grows with every change.")
    paused: bool = Field(False, description="Whether its waiting jobs are held back.")
    total: int = Field(description="How many jobs it has.")
    counts: dict[JobState, int] = Field(default_factory=dict, description="Its jobs by state; absent: none.")
    percent: float = Field(0.0, description="How many of its jobs have ended, of a hundred.")
    eta_seconds: float | None = Field(
        None, description="Estimated seconds until its last job ends; absent when nobody can know."
    )
    axes: tuple[Axis, ...] = Field((), description="In what its jobs differ.")
    sheet: UUID | None = Field(None, description="Its contact sheet: a file of the library.")
    created_at: datetime = Field(description="When it was accepted.")
    updated_at: datetime = Field(description="When it last changed.")
    ended_at: datetime | None = Field(None, description="When its last job ended.")


class SheetPlan(Model):
    """How a contact sheet is laid out: labels across and down; empty where there is no such axis."""

    title: str = Field(description="What stands above it.")
    column_axis: str = Field("", description="Name of the axis across.")
    columns: tuple[str, ...] = Field((), description="Labels across; empty: pictures follow each other in rows.")
    row_axis: str = Field("", description="Name of the axis down.")
    rows: tuple[str, ...] = Field((), description="Labels down.")
    date: Day = Field(description="Day to file it under, in the configured time zone.")
    more: int = Field(0, description="Pictures that are left out of `cells`, since one event could not name them all.")


class SheetCell(Model):
    """A picture of a contact sheet, and where it stands."""

    file_id: UUID = Field(description="The picture: a file of the library.")
    row: int = Field(description="Place down, from 0.")
    column: int = Field(description="Place across, from 0.")
    label: str = Field("", description="What else to say of it, where several pictures share a place.")


class BatchChanged(
    Message, wire="jobs.batch_changed", kind=Kind.EVENT, subject="anime.evt.jobs.batch_changed.{batch_id}"
):
    """A batch was accepted, changed, paused, resumed, or got its contact sheet."""

    identity: ClassVar[str] = "{epoch}:{type}:{batch_id}:{batch.version}"

    batch_id: UUID = Field(description="The batch.")
    epoch: int = Field(description="The ledger's epoch.")
    batch: Batch = Field(description="The batch as it is now.")


class BatchEnded(Message, wire="jobs.batch_ended", kind=Kind.EVENT, subject="anime.evt.jobs.batch_ended.{batch_id}"):
    """All jobs of a batch have ended. With a `plan`, files makes a contact sheet of `cells`."""

    identity: ClassVar[str] = "{epoch}:{type}:{batch_id}:{batch.version}"

    batch_id: UUID = Field(description="The batch.")
    epoch: int = Field(description="The ledger's epoch.")
    batch: Batch = Field(description="The batch as it is now.")
    plan: SheetPlan | None = Field(None, description="How its contact sheet is laid out; absent: none is wanted.")
    cells: tuple[SheetCell, ...] = Field((), description="The pictures of its completed jobs.")


class CreateBatch(Request):
    """Accept a batch under an id of the caller's making: a repeat of the same call changes nothing."""

    id: UUID = Field(description="Made by the caller (UUID).")
    batch: NewBatch = Field(description="What to make.")
    dry_run: StrictBool = Field(False, description="Make nothing; say what would be made.")


class Sample(Model):
    """One of the jobs that a batch would have."""

    prompt: str = Field(description="What would be drawn, composed.")
    seed: int | None = Field(None, description="Its seed; absent where it is drawn at random.")
    labels: dict[str, str] = Field(description="Its value on each axis.")


class BatchOffer(Model):
    """What became of a batch, or would."""

    total: int = Field(description="How many jobs it has, or would have.")
    axes: tuple[Axis, ...] = Field(description="In what they differ.")
    samples: tuple[Sample, ...] = Field((), description="The first of them.")
    warnings: tuple[str, ...] = Field((), description="What becomes otherwise than asked, each once, for people.")
    batch: Batch | None = Field(None, description="The batch; absent of a dry run.")


BatchName = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z-]{8,36}$")]
"""A batch's id (UUID) or its 8-character code."""


class BatchRef(Request):
    """Names a batch by id or code."""

    batch: BatchName = Field(description="The batch.")


class BatchQuery(Request):
    """Which batches to list, newest first."""

    project: Name | None = Field(None, description="Batches of this project (id or slug).")
    open: bool | None = Field(None, description="Only those that have not ended, or only those that have.")
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most batches of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class BatchPage(Model):
    """One page of batches, newest first."""

    items: tuple[Batch, ...] = Field(description="The batches.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class BatchChanges(Changes):
    """What to change of a batch; absent fields stay."""

    name: Title | SkipJsonSchema[None] = Field(None, description="New name.")
    paused: StrictBool | SkipJsonSchema[None] = Field(None, description="True holds its waiting jobs back.")
    priority: Priority | SkipJsonSchema[None] = Field(None, description="New priority class of its waiting jobs.")


class UpdateBatch(BatchRef, Expecting):
    """Change a batch; with `expected_version`, only if nobody changed it since."""

    changes: BatchChanges = Field(description="What to change.")


class CancelBatch(BatchRef):
    """Stop all jobs of a batch that have not ended."""


class RetryBatch(BatchRef):
    """Run its failed jobs again; with `cancelled`, those that were cancelled too."""

    cancelled: StrictBool = Field(False, description="Also those that were cancelled.")
    code: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Only those that failed with this code."
    )


class BatchMoved(Model):
    """What an order to all jobs of a batch came to."""

    jobs: int = Field(description="How many jobs it changed.")
    batch: Batch = Field(description="The batch after it.")


CREATE_BATCH = Rpc("jobs", "create_batch", CreateBatch, BatchOffer)
GET_BATCH = Rpc("jobs", "get_batch", BatchRef, Batch)
LIST_BATCHES = Rpc("jobs", "list_batches", BatchQuery, BatchPage)
UPDATE_BATCH = Rpc("jobs", "update_batch", UpdateBatch, BatchMoved)
CANCEL_BATCH = Rpc("jobs", "cancel_batch", CancelBatch, BatchMoved)
RETRY_BATCH = Rpc("jobs", "retry_batch", RetryBatch, BatchMoved)
