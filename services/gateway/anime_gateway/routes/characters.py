"""Characters: who recurs in pictures, and the versions of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from anime_common.contracts.characters import (
    COMPARE_VERSIONS,
    CREATE_CHARACTER,
    DELETE_CHARACTER,
    GET_CHARACTER,
    GET_VERSION,
    LIST_CHARACTERS,
    LIST_VERSIONS,
    UPDATE_CHARACTER,
    USE_VERSION,
    CanonChanges,
    Character,
    CharacterChanges,
    CharacterPage,
    CharacterQuery,
    CharacterRef,
    CharacterVersion,
    CompareVersions,
    Comparison,
    CreateCharacter,
    DeleteCharacter,
    DeletedCharacter,
    NewCharacter,
    Reference,
    UpdateCharacter,
    UseVersion,
    VersionPage,
    VersionQuery,
    VersionRef,
)
from anime_common.contracts.vocabulary import Cursor, Name
from anime_common.outcomes import Refused, not_found
from anime_gateway import inputs
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.etags import IfMatch, expected, tagged
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.public import BASE, CharacterReplacement
from anime_gateway.routes.projects import Flag

router = APIRouter(prefix="/characters", tags=["characters"])

Ref = Annotated[str, Path(description="The character's id or slug.", examples=["yuki"])]
Project = Annotated[Name | None, Query(description="Id or slug of its project, where several have one of that slug.")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the version.")]
Before = Annotated[int, Query(ge=1, le=2**31 - 1, description="Number of the one version.")]
After = Annotated[int, Query(ge=1, le=2**31 - 1, description="Number of the other.")]
Page = Annotated[Cursor | None, Query(description="The `next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Most versions of a page.")]
EXAMPLE = {
    "name": "Yuki",
    "canon": {
        "figure": "girl",
        "hair": "long hair, silver hair",
        "eyes": "red eyes",
        "outfit": ["school uniform"],
        "key_colours": [{"part": "hair ribbon", "name": "crimson", "hex": "#c2183c"}],
        "never": "glasses",
    },
    "seed": {"mode": "scene"},
}


@router.post(
    "",
    summary="Make a character",
    status_code=201,
    response_model=Character,
    responses=errors(409, *WRITE_ERRORS),
    openapi_extra=json_body(
        NewCharacter, shared=EXAMPLE, of_a_project={"name": "Mio", "project": "moonlit-academy", "lora": {"key": "mio"}}
    ),
)
async def create(
    gateway: Deps, wanted: Annotated[NewCharacter, body(NewCharacter)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a character of a project, or one that all share; its slug is made from the name unless given."""
    await _check_references(gateway, wanted.references)
    question = CreateCharacter(id=id_for("character", idempotency_key), character=wanted)
    try:
        made = await gateway.ask(CREATE_CHARACTER, question, within="character")
    except Refused as error:
        if error.code != "timeout":
            raise
        # Nobody knows whether it was made: the same id makes asking again harmless.
        made = await gateway.ask(CREATE_CHARACTER, question, within="character")
    return tagged(made, made.revision, 201, {"Location": f"{BASE}/characters/{made.id}"})


async def _check_references(gateway: Gateway, references: Iterable[Reference]) -> None:
    checks = (
        inputs.check_picture(gateway, f"references.{index}.file_id", each.file_id)
        for index, each in enumerate(references)
    )
    await asyncio.gather(*checks)


@router.get("", summary="List characters", response_model=CharacterPage, responses=errors(422))
async def list_characters(gateway: Deps, query: Annotated[CharacterQuery, Query()]) -> Response:
    """Characters by slug; of a project, with those that all share."""
    return answer(await gateway.ask(LIST_CHARACTERS, query))


@router.get("/{character}", summary="Read a character", response_model=Character, responses=errors(404, 409, 422))
async def read(gateway: Deps, character: Ref, project: Project = None) -> Response:
    """A character as of its current version. Its `ETag` is for `If-Match`."""
    found = await gateway.ask(GET_CHARACTER, CharacterRef(character=checked(character), project=project))
    return tagged(found, found.revision)


