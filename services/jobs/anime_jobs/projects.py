"""Projects: found, made, changed and deleted inside one transaction each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from anime_common.contracts.projects import (
    CreateProject,
    DeletedProject,
    DeleteProject,
    Project,
    ProjectChanged,
    ProjectChanges,
    ProjectPage,
    ProjectQuery,
    ProjectRef,
    ProjectState,
    ProjectStyle,
    UpdateProject,
)
from anime_common.contracts.vocabulary import ModelInfo
from anime_common.messages import Outgoing, first_error
from anime_common.outcomes import Refused, not_found
from anime_jobs import roster
from anime_jobs.store import Connection

DEFAULT_SLUG = "default"

_COUNTS = (
    "(SELECT coalesce(jsonb_object_agg(c.state, c.n), '{}'::jsonb) FROM"
    " (SELECT j.state, count(*) AS n FROM jobs j WHERE j.project_id = p.id GROUP BY j.state) c)"
)
_SELECT = f"SELECT p.*, {_COUNTS} AS counts FROM projects p"  # noqa: S608 - our own text
_BARE = "SELECT p.*, '{}'::jsonb AS counts FROM projects p"


def slug_of(name: str) -> str:
    """A folder name made from a project's name: ASCII letters, digits and single hyphens, at most 64."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")


def _project(row: Mapping[str, Any]) -> Project:
    # What a later version of us has stored in a style is not ours to refuse.
    return Project.model_validate(dict(row) | {"jobs": sum(row["counts"].values())}, extra="ignore")


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


async def get(connection: Connection, question: ProjectRef) -> Project:
    """A project; raises Refused (404)."""
    return await _existing(connection, question.project)


async def create(connection: Connection, question: CreateProject, epoch: int) -> tuple[Project, list[Outgoing]]:
    """Make a project; a repeat of the same call answers with the one that is there. Raises Refused (409, 422)."""
    new = question.project
    existing = await find(connection, str(question.id))
    wanted = new.model_dump(exclude={"slug"})
    if existing is not None:
        if existing.model_dump(include=set(wanted)) == wanted:
            return existing, []
        raise Refused(409, "conflict", f"the project id {question.id} is taken", "id")
    if new.state is ProjectState.ARCHIVED:
        raise Refused(422, "invalid", "a new project is draft or active", "state")
    slug = new.slug or slug_of(new.name)
    if not slug:
        text = "the name has no Latin letter or digit to make a folder name from: give a slug"
        raise Refused(422, "invalid", text, "slug")
    check_style(new.style, await roster.models(connection))
    made = await connection.fetchval(
        "INSERT INTO projects (id, slug, name, description, state, rating, cover, paused, max_running, style)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING id",
        question.id,
        slug,
        *_values(wanted, new.style),
    )
    if made is None:
        raise Refused(409, "slug_taken", f"there is already a project {slug!r}", "slug" if new.slug else "name")
    project = await _existing(connection, str(question.id))
    return project, [_told(project, epoch)]


_SET = ("name", "description", "state", "rating", "cover", "paused", "max_running")


def _values(wanted: Mapping[str, Any], style: ProjectStyle) -> list[Any]:
    stored = style.model_dump(mode="json", exclude_defaults=True)
    return [*(wanted[name] for name in _SET), stored]


def check_style(style: ProjectStyle, known: Sequence[ModelInfo]) -> None:
    """Refuse (422) what no model that was ever announced has; before the first one anything may stand there."""
    if style.model is None or not known:
        return
    model = next((info for info in known if info.key == style.model), None)
    if model is None:
        text = f"no worker knows {style.model!r}; known: {', '.join(info.key for info in known)}"
        raise Refused(422, "unknown_model", text, "style.model")
    if style.preset is not None and all(preset.name != style.preset for preset in model.presets):
        has = ", ".join(preset.name for preset in model.presets) or "none"
        raise Refused(422, "invalid", f"the model {model.key} has no preset {style.preset!r}; it has: {has}", _PRESET)
    fitting = {lora.key for lora in model.loras}
    for index, lora in enumerate(style.loras):
        if lora.key not in fitting:
            has = ", ".join(sorted(fitting)) or "none"
            text = f"there is no LoRA {lora.key!r} that fits the model {model.key}; there is: {has}"
            raise Refused(422, "unknown_lora", text, f"style.loras.{index}.key")


_PRESET = "style.preset"


