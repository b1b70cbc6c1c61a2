"""`anime files`: the library of finished pictures, clips and sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import httpx
import typer

from anime_cli import render
from anime_cli.api import BASE, Api, connect, problem_of, read, unreachable
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Limit, Url, run, show_json
from anime_common.contracts.files import FilePage, FileView

app = typer.Typer(no_args_is_help=True, help="Files: the library of finished pictures, clips and sounds.")

FileId = Annotated[UUID, typer.Argument(help="The file's id.", show_default=False)]
Words = Annotated[str | None, typer.Argument(help="Words of the prompt, or a tag.", show_default=False)]
ProjectName = Annotated[str | None, typer.Option("--project", "-P", help="Only this project.")]
JobId = Annotated[UUID | None, typer.Option("--job", help="Only files of this job (id).")]
Tag = Annotated[str | None, typer.Option(help="Only with this tag.")]
Favourite = Annotated[bool, typer.Option("--favourite", help="Only favourites.")]
MinRating = Annotated[int | None, typer.Option(help="Only rated so or better (0 to 5).")]
Trashed = Annotated[bool, typer.Option("--trash", help="What lies in the trash, instead.")]
Cursor = Annotated[str | None, typer.Option(help="Go on where a list ended.")]
Target = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it; default: its own name here.")]


@app.command("list")
def list_files(
    words: Words = None,
    *,
    project: ProjectName = None,
    job: JobId = None,
    tag: Tag = None,
    favourite: Favourite = False,
    min_rating: MinRating = None,
    trash: Trashed = False,
    limit: Limit = 20,
    cursor: Cursor = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List files, newest first."""
    query = {
        "q": words,
        "project": project,
        "job_id": str(job) if job else None,
        "tag": tag,
        "favourite": True if favourite else None,
        "min_rating": min_rating,
        "trashed": True if trash else None,
        "limit": limit,
        "cursor": cursor,
    }

    async def work() -> FilePage:
        async with connect(url) as api:
            return await api.get("/files", FilePage, **query)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (
            str(each.id),
            each.key,
            render.measures(each),
            render.size(each.size),
            "*" * each.rating,
            render.one_line(each.settings.prompt if each.settings else each.name or "", 40),
        )
        for each in page.items
    ]
    render.table(("id", "key", "measures", "size", "rating", "prompt"), rows, "no files")
    if page.next:
        render.console().print(f"there are more: --cursor {page.next}", soft_wrap=True)


@app.command()
def show(file: FileId, *, url: Url = None, as_json: Json = False) -> None:
    """Show what is known of a file."""

    async def work() -> FileView:
        async with connect(url) as api:
            return await api.get(f"/files/{file}", FileView)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    used = found.settings
    render.fields(
        [
            ("file", found.id),
            ("name", found.name),
            ("key", found.key),
            ("job", f"{found.code}  {found.job_id}" if found.job_id else None),
            ("project", found.project),
            ("measures", render.measures(found)),
            ("frames", found.frames),
            ("size", render.size(found.size)),
            ("sha256", found.sha256),
            ("rating", found.rating or None),
            ("tags", ", ".join(found.tags)),
            ("prompt", used.prompt if used else None),
            ("model", used.model if used else None),
            ("seed", used.seed + found.index if used else None),
            ("made", render.ago(found.created_at)),
        ]
    )


@app.command()
def get(file: FileId, *, output: Target = None, url: Url = None, as_json: Json = False) -> None:
    """Write a file's bytes to this machine."""

    async def work() -> Path:
        async with connect(url) as api:
            found = await api.get(f"/files/{file}", FileView)
            target = output or Path(found.key.rsplit("/", 1)[-1])
            await _download(api, found, target)
            return target

    target = run(work(), as_json=as_json)
    if as_json:
        show_json({"path": str(target)})
    else:
        render.console().print(str(target), soft_wrap=True)


@app.command()
def restore(file: FileId, *, url: Url = None, as_json: Json = False) -> None:
    """Take a file of a deleted project out of the trash, back to where it lay."""

    async def work() -> FileView:
        async with connect(url) as api:
            return read(await api.send("POST", f"/files/{file}/restore"), FileView)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
    else:
        render.console().print(f"file {found.key} is in the library again", soft_wrap=True)


async def _download(api: Api, file: FileView, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        async with api.client.stream("GET", f"{BASE}/files/{file.id}/content") as answer:
            if answer.is_error:
                raise await problem_of(answer)
            with part.open("wb") as out:
                async for chunk in answer.aiter_bytes():
                    out.write(chunk)
        part.replace(target)
    except httpx.TransportError as error:
        raise unreachable(api.url, error) from error
    except OSError as error:
        raise CliError(ExitStatus.USAGE, f"cannot write {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
