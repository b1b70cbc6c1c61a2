"""`anime characters`: who recurs in pictures, and the versions of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from anime_cli import render
from anime_cli.api import connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Limit, Url, Yes, confirm, given, run, show_json
from anime_common.contracts.characters import (
    Canon,
    Character,
    CharacterPage,
    CharacterState,
    CharacterVersion,
    Comparison,
    DeletedCharacter,
    VersionPage,
)

app = typer.Typer(no_args_is_help=True, help="Characters: who recurs in pictures, in versions that never change.")

Ref = Annotated[str, typer.Argument(help="Slug or id of the character.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of the character.", show_default=False)]
NewName = Annotated[str | None, typer.Option("--name", help="New name.")]
Slug = Annotated[str | None, typer.Option(help="How requests name it, for good; default: made from the name.")]
Project = Annotated[
    str | None, typer.Option("--project", "-P", help="Its project; without it: shared, or the only one.")
]
File = Annotated[
    Path | None, typer.Option("--from", metavar="FILE", help="All else of it, as YAML or JSON; options win over it.")
]
Figure = Annotated[str | None, typer.Option(help="girl, boy or other: as what it counts in tags such as 1girl.")]
Species = Annotated[str | None, typer.Option(help="Such as elf.")]
Hair = Annotated[str | None, typer.Option(help="Its hair, with commas.")]
Eyes = Annotated[str | None, typer.Option(help="Its eyes.")]
Skin = Annotated[str | None, typer.Option(help="Its skin.")]
Outfit = Annotated[str | None, typer.Option(help="What it wears.")]
Accessories = Annotated[str | None, typer.Option(help="What it has on it.")]
Traits = Annotated[str | None, typer.Option(help="All else.")]
Never = Annotated[str | None, typer.Option(help="What must never appear.")]
Design = Annotated[str | None, typer.Option(help="Words of its design, which go into every prompt as they are.")]
Description = Annotated[str | None, typer.Option(help="Who it is, for people.")]
Note = Annotated[str | None, typer.Option(help="What is new in this version.")]
State = Annotated[CharacterState | None, typer.Option(help="Archived ones are taken by no new job.")]
Revision = Annotated[int | None, typer.Option("--if-revision", help="Only if it still has this revision.")]
Force = Annotated[bool, typer.Option("--force", help="Delete it although jobs were drawn with it.")]
Number = Annotated[int, typer.Argument(min=1, help="Number of a version.", show_default=False)]
Other = Annotated[int, typer.Argument(min=1, help="Number of the other version.", show_default=False)]
Version = Annotated[int | None, typer.Option("--version", min=1, help="As of this version.")]


@app.command("list")
def list_characters(
    *, project: Project = None, state: State = None, limit: Limit = 50, url: Url = None, as_json: Json = False
) -> None:
    """List characters by slug; of a project, with those that all share."""

    async def work() -> CharacterPage:
        async with connect(url) as api:
            return await api.get("/characters", CharacterPage, project=project, state=state, limit=limit)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (
            *(each.slug, each.name, each.project or "all", f"{each.version} of {each.versions}", each.state.value),
            render.one_line(told(each.canon)),
        )
        for each in page.items
    ]
    render.table(("slug", "name", "project", "version", "state", "canon"), rows, "no characters")


@app.command()
def create(
    name: Name,
    *,
    file: File = None,
    slug: Slug = None,
    project: Project = None,
    figure: Figure = None,
    species: Species = None,
    hair: Hair = None,
    eyes: Eyes = None,
    skin: Skin = None,
    outfit: Outfit = None,
    accessories: Accessories = None,
    traits: Traits = None,
    never: Never = None,
    design: Design = None,
    description: Description = None,
    note: Note = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a character: of a project, or, without `--project`, one that all share."""
    canon = given(
        figure=figure,
        species=species,
        hair=hair,
        eyes=eyes,
        skin=skin,
        outfit=outfit,
        accessories=accessories,
        traits=traits,
        never=never,
    )
    fields = given(name=name, slug=slug, project=project, design_prompt=design, description=description, note=note)

    async def work() -> Character:
        async with connect(url) as api:
            return read(await api.create("/characters", _merged(file, fields, canon)), Character)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def show(
    character: Ref, *, project: Project = None, version: Version = None, url: Url = None, as_json: Json = False
) -> None:
    """Show a character as it is, or as of a version."""

    async def work() -> Character | CharacterVersion:
        path = f"/characters/{segment('character', character)}"
        async with connect(url) as api:
            if version is not None:
                return await api.get(f"{path}/versions/{version}", CharacterVersion, project=project)
            return await api.get(path, Character, project=project)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def update(
    character: Ref,
    *,
    file: File = None,
    project: Project = None,
    name: NewName = None,
    figure: Figure = None,
    species: Species = None,
    hair: Hair = None,
    eyes: Eyes = None,
    skin: Skin = None,
    outfit: Outfit = None,
    accessories: Accessories = None,
    traits: Traits = None,
    never: Never = None,
    design: Design = None,
    description: Description = None,
    state: State = None,
    note: Note = None,
    revision: Revision = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change a character; what is left out stays. A change of its content makes a new version."""
    canon = given(
        figure=figure,
        species=species,
        hair=hair,
        eyes=eyes,
        skin=skin,
        outfit=outfit,
        accessories=accessories,
        traits=traits,
        never=never,
    )
    fields = given(name=name, design_prompt=design, description=description, state=state, note=note)

    async def work() -> Character:
        headers = {"If-Match": f'"{revision}"'} if revision is not None else {}
        path = f"/characters/{segment('character', character)}"
        async with connect(url) as api:
            body = _merged(file, fields, canon)
            params = given(project=project)
            return read(await api.send("PATCH", path, json=body, params=params, headers=headers), Character)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def delete(
    character: Ref,
    *,
    project: Project = None,
    force: Force = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete a character with its versions. One that jobs were drawn with is archived instead, unless forced."""

    async def work() -> DeletedCharacter:
        if force:
            confirm(f"delete the character {character!r} with all its versions?", yes=yes)
        async with connect(url) as api:
            params = given(project=project, force=force)
            answer = await api.send("DELETE", f"/characters/{segment('character', character)}", params=params)
            return read(answer, DeletedCharacter)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    done = "deleted" if found.deleted else f"archived, not deleted: {found.jobs} jobs were drawn with it"
    render.console().print(f"character {found.character.slug} is {done}")


@app.command()
def versions(
    character: Ref, *, project: Project = None, limit: Limit = 20, url: Url = None, as_json: Json = False
) -> None:
    """List the versions of a character, newest first."""

    async def work() -> VersionPage:
        path = f"/characters/{segment('character', character)}/versions"
        async with connect(url) as api:
            return await api.get(path, VersionPage, project=project, limit=limit)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (
            f"{each.version}{' *' if each.current else ''}",
            render.ago(each.created_at),
            render.one_line(each.note, 30),
            render.one_line(told(each.canon)),
        )
        for each in page.items
    ]
    render.table(("version", "made", "note", "canon"), rows, "no versions")