@router.put(
    "/{character}",
    summary="Replace a character",
    response_model=Character,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(CharacterReplacement, character=EXAMPLE),
)
async def replace(
    gateway: Deps,
    character: Ref,
    wanted: Annotated[CharacterReplacement, body(CharacterReplacement)],
    project: Project = None,
    if_match: IfMatch = None,
) -> Response:
    """Set all of its content; what is absent takes its default. A change makes a new version."""
    canon = CanonChanges.model_validate(dict(wanted.canon))
    changes = CharacterChanges.model_validate({**dict(wanted), "canon": canon})
    return await _update(gateway, CharacterRef(character=checked(character), project=project), changes, if_match)


@router.patch(
    "/{character}",
    summary="Change a character",
    response_model=Character,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(
        CharacterChanges,
        canon={"canon": {"hair": "short hair, silver hair"}, "note": "episode two"},
        archive={"state": "archived"},
        move={"project": "moonlit-academy"},
    ),
)
async def change(
    gateway: Deps,
    character: Ref,
    changes: Annotated[CharacterChanges, body(CharacterChanges)],
    project: Project = None,
    if_match: IfMatch = None,
) -> Response:
    """Change some of it, of its canon too; what is absent stays. A change of content makes a new version."""
    return await _update(gateway, CharacterRef(character=checked(character), project=project), changes, if_match)


async def _update(gateway: Gateway, ref: CharacterRef, changes: CharacterChanges, if_match: str | None) -> Response:
    await _check_references(gateway, changes.references or ())
    question = UpdateCharacter(
        character=ref.character, project=ref.project, changes=changes, expected_version=expected(if_match)
    )
    changed = await gateway.ask(UPDATE_CHARACTER, question, within="changes")
    return tagged(changed, changed.revision)


@router.delete(
    "/{character}",
    summary="Delete a character",
    response_model=DeletedCharacter,
    responses=errors(404, 409, 412, 413, 415, 422),
)
async def delete(
    gateway: Deps,
    character: Ref,
    *,
    project: Project = None,
    force: Annotated[Flag, Query(description="Delete it although jobs were drawn with it.")] = False,
    if_match: IfMatch = None,
) -> Response:
    """Delete a character with its versions. One that jobs were drawn with is archived instead, unless forced."""
    question = DeleteCharacter(
        character=checked(character), project=project, force=force, expected_version=expected(if_match)
    )
    return answer(await gateway.ask(DELETE_CHARACTER, question))


@router.get(
    "/{character}/versions",
    summary="List the versions of a character",
    response_model=VersionPage,
    responses=errors(404, 409, 422),
)
async def list_versions(
    gateway: Deps, character: Ref, project: Project = None, limit: Limit = 50, cursor: Page = None
) -> Response:
    """Its versions, newest first; they never change."""
    query = VersionQuery(character=checked(character), project=project, limit=limit, cursor=cursor)
    return answer(await gateway.ask(LIST_VERSIONS, query))


@router.get(
    "/{character}/versions/compare",
    summary="Compare two versions",
    response_model=Comparison,
    responses=errors(404, 409, 422),
)
async def compare(gateway: Deps, character: Ref, before: Before, after: After, project: Project = None) -> Response:
    """The fields in which two versions differ, with what was added to lists and taken out of them."""
    question = CompareVersions(character=checked(character), project=project, before=before, after=after)
    return answer(await gateway.ask(COMPARE_VERSIONS, question))


@router.get(
    "/{character}/versions/{version}",
    summary="Read a version",
    response_model=CharacterVersion,
    responses=errors(404, 409, 422),
)
async def read_version(gateway: Deps, character: Ref, version: Number, project: Project = None) -> Response:
    """A version of a character, as it always was."""
    question = VersionRef(character=checked(character), project=project, version=version)
    return answer(await gateway.ask(GET_VERSION, question))


@router.post(
    "/{character}/versions/{version}/use",
    summary="Make a version the current one",
    response_model=Character,
    responses=errors(404, 409, 412, 413, 415, 422),
)
async def use_version(
    gateway: Deps, character: Ref, version: Number, project: Project = None, if_match: IfMatch = None
) -> Response:
    """Jobs take this version from now on; no version is lost."""
    question = UseVersion(
        character=checked(character), project=project, version=version, expected_version=expected(if_match)
    )
    changed = await gateway.ask(USE_VERSION, question)
    return tagged(changed, changed.revision)


def checked(character: str) -> str:
    """The name of a character in a path; raises Refused when none can have it."""
    if not 1 <= len(character) <= 64 or not character.isprintable():
        raise not_found("character", character[:64], "character")
    return character
