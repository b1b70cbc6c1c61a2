"""Projects: the folders of jobs and files, and what their jobs are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from anime_common.contracts.files import LIBRARY_USE, ProjectUse, UseQuestion
from anime_common.contracts.projects import (
    CREATE_PROJECT,
    DELETE_PROJECT,
    GET_PROJECT,
    LIST_PROJECTS,
    UPDATE_PROJECT,
    CreateProject,
    DeleteProject,
    NewProject,
    Project,
    ProjectChanges,
    ProjectQuery,
    ProjectRef,
    StyleChanges,
    UpdateProject,
)
from anime_common.outcomes import Refused, not_found
from anime_gateway import inputs
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.etags import IfMatch, expected, tagged
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.public import BASE, DeletedProjectView, ProjectReplacement, ProjectView, ProjectViews, project_view

router = APIRouter(prefix="/projects", tags=["projects"])

Ref = Annotated[str, Path(description="The project's id or slug.", examples=["moonlit-academy"])]
Flag = Annotated[bool, BeforeValidator(lambda value: True if value == "" else value)]
EXAMPLE = {"name": "Moonlit Academy", "description": "Pilot, autumn season"}
STYLED = {
    "name": "Moonlit Academy",
    "rating": "general",
    "style": {
        "model": "counterfeit",
        "loras": [{"key": "ink-style", "weight": 0.6}],
        "prompt_prefix": "anime screencap",
        "prompt_suffix": "soft lighting",
        "negative_prompt": "lowres, bad anatomy",
        "width": 512,
        "height": 768,
    },
}


@router.post(
    "",
    summary="Make a project",
    status_code=201,
    response_model=ProjectView,
    responses=errors(409, *WRITE_ERRORS),
    openapi_extra=json_body(NewProject, project=EXAMPLE, with_a_style=STYLED),
)
async def create(
    gateway: Deps, wanted: Annotated[NewProject, body(NewProject)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a project; its slug is made from the name unless given, and never changes."""
    await inputs.check_picture(gateway, "cover", wanted.cover)
    question = CreateProject(id=id_for("project", idempotency_key), project=wanted)
    try:
        made = await gateway.ask(CREATE_PROJECT, question, within="project")
    except Refused as error:
        if error.code != "timeout":
            raise
        # Nobody knows whether it was made: the same id makes asking again harmless.
        made = await gateway.ask(CREATE_PROJECT, question, within="project")
    return await _shown(gateway, made, 201, {"Location": f"{BASE}/projects/{made.id}"})


@router.get("", summary="List projects", response_model=ProjectViews, responses=errors(422))
async def list_projects(gateway: Deps, query: Annotated[ProjectQuery, Query()]) -> Response:
    """Projects by slug, with how much is in each."""
    page = await gateway.ask(LIST_PROJECTS, query)
    used = await _used(gateway, [each.id for each in page.items])
    items = tuple(project_view(each, used.get(each.id)) for each in page.items)
    return answer(ProjectViews(items=items, next=page.next))


@router.get("/{project}", summary="Read a project", response_model=ProjectView, responses=errors(404))
async def read(gateway: Deps, project: Ref) -> Response:
    """A project by id or slug. Its `ETag` is for `If-Match`."""
    return await _shown(gateway, await gateway.ask(GET_PROJECT, ProjectRef(project=checked(project))))


@router.put(
    "/{project}",
    summary="Replace a project",
    response_model=ProjectView,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(ProjectReplacement, project=EXAMPLE, with_a_style=STYLED),
)
async def replace(
    gateway: Deps,
    project: Ref,
    wanted: Annotated[ProjectReplacement, body(ProjectReplacement)],
    if_match: IfMatch = None,
) -> Response:
    """Set all that can be set of it; what is absent takes its default."""
    style = StyleChanges.model_validate(dict(wanted.style))
    return await _update(gateway, project, ProjectChanges.model_validate({**dict(wanted), "style": style}), if_match)


@router.patch(
    "/{project}",
    summary="Change a project",
    response_model=ProjectView,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(
        ProjectChanges,
        rename={"name": "Moonlit Academy II"},
        archive={"state": "archived"},
        style={"style": {"prompt_prefix": "anime screencap", "preset": None}},
    ),
)
async def change(
    gateway: Deps, project: Ref, changes: Annotated[ProjectChanges, body(ProjectChanges)], if_match: IfMatch = None
) -> Response:
    """Change some of it, of its style too; what is absent stays. An archived project takes no new jobs."""
    return await _update(gateway, project, changes, if_match)


async def _update(gateway: Gateway, project: str, changes: ProjectChanges, if_match: str | None) -> Response:
    await inputs.check_picture(gateway, "cover", changes.cover)
    question = UpdateProject(project=checked(project), changes=changes, expected_version=expected(if_match))
    return await _shown(gateway, await gateway.ask(UPDATE_PROJECT, question, within="changes"))


@router.delete(
    "/{project}",
    summary="Delete a project",
    response_model=DeletedProjectView,
    responses=errors(404, 409, 412, 413, 415, 422),
)
async def delete(
    gateway: Deps,
    project: Ref,
    *,
    force: Annotated[Flag, Query(description="Delete it with its ended jobs; its files go to the trash.")] = False,
    if_match: IfMatch = None,
) -> Response:
    """Delete a project. One with jobs or files in it is archived instead, unless forced."""
    found = await gateway.ask(GET_PROJECT, ProjectRef(project=checked(project)))
    # Whoever deletes is told how much goes: so nothing is deleted while files cannot say.
    use = (await gateway.ask(LIBRARY_USE, UseQuestion(project_ids=(found.id,)))).items[0]
    question = DeleteProject(
        project=str(found.id), force=force, holds_files=use.files > 0, expected_version=expected(if_match)
    )
    gone = await gateway.ask(DELETE_PROJECT, question)
    return answer(
        DeletedProjectView(
            deleted=gone.deleted,
            jobs=gone.jobs,
            trashed=use.files if gone.deleted else 0,
            trashed_bytes=use.bytes if gone.deleted else 0,
            project=gone.project,
        )
    )


def checked(project: str) -> str:
    """The name of a project in a path; raises Refused when no project can have it."""
    if not 1 <= len(project) <= 64 or not project.isprintable():
        raise not_found("project", project[:64], "project")
    return project


async def _shown(
    gateway: Gateway, project: Project, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    used = await _used(gateway, [project.id])
    return tagged(project_view(project, used.get(project.id)), project.version, status, headers)


async def _used(gateway: Gateway, project_ids: Sequence[UUID]) -> dict[UUID, ProjectUse]:
    """How much the library holds of projects; nothing while it is away, which stops nobody from reading the rest."""
    if not project_ids:
        return {}
    try:
        found = await gateway.ask(LIBRARY_USE, UseQuestion(project_ids=tuple(project_ids)))
    except Refused as error:
        if error.status not in {503, 504}:
            raise
        return {}
    return {each.project_id: each for each in found.items}
