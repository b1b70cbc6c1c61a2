"""Projects: the folders of jobs and files."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from anime_common.contracts.jobs import (
    CREATE_PROJECT,
    DELETE_PROJECT,
    GET_PROJECT,
    LIST_PROJECTS,
    UPDATE_PROJECT,
    CreateProject,
    DeletedProject,
    DeleteProject,
    NewProject,
    Project,
    ProjectChanges,
    ProjectPage,
    ProjectQuery,
    ProjectRef,
    UpdateProject,
)
from anime_common.outcomes import Refused, not_found
from anime_gateway.bodies import answer, body, json_body
from anime_gateway.deps import Deps, Gateway
from anime_gateway.documents import WRITE_ERRORS, errors
from anime_gateway.idempotency import IdempotencyKey, id_for
from anime_gateway.problems import invalid
from anime_gateway.public import BASE, ProjectReplacement

router = APIRouter(prefix="/projects", tags=["projects"])

Ref = Annotated[str, Path(description="The project's id or slug.", examples=["moonlit-academy"])]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The `ETag` of the project: change it only if nobody else has since."),
]
Flag = Annotated[bool, BeforeValidator(lambda value: True if value == "" else value)]
_ETAG = re.compile(r'"([0-9]{1,9})"')
EXAMPLE = {"name": "Moonlit Academy", "description": "Pilot, autumn season"}


@router.post(
    "",
    summary="Make a project",
    status_code=201,
    response_model=Project,
    responses=errors(409, *WRITE_ERRORS),
    openapi_extra=json_body(NewProject, project=EXAMPLE),
)
async def create(
    gateway: Deps, wanted: Annotated[NewProject, body(NewProject)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a project; its slug is made from the name unless given, and never changes."""
    question = CreateProject(id=id_for("project", idempotency_key), project=wanted)
    try:
        made = await gateway.ask(CREATE_PROJECT, question, within="project")
    except Refused as error:
        if error.code != "timeout":
            raise
        # Nobody knows whether it was made: the same id makes asking again harmless.
        made = await gateway.ask(CREATE_PROJECT, question, within="project")
    return tagged(made, 201, {"Location": f"{BASE}/projects/{made.id}"})


@router.get("", summary="List projects", response_model=ProjectPage, responses=errors(422))
async def list_projects(gateway: Deps, query: Annotated[ProjectQuery, Query()]) -> Response:
    """Projects by slug."""
    return answer(await gateway.ask(LIST_PROJECTS, query))


@router.get("/{project}", summary="Read a project", response_model=Project, responses=errors(404))
async def read(gateway: Deps, project: Ref) -> Response:
    """A project by id or slug."""
    return tagged(await gateway.ask(GET_PROJECT, ProjectRef(project=checked(project))))


@router.put(
    "/{project}",
    summary="Replace a project",
    response_model=Project,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(ProjectReplacement, project=EXAMPLE),
)
async def replace(
    gateway: Deps,
    project: Ref,
    wanted: Annotated[ProjectReplacement, body(ProjectReplacement)],
    if_match: IfMatch = None,
) -> Response:
    """Set name, description and state; what is absent takes its default."""
    changes = ProjectChanges(name=wanted.name, description=wanted.description, state=wanted.state)
    return await _update(gateway, project, changes, if_match)


@router.patch(
    "/{project}",
    summary="Change a project",
    response_model=Project,
    responses=errors(404, 409, 412, *WRITE_ERRORS),
    openapi_extra=json_body(ProjectChanges, rename={"name": "Moonlit Academy II"}, archive={"state": "archived"}),
)
async def change(
    gateway: Deps, project: Ref, changes: Annotated[ProjectChanges, body(ProjectChanges)], if_match: IfMatch = None
) -> Response:
    """Change some of name, description and state; what is absent stays. An archived project takes no new jobs."""
    return await _update(gateway, project, changes, if_match)


async def _update(gateway: Gateway, project: str, changes: ProjectChanges, if_match: str | None) -> Response:
    question = UpdateProject(project=checked(project), changes=changes, expected_version=expected(if_match))
    return tagged(await gateway.ask(UPDATE_PROJECT, question, within="changes"))


@router.delete(
    "/{project}", summary="Delete a project", response_model=DeletedProject, responses=errors(404, 409, 413, 415, 422)
)
async def delete(
    gateway: Deps,
    project: Ref,
    *,
    force: Annotated[Flag, Query(description="Delete its ended jobs too; files stay in the library.")] = False,
    archive: Annotated[Flag, Query(description="Archive it instead, when it has jobs.")] = False,
) -> Response:
    """Delete a project without jobs; one that has jobs asks what to do: `force` or `archive`."""
    question = DeleteProject(project=checked(project), force=force, archive=archive)
    return answer(await gateway.ask(DELETE_PROJECT, question))


def checked(project: str) -> str:
    """The name of a project in a path; raises Refused when no project can have it."""
    if not 1 <= len(project) <= 64 or not project.isprintable():
        raise not_found("project", project[:64], "project")
    return project


def expected(if_match: str | None) -> int | None:
    """The version that `If-Match` names; `*` is any."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise invalid("If-Match", 'must be the ETag of the project, such as "3", or *')
    return int(found[1])


def tagged(project: Project, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A project with its version as entity tag."""
    return answer(project, status, {"ETag": f'"{project.version}"', **(headers or {})})
