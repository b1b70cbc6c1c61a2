"""`anime demo`: the stack, one picture, and out again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from anime_cli import display, render
from anime_cli.api import connect
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import (
    Count,
    Guidance,
    Height,
    ModelKey,
    Negative,
    Optimize,
    SamplerName,
    Seed,
    Steps,
    Width,
    submit,
)
from anime_cli.options import run
from anime_cli.process import StackError
from anime_cli.settings import StackSettings
from anime_cli.stack import Stack
from anime_cli.stack_file import read_stack_file
from anime_common.contracts.jobs import JobView
from anime_common.settings import load

DEFAULT_PROMPT = "1girl, pink hair, twintails, smile, night sky"

Prompt = Annotated[str, typer.Argument(help="What to draw.")]


def demo(
    prompt: Prompt = DEFAULT_PROMPT,
    *,
    model: ModelKey = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    negative: Negative = None,
    count: Count = None,
    seed: Seed = None,
    optimize: Optimize = False,
) -> None:
    """Start the stack, make a picture, show its progress and where it lies, and stop.

    Uses the stack of ANIME_HOME when one runs already, and leaves that running. The last line is `picture: PATH`.
    """
    wanted = {
        "model": model,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "negative_prompt": negative,
        "count": count,
        "seed": seed,
        "optimize": optimize or None,
    }
    body = {"prompt": prompt} | {name: value for name, value in wanted.items() if value is not None}
    for place in run(_demo(body)):
        render.console().print(f"picture: {place}", soft_wrap=True)


async def _demo(body: dict[str, Any]) -> list[str]:
    try:
        async with _stack() as url, connect(url) as api:
            job, promised = await submit(api, body)
            name = job.code if isinstance(job, JobView) else job.job_id
            render.console().print(f"job {name}: {body['prompt']}", soft_wrap=True)
            view = await display.watch(api, name, as_json=False, promised=promised)
            display.summary(view)
            return display.pictures(view, url)
    except StackError as error:
        raise CliError(ExitStatus.FAILED, str(error)) from error


@asynccontextmanager
async def _stack() -> AsyncIterator[str]:
    """The stack of this home: the one that runs, else our own while the block runs."""
    settings = load(StackSettings)
    running = read_stack_file(settings.home)
    if running is not None:
        _say(f"using the stack that runs at {running.url}")
        yield running.url
        return
    _say(f"starting the stack in {settings.home}")
    async with Stack(settings, say=_say) as stack:
        _say(f"ready: {stack.url}")
        yield stack.url
        _say("stopping the stack")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
