"""`anime generate`: make pictures from a prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from anime_cli import display, render
from anime_cli.api import Api, connect, read
from anime_cli.options import Json, Url, run, show_json
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState, Priority, Sampler
from anime_common.messages import Model

Prompt = Annotated[str, typer.Argument(help="What to draw: tags or prose.", show_default=False)]
Project = Annotated[str | None, typer.Option("--project", "-P", help="Project (slug or id) to file under.")]
ModelKey = Annotated[str | None, typer.Option("--model", "-m", help="Model; see `anime models`.")]
Width = Annotated[int | None, typer.Option(help="Pixels.")]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")]
SamplerName = Annotated[Sampler | None, typer.Option("--sampler", help="Sampler.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What must not appear.")]
Count = Annotated[int | None, typer.Option("--count", "-n", help="How many pictures.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the first picture; the next ones count up.")]
Optimize = Annotated[bool, typer.Option("--optimize", help="Let Echo improve the prompt first.")]
PriorityClass = Annotated[Priority | None, typer.Option("--priority", help="Priority class.")]
NotBefore = Annotated[str | None, typer.Option(help="Earliest start, RFC 3339; without an offset local time is meant.")]
KeepPartial = Annotated[bool, typer.Option("--keep-partial", help="Keep finished pictures if it is cancelled.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]


class Pending(Model):
    """A job that the bus has stored and the ledger has not answered for yet."""

    job_id: str
    detail: str


def generate(
    prompt: Prompt,
    *,
    project: Project = None,
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
    priority: PriorityClass = None,
    not_before: NotBefore = None,
    keep_partial: KeepPartial = False,
    watch: Watch = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make pictures from a prompt. What is left out takes the model's defaults."""
    wanted = {
        "project": project,
        "model": model,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "negative_prompt": negative,
        "count": count,
        "seed": seed,
        "priority": priority,
        "not_before": with_offset(not_before),
        "optimize": optimize or None,
        "keep_partial": keep_partial or None,
    }
    body = {"prompt": prompt} | {name: value for name, value in wanted.items() if value is not None}
    run(_generate(body, url, watch=watch, as_json=as_json), as_json=as_json)


def with_offset(text: str | None) -> str | None:
    """A time with this machine's offset when it has none; what is no time is left for the gateway to refuse."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        return text


async def _generate(body: dict[str, Any], url: str | None, *, watch: bool, as_json: bool) -> None:
    async with connect(url) as api:
        job, promised = await submit(api, body)
        if watch:
            name = job.code if isinstance(job, JobView) else job.job_id
            view = await display.watch(api, name, as_json=as_json, promised=promised)
            if not as_json:
                finished(view, api.url)
        elif as_json:
            show_json(job)
        else:
            _say(job)


async def submit(api: Api, body: dict[str, Any]) -> tuple[JobView | Pending, bool]:
    """Submit a job; it is promised (True) when the ledger has not answered for it yet."""
    answer = await api.create("/jobs", body)
    if answer.status_code == 202:
        return read(answer, Pending), True
    return read(answer, JobView), False


def finished(view: JobView, url: str) -> None:
    """Print how long a completed job took, and where its pictures lie."""
    display.summary(view)
    for place in display.pictures(view, url):
        render.console().print(f"picture: {place}", soft_wrap=True)


def _say(job: JobView | Pending) -> None:
    if isinstance(job, Pending):
        render.console().print(f"job {job.job_id}: {job.detail}")
        name = job.job_id
    else:
        why = render.progress(job) if job.state in {JobState.PREPARING, JobState.QUEUED} else ""
        render.console().print(f"job {job.code} is {job.state.value}" + (f" ({why})" if why else ""))
        name = job.code
    render.console().print(f"follow it with `anime watch {name}`")