async def listing(connection: Connection, query: ProjectQuery) -> ProjectPage:
    """Projects by slug."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE ($1::text IS NULL OR p.state = $1) AND ($2::text IS NULL OR p.rating = $2)"
        " AND ($3::text IS NULL OR p.slug > $3) ORDER BY p.slug LIMIT $4",
        query.state,
        query.rating,
        query.cursor,
        query.limit + 1,
    )
    items = tuple(_project(row) for row in rows[: query.limit])
    return ProjectPage(items=items, next=items[-1].slug if len(rows) > query.limit else None)


def check_version(expected: int | None, version: int, what: str) -> None:
    """Refuse (412) an edit of what somebody has changed since the editor saw it."""
    if expected is not None and expected != version:
        raise Refused(412, "changed_meanwhile", f"the {what} is at version {version} now: read it again")


async def update(connection: Connection, question: UpdateProject, epoch: int) -> tuple[Project, list[Outgoing]]:
    """Change a project. Raises Refused (404, 409, 412, 422)."""
    project = await _existing(connection, question.project, update=True)
    check_version(question.expected_version, project.version, "project")
    changed = apply(project, question.changes)
    if project.slug == DEFAULT_SLUG and changed.state is not ProjectState.ACTIVE:
        raise Refused(409, "default_project", f"the default project stays active, not {changed.state}", "state")
    if changed == project:
        return project, []
    if changed.style != project.style:
        check_style(changed.style, await roster.models(connection))
    await connection.execute(
        "UPDATE projects SET name = $2, description = $3, state = $4, rating = $5, cover = $6, paused = $7,"
        " max_running = $8, style = $9, version = version + 1, updated_at = now() WHERE id = $1",
        project.id,
        *_values(dict(changed), changed.style),
    )
    stored = await _existing(connection, str(project.id))
    return stored, [_told(stored, epoch)]


def apply(project: Project, changes: ProjectChanges) -> Project:
    """A project with changes; raises Refused (422) when its style does not hold together any more."""
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    if changes.style is not None:
        wanted = dict(project.style) | {name: getattr(changes.style, name) for name in changes.style.model_fields_set}
        try:
            given["style"] = ProjectStyle.model_validate(wanted)
        except ValidationError as error:
            _, text = first_error(error)
            raise Refused(422, "invalid", text.removeprefix("Value error, "), "style") from error
    return project.model_copy(update=given)


async def delete(connection: Connection, question: DeleteProject, epoch: int) -> tuple[DeletedProject, list[Outgoing]]:
    """Delete a project; one with work in it is archived unless forced. Raises Refused (404, 409, 412)."""
    project = await _existing(connection, question.project, update=True)
    check_version(question.expected_version, project.version, "project")
    if project.slug == DEFAULT_SLUG:
        raise Refused(409, "default_project", "the default project cannot be deleted")
    if not question.force and (project.jobs or question.holds_files):
        changes = ProjectChanges(state=ProjectState.ARCHIVED)
        archived, told = await update(connection, UpdateProject(project=str(project.id), changes=changes), epoch)
        return DeletedProject(deleted=False, jobs=project.jobs, project=archived), told
    busy = sum(count for state, count in project.counts.items() if not state.ended)
    if busy:
        raise Refused(409, "project_busy", f"{busy} jobs of the project have not ended: cancel them first")
    await connection.execute("DELETE FROM jobs WHERE project_id = $1", project.id)
    await connection.execute("DELETE FROM batches WHERE project_id = $1", project.id)
    await connection.execute("DELETE FROM projects WHERE id = $1", project.id)
    gone = ProjectChanged(project_id=project.id, project=project, deleted=True)
    ident = gone.ident(epoch=epoch, version=project.version + 1)
    return DeletedProject(deleted=True, jobs=project.jobs, project=project), [Outgoing(gone, ident)]


async def forget_cover(connection: Connection, file_id: UUID, epoch: int) -> list[Outgoing]:
    """A file has left the library: it stands for no project any more."""
    rows = await connection.fetch(
        "UPDATE projects SET cover = NULL, version = version + 1, updated_at = now() WHERE cover = $1 RETURNING id",
        file_id,
    )
    return [_told(await _existing(connection, str(row["id"])), epoch) for row in rows]


def _told(project: Project, epoch: int) -> Outgoing:
    event = ProjectChanged(project_id=project.id, project=project)
    return Outgoing(event, event.ident(epoch=epoch, version=project.version))
