"""Projects: what the ledger says of them, and the questions and edits of them that it answers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from anime_common.contracts.casting import PromptPart
from anime_common.contracts.generation import MAX_LORAS, LoraRequest, PresetRef, Side
from anime_common.contracts.vocabulary import (
    Cursor,
    JobState,
    ModelKey,
    Name,
    PromptText,
    Slug,
    StrictBool,
    StrictInt,
    not_blank,
    printable,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc


class ProjectState(StrEnum):
    """Where a project is in its life. Drafts are planned, and can be drawn for; archived ones take no new jobs."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class ContentRating(StrEnum):
    """What a project's pictures may show, by the ratings of Danbooru (https://danbooru.donmai.us/wiki_pages/howto:rate)."""

    GENERAL = "general"
    SENSITIVE = "sensitive"
    QUESTIONABLE = "questionable"
    EXPLICIT = "explicit"


Title = Annotated[
    str, Field(strict=True, min_length=1, max_length=100), AfterValidator(not_blank), AfterValidator(printable)
]
"""What people call a project, a character or a batch."""
Description = Annotated[str, Field(strict=True, max_length=4000), AfterValidator(printable)]
MaxRunning = Annotated[StrictInt, Field(ge=1, le=1000)]
Loras = Annotated[tuple[LoraRequest, ...], Field(max_length=MAX_LORAS)]


class Changes(Request):
    """Base of changes of which at least one is given; fields that cannot be taken away must not be null."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"nothing to change: give one of {', '.join(type(self).model_fields)}")
        for name in self.model_fields_set - self.nullable:
            if getattr(self, name) is None:
                raise ValueError(f"{name} must not be null")
        return self


class ProjectStyle(Request):
    """How a project looks: what its jobs are drawn with unless they say otherwise."""

    model: ModelKey | None = Field(None, description="Key of its model; default: the workers' default.")
    preset: PresetRef | None = Field(None, description="Name of a preset of that model.")
    loras: Loras = Field((), description="LoRAs that every picture is drawn with.")
    prompt_prefix: PromptPart = Field("", description="What every prompt begins with, before characters.")
    prompt_suffix: PromptPart = Field("", description="What every prompt ends with.")
    negative_prompt: PromptText | None = Field(
        None, description="What must not appear; added to the request's own, in place of the model's default."
    )
    width: Side | None = Field(None, description="Pixels, together with height; default: the model's.")
    height: Side | None = Field(None, description="Pixels, together with width; default: the model's.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height stand together")
        if self.preset is not None and self.model is None:
            raise ValueError("preset needs the model that has it")
        if len({lora.key for lora in self.loras}) < len(self.loras):
            raise ValueError("each LoRA may be named once")
        return self


class StyleChanges(Changes):
    """What to change of a style; absent fields stay, null takes one away."""

    nullable = frozenset({"model", "preset", "negative_prompt", "width", "height"})

    model: ModelKey | None = Field(None, description="Key of its model.")
    preset: PresetRef | None = Field(None, description="Name of a preset of that model.")
    loras: Loras | SkipJsonSchema[None] = Field(None, description="All LoRAs that it shall have.")
    prompt_prefix: PromptPart | SkipJsonSchema[None] = Field(None, description="What every prompt begins with.")
    prompt_suffix: PromptPart | SkipJsonSchema[None] = Field(None, description="What every prompt ends with.")
    negative_prompt: PromptText | None = Field(None, description="What must not appear.")
    width: Side | None = Field(None, description="Pixels, together with height.")
    height: Side | None = Field(None, description="Pixels, together with width.")


class Project(Model):
    """A production: its jobs, files and characters lie together."""

    id: UUID = Field(description="The project.")
    slug: str = Field(description="Folder of its files; never changes.")
    name: str = Field(description="Name for people.")
    description: str = Field("", description="For people.")
    state: ProjectState = Field(ProjectState.ACTIVE, description="Where it is in its life.")
    rating: ContentRating = Field(ContentRating.GENERAL, description="What its pictures may show.")
    style: ProjectStyle = Field(ProjectStyle(), description="What its jobs are drawn with.")
    cover: UUID | None = Field(None, description="The picture that stands for it: a file of the library.")
    paused: bool = Field(False, description="Whether its waiting jobs are held back.")
    max_running: int | None = Field(None, description="How many of its jobs are given to workers at a time, at most.")
    version: int = Field(1, description="Grows with every change.")
    jobs: int = Field(0, description="How many jobs it has.")
    counts: dict[JobState, int] = Field(default_factory=dict, description="Its jobs by state; absent: none.")
    created_at: datetime = Field(description="When it was made.")
    updated_at: datetime = Field(description="When it last changed.")


class NewProject(Request):
    """A project to be made; the slug is made from the name unless given."""

    name: Title = Field(description="Name for people.")
    slug: Slug | None = Field(None, description="Folder of its files; default: made from the name.")
    description: Description = Field("", description="For people.")
    state: ProjectState = Field(ProjectState.ACTIVE, description="draft or active.")
    rating: ContentRating = Field(ContentRating.GENERAL, description="What its pictures may show.")
    style: ProjectStyle = Field(ProjectStyle(), description="What its jobs are drawn with.")
    cover: UUID | None = Field(None, description="The picture that stands for it: a file of the library.")
    paused: StrictBool = Field(False, description="Whether its waiting jobs are held back.")
    max_running: MaxRunning | None = Field(None, description="How many of its jobs run at a time, at most.")


class ProjectChanges(Changes):
    """What to change of a project; absent fields stay. A slug never changes: it is the folder of its files."""

    nullable = frozenset({"cover", "max_running"})

    name: Title | SkipJsonSchema[None] = Field(None, description="New name.")
    description: Description | SkipJsonSchema[None] = Field(None, description="New description.")
    state: ProjectState | SkipJsonSchema[None] = Field(None, description="Archive it, or take it back.")
    rating: ContentRating | SkipJsonSchema[None] = Field(None, description="What its pictures may show.")
    style: StyleChanges | SkipJsonSchema[None] = Field(None, description="What to change of its style.")
    cover: UUID | None = Field(None, description="The picture that stands for it; null takes it away.")
    paused: StrictBool | SkipJsonSchema[None] = Field(None, description="True holds its waiting jobs back.")
    max_running: MaxRunning | None = Field(None, description="How many of its jobs run at a time; null: any number.")


class CreateProject(Request):
    """Make a project under an id of the caller's making: a repeat of the same call changes nothing."""

    id: UUID = Field(description="Made by the caller (UUID).")
    project: NewProject = Field(description="What to make.")


