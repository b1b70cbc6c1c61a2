"""`anime jobs`, `watch`, `cancel`, `retry`: what becomes of jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from anime_cli import display, render
from anime_cli.api import connect, read, segment
from anime_cli.generate import Pending, finished
from anime_cli.options import Job, Json, Limit, Url, run, show_json
from anime_common.contracts.jobs import JobPage, JobView
from anime_common.contracts.vocabulary import JobState

MaybeJob = Annotated[str | None, typer.Argument(help="One job's code or id; all when left out.", show_default=False)]
States = Annotated[list[JobState] | None, typer.Option("--state", "-s", help="Only these states.")]
ProjectName = Annotated[str | None, typer.Option("--project", "-P", help="Only this project.")]
Client = Annotated[str | None, typer.Option(help="Only jobs of this client.")]
Cursor = Annotated[str | None, typer.Option(help="Go on where a list ended.")]


def jobs(
    job: MaybeJob = None,
    *,
    state: States = None,
    project: ProjectName = None,
    client: Client = None,
    limit: Limit = 20,
    cursor: Cursor = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first, or show one."""
    if job is not None:
        run(_show(job, url, as_json=as_json), as_json=as_json)
        return
    wanted = {"project": project, "client": client, "limit": limit, "cursor": cursor}
    run(_list(wanted | {"state": [each.value for each in state or []]}, url, as_json=as_json), as_json=as_json)


async def _list(wanted: dict[str, object], url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        page = await api.get("/jobs", JobPage, **wanted)
    if as_json:
        show_json(page)
        return
    rows = [
        (
            job.code,
            render.state(job.state),
            render.one_line(render.progress(job), 40),
            job.project,
            render.took(job),
            render.ago(job.created_at),
            render.one_line(job.request.prompt),
        )
        for job in page.items
    ]
    render.table(("job", "state", "progress", "project", "took", "made", "prompt"), rows, "no jobs")
    if page.next:
        render.console().print(f"there are more: --cursor {page.next}", soft_wrap=True)


async def _show(job: str, url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        view = await api.get(f"/jobs/{segment('job', job)}", JobView)
        if as_json:
            show_json(view)
        else:
            details(view, api.url)


def details(view: JobView, url: str) -> None:
    """Print everything worth knowing of a job."""
    used = view.settings
    render.fields(
        [
            ("job", f"{view.code}  {view.id}"),
            ("state", render.state(view.state)),
            ("progress", render.progress(view)),
            ("project", view.project),
            ("priority", view.priority.value + (", paused" if view.paused else "")),
            ("prompt", view.request.prompt),
            ("prompt used", used.prompt if used and used.prompt != view.request.prompt else None),
            ("note", view.prompt_note),
            ("negative", used.negative_prompt if used else view.request.negative_prompt),
            ("model", used.model if used else view.request.model),
            ("settings", f"{used.width}x{used.height}, {used.steps} steps, {used.sampler.value}" if used else None),
            ("guidance", used.guidance if used else None),
            ("seed", used.seed if used else view.request.seed),
            ("count", view.request.count),
            ("worker", view.worker),
            ("attempts", f"{view.attempt}, {view.failures} failed" if view.failures else view.attempt or None),
            ("made", render.ago(view.created_at)),
            ("took", render.took(view)),
            ("error", f"{view.error.code}: {view.error.message}" if view.error else None),
            *(("warning", warning) for warning in view.warnings),
            *(("picture", place) for place in display.pictures(view, url)),
        ]
    )


def watch(job: Job, *, url: Url = None, as_json: Json = False) -> None:
    """Follow a job to its end. Ctrl-C stops following, never the job."""
    run(_watch(job, url, as_json=as_json), as_json=as_json)


async def _watch(job: str, url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        view = await display.watch(api, segment("job", job), as_json=as_json)
        if not as_json:
            finished(view, api.url)


def cancel(job: Job, *, url: Url = None, as_json: Json = False) -> None:
    """Stop a job: at once while it waits, between two steps while it runs."""
    run(_order(job, "cancel", url, as_json=as_json), as_json=as_json)


def retry(job: Job, *, url: Url = None, as_json: Json = False) -> None:
    """Run a failed or cancelled job again, under the same id."""
    run(_order(job, "retry", url, as_json=as_json), as_json=as_json)


async def _order(job: str, verb: str, url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        answer = await api.send("POST", f"/jobs/{segment('job', job)}/{verb}")
    found = read(answer, Pending) if answer.status_code == 202 else read(answer, JobView)
    if as_json:
        show_json(found)
    elif isinstance(found, Pending):
        render.console().print(f"job {job}: {found.detail}")
    elif found.cancel_requested and not found.state.ended:
        render.console().print(f"job {found.code} stops after the running step")
    else:
        render.console().print(f"job {found.code} is {found.state.value}")
