"""Characters: who recurs in pictures, in versions that never change, and the questions about them that jobs answers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.json_schema import SkipJsonSchema

from anime_common.contracts.casting import PromptPart, Trait, Traits, VersionNumber
from anime_common.contracts.generation import LoraWeight
from anime_common.contracts.projects import Changes, Description, Expecting, Title
from anime_common.contracts.vocabulary import (
    Cursor,
    ModelKey,
    Name,
    PromptText,
    Slug,
    StrictBool,
    StrictInt,
    on_one_line,
)
from anime_common.messages import Kind, Message, Model, Request
from anime_common.rpc_contract import Rpc

MAX_REFERENCES = 24


class Figure(StrEnum):
    """As what a character counts in tags such as `1girl` and `2boys`."""

    GIRL = "girl"
    BOY = "boy"
    OTHER = "other"


class KeyColour(Request):
    """A colour by which a character is known. Models read its name; the value is for people."""

    part: Trait = Field(description="What has it, such as hair ribbon.")
    name: Trait = Field(description="The colour in words, such as crimson.")
    hex: Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")] | None = Field(
        None, description="The exact colour, such as #c2183c."
    )


class Canon(Request):
    """What is always true of a character. A trait is a tag or a few words; lists may be written with commas."""

    figure: Figure | None = Field(None, description="As what it counts in tags such as 1girl.")
    species: Trait | None = Field(None, description="Such as elf, or cat girl; absent: human.")
    hair: Traits = Field((), description="Such as long hair, silver hair, twintails.")
    eyes: Traits = Field((), description="Such as red eyes.")
    skin: Traits = Field((), description="Such as pale skin.")
    outfit: Traits = Field((), description="What it wears unless a request says otherwise.")
    accessories: Traits = Field((), description="Such as glasses, hair ribbon.")
    key_colours: Annotated[tuple[KeyColour, ...], Field(max_length=12)] = Field(
        (), description="Colours to know it by."
    )
    traits: Traits = Field((), description="All else, such as small fang, confident smile.")
    never: Traits = Field((), description="What must never appear.")


class CharacterLora(Request):
    """The LoRA that draws a character."""

    key: ModelKey = Field(description="Key of the LoRA in the registry.")
    weight: LoraWeight | None = Field(None, description="How strongly, −4 to 4; default: the LoRA's own weight.")
    trigger: PromptPart = Field("", description="Words that call it; default: the LoRA's own.")


class SeedMode(StrEnum):
    """Where the seed of a picture comes from, when its request names none."""

    FIXED = "fixed"
    SCENE = "scene"
    FREE = "free"


class SeedPolicy(Request):
    """Fixed: always the same seed. Scene: the same for all pictures of one `scene`. Free: drawn at random."""

    mode: SeedMode = Field(SeedMode.FREE, description="fixed, scene or free.")
    seed: Annotated[StrictInt, Field(ge=0, le=2**32 - 1)] | None = Field(None, description="The seed, where fixed.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.seed is not None) != (self.mode is SeedMode.FIXED):
            raise ValueError("a fixed policy has a seed, and no other has one")
        return self


class Reference(Request):
    """A picture that shows how a character looks: for people, and for what learns from it."""

    file_id: UUID = Field(description="A picture of the library.")
    note: Annotated[str, Field(strict=True, max_length=200), AfterValidator(on_one_line)] = Field(
        "", description="What it shows."
    )


References = Annotated[tuple[Reference, ...], Field(max_length=MAX_REFERENCES)]
Aliases = Annotated[tuple[Title, ...], Field(max_length=16)]
Note = Annotated[str, Field(strict=True, max_length=200), AfterValidator(on_one_line)]


class Content(BaseModel):
    """What a version of a character holds."""

    name: Title = Field(description="Name for people, and in prose.")
    aliases: Aliases = Field((), description="Other names.")
    description: Description = Field("", description="For people.")
    canon: Canon = Field(Canon(), description="What is always true of it.")
    design_prompt: PromptText = Field("", description="Words of its design that go into every prompt as they are.")
    negative_prompt: PromptText = Field("", description="What must not appear where it does.")
    lora: CharacterLora | None = Field(None, description="The LoRA that draws it.")
    references: References = Field((), description="Pictures that show it.")
    seed: SeedPolicy = Field(SeedPolicy(), description="Where the seeds of its pictures come from.")


CONTENT = tuple(Content.model_fields)
"""The fields that a version holds."""


class NewCharacter(Content, Request):
    """A character to be made; the slug is made from the name unless given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    slug: Slug | None = Field(None, description="How requests name it; default: made from the name; never changes.")
    project: Name | None = Field(None, description="Id or slug of the project it belongs to; absent: all share it.")
    note: Note = Field("", description="What this first version is.")

    @model_validator(mode="after")
    def _references_once(self) -> Self:
        once(self.references)
        return self


