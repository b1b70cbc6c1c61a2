"""Who appears in a picture, and what its prompt is composed of."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field

from anime_common.contracts.vocabulary import Name, StrictInt, not_blank, on_one_line, printable
from anime_common.messages import Model, Request

MAX_CAST = 8
MAX_TRAITS = 40

PromptPart = Annotated[str, Field(strict=True, max_length=1000), AfterValidator(printable)]
"""A text that stands before or after somebody's own words in a prompt."""

VersionNumber = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]


def _apart(value: Any) -> Any:
    """Traits that somebody wrote in one line, apart; what is no text is left for its own check."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        return value
    parts = (" ".join(part.split()) for each in value for part in each.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


Trait = Annotated[str, Field(strict=True, max_length=100), AfterValidator(not_blank), AfterValidator(on_one_line)]
"""A tag, or a few words."""
Traits = Annotated[
    tuple[Trait, ...],
    Field(max_length=MAX_TRAITS),
    BeforeValidator(_apart, json_schema_input_type=str | list[str]),
]
"""Traits, each once: a list, or one text with commas between them."""


class CharacterUse(Request):
    """A character that appears in a picture."""

    character: Name = Field(description="Its id, or its slug in the project or among the shared ones.")
    version: VersionNumber | None = Field(None, description="A version of it; default: its current one.")
    words: PromptPart = Field("", description="What is asked of this very character, such as its pose.")
    outfit: Traits | None = Field(None, description="What it wears here; default: as in its canon.")


def _named(value: Any) -> Any:
    return {"character": value} if isinstance(value, str) else value


Cast = Annotated[
    tuple[Annotated[CharacterUse, BeforeValidator(_named, json_schema_input_type=str | CharacterUse)], ...],
    Field(max_length=MAX_CAST),
]
"""The characters of a picture, in the order in which they are described; a name alone will do."""


class Manner(StrEnum):
    """How a family of models likes to be told what to draw."""

    TAGS = "tags"
    PROSE = "prose"


class Source(StrEnum):
    """Whose words a part of a prompt is."""

    PROJECT = "project"
    CHARACTER = "character"
    REQUEST = "request"
    MODEL = "model"


class Piece(Model):
    """A part of a composed prompt."""

    source: Source = Field(description="Whose words they are.")
    text: str = Field(description="The words, as they were taken.")
    side: Literal["positive", "negative"] = Field("positive", description="Which prompt it is part of.")
    character: str | None = Field(None, description="Slug of the character that they are of.")


class UsedCharacter(Model):
    """A character as a job took it."""

    id: UUID = Field(description="The character.")
    slug: str = Field(description="Its slug.")
    name: str = Field(description="Its name.")
    version: int = Field(description="The version that was taken.")


class Composition(Model):
    """What a prompt was composed of: in this order, and of these versions."""

    prompt: str = Field(description="What is drawn, as the model gets it.")
    negative_prompt: str = Field("", description="What must not appear, as the model gets it.")
    manner: Manner = Field(Manner.TAGS, description="How the characters are told of.")
    parts: tuple[Piece, ...] = Field((), description="Its parts, in their order.")
    project_version: int = Field(1, description="Version of the project whose style it is.")
    characters: tuple[UsedCharacter, ...] = Field((), description="The characters, and their versions.")
