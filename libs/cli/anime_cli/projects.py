"""`anime projects`: the folders of jobs and files, and what their jobs are drawn with."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import Field

from anime_cli import render
from anime_cli.api import connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import Loras, ModelKey, Negative, PresetName, lora_of
from anime_cli.options import Json, Limit, Url, Yes, confirm, given, run, show_json
from anime_common.contracts.projects import ContentRating, Project, ProjectState
from anime_common.messages import Model

app = typer.Typer(no_args_is_help=True, help="Projects: the folders of jobs and files.")

Ref = Annotated[str, typer.Argument(help="Slug or id of the project.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of the project.", show_default=False)]
NewName = Annotated[str | None, typer.Option("--name", help="New name.")]
Slug = Annotated[str | None, typer.Option(help="Folder of its files, for good; default: made from the name.")]
Description = Annotated[str | None, typer.Option(help="What it is about.")]
State = Annotated[ProjectState | None, typer.Option(help="draft, active or archived; archived ones take no new jobs.")]
Rating = Annotated[ContentRating | None, typer.Option(help="What its pictures may show.")]
Cover = Annotated[UUID | None, typer.Option(help="The picture that stands for it: id of a file.")]
Prefix = Annotated[str | None, typer.Option(help="What every prompt begins with.")]
Suffix = Annotated[str | None, typer.Option(help="What every prompt ends with.")]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Default size, pixels.")]
Force = Annotated[bool, typer.Option("--force", help="Delete it with its ended jobs; its files go to the trash.")]
Version = Annotated[int | None, typer.Option("--if-version", help="Only if it still has this version.")]


class Takeable(StrEnum):
    """What can be taken away from a project."""

    MODEL = "model"
    PRESET = "preset"
    LORAS = "loras"
    NEGATIVE = "negative"
    SIZE = "size"
    COVER = "cover"
    MAX_RUNNING = "max-running"


Paused = Annotated[bool | None, typer.Option("--pause/--resume", help="Hold its waiting jobs back, or let them go on.")]
MaxRunning = Annotated[int | None, typer.Option(min=1, help="How many of its jobs run at a time, at most.")]
Unset = Annotated[list[Takeable] | None, typer.Option("--unset", help="Take this away; may be repeated.")]


class ProjectShown(Project):
    """A project as the gateway shows it."""

    files: int | None = None
    bytes: int | None = None


class ProjectsShown(Model):
    """A page of projects as the gateway shows it."""

    items: tuple[ProjectShown, ...]
    next: str | None = None


class Gone(Model):
    """What became of a project."""

    deleted: bool
    jobs: int
    trashed: int = Field(description="Files that go to the trash.")
    project: Project


@app.command("list")
def list_projects(
    *, state: State = None, rating: Rating = None, limit: Limit = 50, url: Url = None, as_json: Json = False
) -> None:
    """List projects by slug."""
    query = {"state": state, "rating": rating, "limit": limit}

    async def work() -> ProjectsShown:
        async with connect(url) as api:
            return await api.get("/projects", ProjectsShown, **query)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (
            *(each.slug, each.name, each.state.value, str(each.jobs), _number(each.files), _bytes(each.bytes)),
            render.one_line(each.description, 40),
        )
        for each in page.items
    ]
    render.table(("slug", "name", "state", "jobs", "files", "size", "description"), rows, "no projects")


@app.command()
def create(
    name: Name,
    *,
    slug: Slug = None,
    description: Description = None,
    state: State = None,
    rating: Rating = None,
    cover: Cover = None,
    model: ModelKey = None,
    preset: PresetName = None,
    lora: Loras = None,
    prefix: Prefix = None,
    suffix: Suffix = None,
    negative: Negative = None,
    size: Size = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a project. Its style is what its jobs are drawn with unless they say otherwise."""
    body = given(name=name, slug=slug, description=description, state=state, rating=rating, cover=_text(cover))

    async def work() -> ProjectShown:
        style = _style(model, preset, lora, prefix, suffix, negative, size)
        async with connect(url) as api:
            answer = await api.create("/projects", body | ({"style": style} if style else {}))
            return read(answer, ProjectShown)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def show(project: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Show a project."""

    async def work() -> ProjectShown:
        async with connect(url) as api:
            return await api.get(f"/projects/{segment('project', project)}", ProjectShown)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def update(
    project: Ref,
    *,
    name: NewName = None,
    description: Description = None,
    state: State = None,
    rating: Rating = None,
    cover: Cover = None,
    model: ModelKey = None,
    preset: PresetName = None,
    lora: Loras = None,
    prefix: Prefix = None,
    suffix: Suffix = None,
    negative: Negative = None,
    size: Size = None,
    paused: Paused = None,
    max_running: MaxRunning = None,
    unset: Unset = None,
    version: Version = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change a project; what is left out stays. `--state archived` archives it, `--state active` brings it back."""
    changes = given(name=name, description=description, state=state, rating=rating, cover=_text(cover))
    changes |= given(paused=paused, max_running=max_running)
    own = {Takeable.COVER: "cover", Takeable.MAX_RUNNING: "max_running"}
    changes |= {own[each]: None for each in unset or () if each in own}

    async def work() -> ProjectShown:
        style = _style(model, preset, lora, prefix, suffix, negative, size) | _taken(unset or ())
        body = changes | ({"style": style} if style else {})
        headers = {"If-Match": f'"{version}"'} if version is not None else {}
        async with connect(url) as api:
            path = f"/projects/{segment('project', project)}"
            return read(await api.send("PATCH", path, json=body, headers=headers), ProjectShown)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def delete(project: Ref, *, force: Force = False, yes: Yes = False, url: Url = None, as_json: Json = False) -> None:
    """Delete a project. One with jobs or files in it is archived instead, unless forced."""

    async def work() -> Gone:
        if force:
            confirm(f"delete the project {project!r} with all its jobs, and move its files to the trash?", yes=yes)
        async with connect(url) as api:
            path = f"/projects/{segment('project', project)}"
            return read(await api.send("DELETE", path, params={"force": force}), Gone)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    done = f"deleted, with {found.jobs} jobs; {found.trashed} files go to the trash"
    if not found.deleted:
        done = f"archived, not deleted: there is work in it ({found.jobs} jobs)"
    render.console().print(f"project {found.project.slug} is {done}")


def _text(value: UUID | None) -> str | None:
    return str(value) if value is not None else None


def _style(
    model: str | None,
    preset: str | None,
    loras: list[str] | None,
    prefix: str | None,
    suffix: str | None,
    negative: str | None,
    size: str | None,
) -> dict[str, Any]:
    found = given(model=model, preset=preset, prompt_prefix=prefix, prompt_suffix=suffix, negative_prompt=negative)
    if loras:
        found["loras"] = [lora_of(each) for each in loras]
    return found | (sides(size) if size is not None else {})


def sides(size: str) -> dict[str, int]:
    """Width and height of `WIDTHxHEIGHT`; raises CliError when it is no such thing."""
    width, times, height = size.lower().partition("x")
    if not (times and width.isdecimal() and height.isdecimal()):
        raise CliError(ExitStatus.USAGE, f"--size {size}: must be WIDTHxHEIGHT in pixels, such as 512x768")
    return {"width": int(width), "height": int(height)}


def _taken(unset: list[Takeable] | tuple[()]) -> dict[str, Any]:
    """The fields of a style that are to be taken away."""
    fields: dict[Takeable, dict[str, Any]] = {
        Takeable.MODEL: {"model": None, "preset": None},
        Takeable.PRESET: {"preset": None},
        Takeable.LORAS: {"loras": []},
        Takeable.NEGATIVE: {"negative_prompt": None},
        Takeable.SIZE: {"width": None, "height": None},
        Takeable.COVER: {},
        Takeable.MAX_RUNNING: {},
    }
    return {name: value for each in unset for name, value in fields[each].items()}


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _bytes(value: int | None) -> str:
    return "?" if value is None else render.size(value)


def _shown(project: ProjectShown, *, as_json: bool) -> None:
    if as_json:
        show_json(project)
        return
    style = project.style
    size = f"{style.width}×{style.height}" if style.width else None
    loras = ", ".join(each.key if each.weight is None else f"{each.key}:{each.weight:g}" for each in style.loras)
    render.fields(
        [
            ("project", f"{project.slug}  {project.id}"),
            ("name", project.name),
            ("description", project.description),
            ("state", project.state.value),
            ("rating", project.rating.value),
            ("model", " ".join(filter(None, (style.model, style.preset and f"({style.preset})")))),
            ("loras", loras),
            ("prompt begins", style.prompt_prefix),
            ("prompt ends", style.prompt_suffix),
            ("negative", style.negative_prompt),
            ("size", size),
            ("cover", project.cover),
            ("held back", "yes" if project.paused else None),
            ("at a time", project.max_running and f"{project.max_running} jobs"),
            ("jobs", ", ".join(f"{count} {state.value}" for state, count in project.counts.items()) or "0"),
            ("files", f"{_number(project.files)}, {_bytes(project.bytes)}"),
            ("version", project.version),
            ("made", render.ago(project.created_at)),
        ]
    )
