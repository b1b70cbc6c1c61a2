"""`anime upload`: pictures of your own into the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anime_cli import render
from anime_cli.api import Api, connect, read
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Url, run, show_json
from anime_common.contracts.files import FileView

Pictures = Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.", metavar="FILE...", show_default=False)]
Project = Annotated[str | None, typer.Option("--project", "-P", help="Project (slug or id) to file them under.")]

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def upload(files: Pictures, *, project: Project = None, url: Url = None, as_json: Json = False) -> None:
    """Put pictures of your own into the library. Each is printed as soon as it is there."""

    async def work() -> None:
        async with connect(url) as api:
            for file in files:
                _show(file, await send(api, file, project), as_json=as_json)

    run(work(), as_json=as_json)


async def send(api: Api, path: Path, project: str | None) -> FileView:
    """Upload one file; raises CliError when it cannot be read or is refused, with its name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CliError(ExitStatus.USAGE, f"cannot read {path}: {error.strerror}") from error
    media_type = media_type_of(data)
    if media_type is None:
        raise CliError(ExitStatus.USAGE, f"{path} is no PNG, JPEG or WebP picture")
    # A name need not be UTF-8; what is sent must.
    params = {"name": path.name.encode(errors="replace").decode()}
    if project is not None:
        params["project"] = project
    try:
        answer = await api.create("/uploads", content=data, headers={"Content-Type": media_type}, params=params)
    except CliError as error:
        error.lines = (f"{path}: {error.lines[0]}", *error.lines[1:])
        raise
    return read(answer, FileView)


def media_type_of(data: bytes) -> str | None:
    """The type of a picture by its first bytes; None when it is none that is taken."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC.items() if data.startswith(magic)), None)


def _show(path: Path, file: FileView, *, as_json: bool) -> None:
    if as_json:
        show_json(file)
    else:
        text = f"{path}: file {file.id}  {file.width}x{file.height}  {render.size(file.size)}  {file.key}"
        render.console().print(text, soft_wrap=True)
