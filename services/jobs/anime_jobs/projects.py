"""Projects: found, made, changed and deleted inside one transaction each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from anime_common.contracts.jobs import (
    CreateProject,
    DeletedProject,
    DeleteProject,
    Project,
    ProjectChanged,
    ProjectPage,
    ProjectQuery,
    ProjectState,
    UpdateProject,
)
from anime_common.messages import Outgoing
from anime_common.outcomes import Refused, not_found
from anime_jobs.store import Connection

DEFAULT_SLUG = "default"

_SELECT = "SELECT p.*, (SELECT count(*) FROM jobs j WHERE j.project_id = p.id) AS jobs FROM projects p"
_BARE = "SELECT p.*, 0 AS jobs FROM projects p"


def slug_of(name: str) -> str:
    """A folder name made from a project's name: ASCII letters, digits and single hyphens, at most 64."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")


def _project(row: Mapping[str, Any]) -> Project:
    return Project.model_validate(dict(row))


async def find(connection: Connection, ref: str, *, update: bool = False, count: bool = True) -> Project | None:
    """A project by id or slug; counting its jobs costs time, so admission does without."""
    try:
        wanted: UUID | str = UUID(ref)
        column = "id"
    except ValueError:
        wanted, column = ref, "slug"
    if update:
        await connection.execute(f"SELECT 1 FROM projects WHERE {column} = $1 FOR UPDATE", wanted)  # noqa: S608
    row = await connection.fetchrow(f"{_SELECT if count else _BARE} WHERE p.{column} = $1", wanted)
    return _project(row) if row else None


async def _existing(connection: Connection, ref: str, *, update: bool = False) -> Project:
    found = await find(connection, ref, update=update)
    if found is None:
        raise not_found("project", ref, "project")
    return found


async def get(connection: Connection, ref: str) -> Project:
    """A project; raises Refused (404)."""
    return await _existing(connection, ref)


async def create(connection: Connection, question: CreateProject, epoch: int) -> tuple[Project, list[Outgoing]]:
    """Make a project; a repeat of the same call answers with the one that is there. Raises Refused (409, 422)."""
    new = question.project
    existing = await find(connection, str(question.id))
    if existing is not None:
        if (existing.name, existing.description) == (new.name, new.description):
            return existing, []
        raise Refused(409, "conflict", f"the project id {question.id} is taken", "id")
    slug = new.slug or slug_of(new.name)
    if not slug:
        text = "the name has no Latin letter or digit to make a folder name from: give a slug"
        raise Refused(422, "invalid", text, "slug")
    made = await connection.fetchval(
        "INSERT INTO projects (id, slug, name, description) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING RETURNING id",
        question.id,
        slug,
        new.name,
        new.description,
    )
    if made is None:
        raise Refused(409, "slug_taken", f"there is already a project {slug!r}", "slug" if new.slug else "name")
    project = await _existing(connection, str(question.id))
    return project, [_told(project, epoch)]


async def listing(connection: Connection, query: ProjectQuery) -> ProjectPage:
    """Projects by slug."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE ($1::text IS NULL OR p.state = $1) AND ($2::text IS NULL OR p.slug > $2)"
        " ORDER BY p.slug LIMIT $3",
        query.state.value if query.state else None,
        query.cursor,
        query.limit + 1,
    )
    items = tuple(_project(row) for row in rows[: query.limit])
    return ProjectPage(items=items, next=items[-1].slug if len(rows) > query.limit else None)


async def update(connection: Connection, question: UpdateProject, epoch: int) -> tuple[Project, list[Outgoing]]:
    """Change a project. Raises Refused (404, 409, 412)."""
    project = await _existing(connection, question.project, update=True)
    if question.expected_version is not None and question.expected_version != project.version:
        raise Refused(412, "changed_meanwhile", f"the project is at version {project.version} now: read it again")
    changes = question.changes.model_dump(exclude_unset=True)
    if project.slug == DEFAULT_SLUG and changes.get("state") == ProjectState.ARCHIVED:
        raise Refused(409, "default_project", "the default project cannot be archived", "state")
    if all(getattr(project, name) == value for name, value in changes.items()):
        return project, []
    await connection.execute(
        "UPDATE projects SET name = $2, description = $3, state = $4, version = version + 1, updated_at = now()"
        " WHERE id = $1",
        project.id,
        changes.get("name", project.name),
        changes.get("description", project.description),
        changes.get("state", project.state),
    )
    changed = await _existing(connection, str(project.id))
    return changed, [_told(changed, epoch)]


async def delete(connection: Connection, question: DeleteProject, epoch: int) -> tuple[DeletedProject, list[Outgoing]]:
    """Delete a project; one with jobs is archived or forced as asked, else refused. Raises Refused (404, 409)."""
    project = await _existing(connection, question.project, update=True)
    if project.slug == DEFAULT_SLUG:
        raise Refused(409, "default_project", "the default project cannot be deleted")
    if project.jobs and not question.force:
        if not question.archive:
            text = f"the project has {project.jobs} jobs: archive it (archive=true), or delete them too (force=true)"
            raise Refused(409, "project_has_jobs", text)
        await connection.execute(
            "UPDATE projects SET state = 'archived', version = version + 1, updated_at = now() WHERE id = $1",
            project.id,
        )
        archived = await _existing(connection, str(project.id))
        return DeletedProject(deleted=False, jobs=project.jobs, project=archived), [_told(archived, epoch)]
    busy = await connection.fetchval(
        "SELECT count(*) FROM jobs WHERE project_id = $1 AND state NOT IN ('completed', 'failed', 'cancelled')",
        project.id,
    )
    if busy:
        raise Refused(409, "project_busy", f"{busy} jobs of the project have not ended: cancel them first")
    await connection.execute("DELETE FROM jobs WHERE project_id = $1", project.id)
    await connection.execute("DELETE FROM projects WHERE id = $1", project.id)
    gone = ProjectChanged(project_id=project.id, project=project, deleted=True)
    ident = gone.ident(epoch=epoch, version=project.version + 1)
    return DeletedProject(deleted=True, jobs=project.jobs, project=project), [Outgoing(gone, ident)]


def _told(project: Project, epoch: int) -> Outgoing:
    event = ProjectChanged(project_id=project.id, project=project)
    return Outgoing(event, event.ident(epoch=epoch, version=project.version))