@app.command()
def compare(
    character: Ref, before: Number, after: Other, *, project: Project = None, url: Url = None, as_json: Json = False
) -> None:
    """Show in what two versions differ."""

    async def work() -> Comparison:
        path = f"/characters/{segment('character', character)}/versions/compare"
        async with connect(url) as api:
            return await api.get(path, Comparison, before=before, after=after, project=project)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [(each.field, each.before, each.after) for each in found.differences]
    render.table(("field", f"version {before}", f"version {after}"), rows, "no difference")


@app.command()
def use(
    character: Ref,
    version: Number,
    *,
    project: Project = None,
    revision: Revision = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a version the current one, which jobs take from now on."""

    async def work() -> Character:
        headers = {"If-Match": f'"{revision}"'} if revision is not None else {}
        path = f"/characters/{segment('character', character)}/versions/{version}/use"
        async with connect(url) as api:
            return read(await api.send("POST", path, params=given(project=project), headers=headers), Character)

    _shown(run(work(), as_json=as_json), as_json=as_json)


def _merged(file: Path | None, fields: dict[str, Any], canon: dict[str, Any]) -> dict[str, Any]:
    """What a file says, and options over it; raises CliError when the file holds no fields."""
    found: Any = {}
    if file is not None:
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CliError(ExitStatus.USAGE, f"--from {file}: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("canon", {}), dict):
            raise CliError(ExitStatus.USAGE, f"--from {file}: must hold the fields of a character, canon among them")
    canon = {**found.get("canon", {}), **canon}
    return {**found, **fields, **({"canon": canon} if canon else {})}


def told(canon: Canon) -> str:
    """A canon in one line."""
    parts = (canon.species, *canon.hair, *canon.eyes, *canon.skin, *canon.outfit, *canon.accessories, *canon.traits)
    return ", ".join(part for part in parts if part)


def _shown(character: Character | CharacterVersion, *, as_json: bool) -> None:
    if as_json:
        show_json(character)
        return
    canon = character.canon
    lora = character.lora
    head: list[tuple[str, object]] = [("version", character.version)]
    if isinstance(character, Character):
        head = [
            ("character", f"{character.slug}  {character.id}"),
            ("project", character.project or "all"),
            ("state", character.state.value),
            ("version", f"{character.version} of {character.versions}, revision {character.revision}"),
        ]
    render.fields(
        [
            *head,
            ("name", ", ".join((character.name, *character.aliases))),
            ("description", character.description),
            ("figure", " ".join(filter(None, (canon.species, canon.figure and canon.figure.value)))),
            *((name, ", ".join(getattr(canon, name))) for name in ("hair", "eyes", "skin", "outfit", "accessories")),
            ("colours", ", ".join(f"{each.name} {each.part}" for each in canon.key_colours)),
            ("traits", ", ".join(canon.traits)),
            ("never", ", ".join(canon.never)),
            ("design", character.design_prompt),
            ("negative", character.negative_prompt),
            ("lora", lora and " ".join(filter(None, (lora.key, lora.trigger and f"({lora.trigger})")))),
            ("references", len(character.references) or None),
            ("seed", f"{character.seed.mode.value} {character.seed.seed or ''}".strip()),
            ("made", render.ago(character.created_at)),
        ]
    )