def once(references: tuple[Reference, ...]) -> None:
    """Raise ValueError when a picture is named twice."""
    if len({each.file_id for each in references}) < len(references):
        raise ValueError("references: each picture may be named once")


class CanonChanges(Changes):
    """What to change of a canon; absent fields stay."""

    nullable = frozenset({"figure", "species"})

    figure: Figure | None = Field(None, description="As what it counts; null takes it away.")
    species: Trait | None = Field(None, description="Its species; null: human.")
    hair: Traits | SkipJsonSchema[None] = Field(None, description="All of its hair.")
    eyes: Traits | SkipJsonSchema[None] = Field(None, description="All of its eyes.")
    skin: Traits | SkipJsonSchema[None] = Field(None, description="All of its skin.")
    outfit: Traits | SkipJsonSchema[None] = Field(None, description="All that it wears.")
    accessories: Traits | SkipJsonSchema[None] = Field(None, description="All that it has on it.")
    key_colours: Annotated[tuple[KeyColour, ...], Field(max_length=12)] | SkipJsonSchema[None] = Field(
        None, description="All of its colours."
    )
    traits: Traits | SkipJsonSchema[None] = Field(None, description="All else.")
    never: Traits | SkipJsonSchema[None] = Field(None, description="All that must never appear.")


class CharacterState(StrEnum):
    """Archived characters are kept for what was drawn with them, and taken by no new job."""

    ACTIVE = "active"
    ARCHIVED = "archived"


