"""`anime upscale`: enlarge a finished picture."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anime_cli import originals
from anime_cli.api import connect
from anime_cli.generate import ModelKey, Project, Upscaler, Watch, follow
from anime_cli.options import Json, Url, run

PROMPT = "upscale"
"""A job has a prompt; nothing is drawn from this one."""

Picture = Annotated[
    str, typer.Argument(help="A picture: a file, the id of one in the library, or a job's code.", show_default=False)
]
Factor = Annotated[float, typer.Option(help="How many times as wide and as high.")]


def upscale(
    picture: Picture,
    *,
    factor: Factor = 2.0,
    upscaler: Upscaler = None,
    project: Project = None,
    model: ModelKey = None,
    watch: Watch = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Enlarge a picture as it is: nothing is drawn anew. It becomes a new file of the library."""
    wanted = {"factor": factor, "upscaler": upscaler}
    named = {"project": project, "model": model}
    body: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    body["upscale"] = {name: value for name, value in wanted.items() if value is not None}

    async def work() -> None:
        async with connect(url) as api:
            file = await originals.find(api, picture, project)
            beginning = {"prompt": PROMPT, "init_image": str(file.id), "strength": 0.0}
            await follow(api, beginning | body, watch=watch, as_json=as_json)

    run(work(), as_json=as_json)
