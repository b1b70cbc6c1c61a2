"""`anime projects`: the folders of jobs and files."""

from __future__ import annotations

from typing import Annotated

import typer

from anime_cli import render
from anime_cli.api import Problem, connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Limit, Url, Yes, confirm, run, show_json
from anime_common.contracts.jobs import DeletedProject, Project, ProjectPage, ProjectState

app = typer.Typer(no_args_is_help=True, help="Projects: the folders of jobs and files.")

Ref = Annotated[str, typer.Argument(help="Slug or id of the project.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of the project.", show_default=False)]
NewName = Annotated[str | None, typer.Option("--name", help="New name.")]
Slug = Annotated[str | None, typer.Option(help="Folder of its files, for good; default: made from the name.")]
Description = Annotated[str | None, typer.Option(help="What it is about.")]
State = Annotated[ProjectState | None, typer.Option(help="Archived projects take no new jobs.")]
Force = Annotated[bool, typer.Option("--force", help="Delete its ended jobs too; files stay in the library.")]
Archive = Annotated[bool, typer.Option("--archive", help="Archive it instead when it has jobs.")]


@app.command("list")
def list_projects(*, state: State = None, limit: Limit = 50, url: Url = None, as_json: Json = False) -> None:
    """List projects by slug."""

    async def work() -> ProjectPage:
        async with connect(url) as api:
            return await api.get("/projects", ProjectPage, state=state.value if state else None, limit=limit)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (each.slug, each.name, each.state.value, str(each.jobs), render.one_line(each.description))
        for each in page.items
    ]
    render.table(("slug", "name", "state", "jobs", "description"), rows, "no projects")


@app.command()
def create(
    name: Name, *, slug: Slug = None, description: Description = None, url: Url = None, as_json: Json = False
) -> None:
    """Make a project."""
    body = {"name": name, "slug": slug, "description": description}

    async def work() -> Project:
        async with connect(url) as api:
            answer = await api.create("/projects", {key: value for key, value in body.items() if value is not None})
            return read(answer, Project)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def show(project: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Show a project."""

    async def work() -> Project:
        async with connect(url) as api:
            return await api.get(f"/projects/{segment('project', project)}", Project)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def update(
    project: Ref,
    *,
    name: NewName = None,
    description: Description = None,
    state: State = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change a project; what is left out stays. `--state archived` archives it, `--state active` brings it back."""
    changes = {"name": name, "description": description, "state": state}

    async def work() -> Project:
        async with connect(url) as api:
            given = {key: value for key, value in changes.items() if value is not None}
            answer = await api.send("PATCH", f"/projects/{segment('project', project)}", json=given)
            return read(answer, Project)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def delete(
    project: Ref,
    *,
    force: Force = False,
    archive: Archive = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a project; one that has jobs needs `--force` or `--archive`."""

    async def work() -> DeletedProject:
        if force:
            confirm(f"delete the project {project!r} and all its ended jobs?", yes=yes)
        async with connect(url) as api:
            flags = {"force": force, "archive": archive}
            try:
                answer = await api.send("DELETE", f"/projects/{segment('project', project)}", params=flags)
            except Problem as error:
                if error.status is ExitStatus.CONFLICT and not (force or archive):
                    text = f"the project {project!r} has jobs: say --archive, or --force to delete them too"
                    raise CliError(error.status, text, problem=error.problem) from error
                raise
            return read(answer, DeletedProject)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
    else:
        done = f"deleted, with {found.jobs} jobs" if found.deleted else f"archived: it has {found.jobs} jobs"
        render.console().print(f"project {found.project.slug} is {done}")


def _shown(project: Project, *, as_json: bool) -> None:
    if as_json:
        show_json(project)
        return
    render.fields(
        [
            ("project", f"{project.slug}  {project.id}"),
            ("name", project.name),
            ("description", project.description),
            ("state", project.state.value),
            ("jobs", project.jobs),
            ("made", render.ago(project.created_at)),
        ]
    )