class CharacterChanges(Changes):
    """What to change of a character: a change of its content makes a new version. Absent fields stay."""

    nullable = frozenset({"lora", "project"})

    name: Title | SkipJsonSchema[None] = Field(None, description="New name.")
    aliases: Aliases | SkipJsonSchema[None] = Field(None, description="All other names.")
    description: Description | SkipJsonSchema[None] = Field(None, description="New description.")
    canon: CanonChanges | SkipJsonSchema[None] = Field(None, description="What to change of its canon.")
    design_prompt: PromptText | SkipJsonSchema[None] = Field(None, description="Words of its design.")
    negative_prompt: PromptText | SkipJsonSchema[None] = Field(None, description="What must not appear where it does.")
    lora: CharacterLora | None = Field(None, description="Its LoRA; null takes it away.")
    references: References | SkipJsonSchema[None] = Field(None, description="All pictures that show it.")
    seed: SeedPolicy | SkipJsonSchema[None] = Field(None, description="Where the seeds of its pictures come from.")
    state: CharacterState | SkipJsonSchema[None] = Field(None, description="Archive it, or take it back.")
    project: Name | None = Field(None, description="The project it belongs to; null: all share it.")
    note: Note | SkipJsonSchema[None] = Field(None, description="What is new in this version.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        once(self.references or ())
        if self.model_fields_set == {"note"}:
            raise ValueError("a note is about a change: give one")
        return self


class Character(Content, Model):
    """Somebody who recurs, as of its current version."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    id: UUID = Field(description="The character.")
    slug: str = Field(description="How requests name it, within its project or among the shared ones; never changes.")
    project_id: UUID | None = Field(None, description="The project it belongs to; absent: all share it.")
    project: str | None = Field(None, description="Slug of that project.")
    state: CharacterState = Field(CharacterState.ACTIVE, description="Whether jobs may take it.")
    version: int = Field(1, description="The version whose content this is: the current one.")
    versions: int = Field(1, description="How many versions there are, numbered from 1.")
    revision: int = Field(1, description="Grows with every change, also when an older version is made current.")
    created_at: datetime = Field(description="When it was made.")
    updated_at: datetime = Field(description="When it last changed.")


class CharacterVersion(Content, Model):
    """One version of a character: it never changes."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    character_id: UUID = Field(description="The character.")
    version: int = Field(description="Its number, from 1.")
    current: bool = Field(description="Whether jobs take this one.")
    note: str = Field("", description="What was new in it.")
    created_at: datetime = Field(description="When it was made.")


class CreateCharacter(Request):
    """Make a character under an id of the caller's making: a repeat of the same call changes nothing."""

    id: UUID = Field(description="Made by the caller (UUID).")
    character: NewCharacter = Field(description="What to make.")


class CharacterRef(Request):
    """Names a character: by its id, or by its slug; of several with that slug, `project` says which."""

    character: Name = Field(description="Id or slug.")
    project: Name | None = Field(None, description="Id or slug of its project; absent: the only one of that slug.")


class UpdateCharacter(CharacterRef, Expecting):
    """Change a character; with `expected_version` (its revision), only if nobody changed it since."""

    changes: CharacterChanges = Field(description="What to change.")


class DeleteCharacter(CharacterRef, Expecting):
    """Delete a character; one that jobs were drawn with is archived instead, unless forced."""

    force: StrictBool = Field(False, description="Delete it all the same; jobs keep what they were drawn with.")


class DeletedCharacter(Model):
    """What became of a character: deleted, or archived."""

    deleted: bool = Field(description="False when it was archived instead.")
    jobs: int = Field(description="How many jobs were drawn with it.")
    character: Character = Field(description="The character as it last was.")


class CharacterQuery(Request):
    """Which characters to list, by slug."""

    project: Name | None = Field(None, description="Those of this project (id or slug), and those that all share.")
    shared: StrictBool | None = Field(None, description="Only those that all share, or only those of projects.")
    state: CharacterState | None = Field(None, description="Those in this state.")
    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most characters of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class CharacterPage(Model):
    """One page of characters."""

    items: tuple[Character, ...] = Field(description="The characters.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class VersionRef(CharacterRef):
    """Names a version of a character."""

    version: VersionNumber = Field(description="Its number.")


class VersionQuery(CharacterRef):
    """Which versions to list, newest first."""

    limit: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Most versions of a page.")
    cursor: Cursor | None = Field(None, description="The `next` of the page before.")


class VersionPage(Model):
    """One page of versions, newest first."""

    items: tuple[CharacterVersion, ...] = Field(description="The versions.")
    next: str | None = Field(None, description="Cursor of the page after this; absent at the end.")


class UseVersion(VersionRef, Expecting):
    """Make a version the current one."""


class CompareVersions(CharacterRef):
    """Two versions, side by side."""

    before: VersionNumber = Field(description="Number of the one.")
    after: VersionNumber = Field(description="Number of the other.")


class Difference(Model):
    """One field in which two versions differ."""

    field: str = Field(description="Dotted name, such as canon.hair.")
    before: str = Field(description="What it holds in the one; lists with commas.")
    after: str = Field(description="What it holds in the other.")
    added: tuple[str, ...] = Field((), description="Of a list: what only the other has.")
    removed: tuple[str, ...] = Field((), description="Of a list: what only the one has.")


class Comparison(Model):
    """In what two versions differ."""

    before: int = Field(description="Number of the one.")
    after: int = Field(description="Number of the other.")
    differences: tuple[Difference, ...] = Field(description="The fields that differ, in their order.")


class CharacterChanged(
    Message, wire="jobs.character_changed", kind=Kind.EVENT, subject="anime.evt.jobs.character_changed.{character_id}"
):
    """A character was made, changed, given another current version, or (`deleted`) removed."""

    identity: ClassVar[str] = "{epoch}:{type}:{character_id}:{version}"

    character_id: UUID = Field(description="The character.")
    character: Character = Field(description="The character as it is now, or last was.")
    deleted: bool = Field(False, description="Whether it was removed.")


CREATE_CHARACTER = Rpc("jobs", "create_character", CreateCharacter, Character)
GET_CHARACTER = Rpc("jobs", "get_character", CharacterRef, Character)
LIST_CHARACTERS = Rpc("jobs", "list_characters", CharacterQuery, CharacterPage)
UPDATE_CHARACTER = Rpc("jobs", "update_character", UpdateCharacter, Character)
DELETE_CHARACTER = Rpc("jobs", "delete_character", DeleteCharacter, DeletedCharacter)
LIST_VERSIONS = Rpc("jobs", "list_character_versions", VersionQuery, VersionPage)
GET_VERSION = Rpc("jobs", "get_character_version", VersionRef, CharacterVersion)
USE_VERSION = Rpc("jobs", "use_character_version", UseVersion, Character)
COMPARE_VERSIONS = Rpc("jobs", "compare_character_versions", CompareVersions, Comparison)