class ProjectRef(Request):
    """Names a project by id or slug."""

    project: Name = Field(description="Id or slug.")


class Expecting(Request):
    """Base of edits that may be bound to what the editor has seen."""

    expected_version: StrictInt | None = Field(None, description="Refuse (412) when it has another version by now.")


class UpdateProject(ProjectRef, Expecting):
    """Change a project; with `expected_version`, only if nobody changed it since."""

    changes: ProjectChanges = Field(description="What to change.")


class DeleteProject(ProjectRef, Expecting):
    """Delete a project; one with work in it is archived instead, unless forced.

    A forced deletion takes its ended jobs out of the ledger; files hears of it, and moves its files to the trash.
    """

    force: StrictBool = Field(False, description="Delete it with all that is in it.")
    holds_files: StrictBool = Field(False, description="Whether the library has files of it, as the caller found out.")


class DeletedProject(Model):
    """What became of a project: deleted, or archived."""

    deleted: bool = Field(description="False when it was archived instead.")
    jobs: int = Field(description="How many jobs it had.")
    project: Project = Field(description="The project as it last was.")


class ProjectQuery(Request):
    """Which projects to list, by slug."""

    state: ProjectState | None = Field(None, description="Projects in this state.")
    rating: ContentRating | None = Field(None, description="Projects of this rating.")
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most projects of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class ProjectPage(Model):
    """One page of projects."""

    items: tuple[Project, ...] = Field(description="The projects.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class ProjectChanged(
    Message, wire="jobs.project_changed", kind=Kind.EVENT, subject="anime.evt.jobs.project_changed.{project_id}"
):
    """A project was made, changed or (`deleted`) removed with all that was in it."""

    identity: ClassVar[str] = "{epoch}:{type}:{project_id}:{version}"

    project_id: UUID = Field(description="The project.")
    project: Project = Field(description="The project as it is now, or last was.")
    deleted: bool = Field(False, description="Whether it was removed.")


CREATE_PROJECT = Rpc("jobs", "create_project", CreateProject, Project)
GET_PROJECT = Rpc("jobs", "get_project", ProjectRef, Project)
LIST_PROJECTS = Rpc("jobs", "list_projects", ProjectQuery, ProjectPage)
UPDATE_PROJECT = Rpc("jobs", "update_project", UpdateProject, Project)
DELETE_PROJECT = Rpc("jobs", "delete_project", DeleteProject, DeletedProject)
