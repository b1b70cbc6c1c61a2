"""`anime jobs`, `watch`, `cancel`, `retry`: what becomes of jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anime_cli import display, render
from anime_cli.api import connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import Pending, finished, with_offset
from anime_cli.options import Job, Json, Limit, Url, given, reported, run, show_json
from anime_common.contracts.jobs import JobPage, JobView, Retried
from anime_common.contracts.vocabulary import JobState

MaybeJob = Annotated[str | None, typer.Argument(help="One job's code or id; all when left out.", show_default=False)]
States = Annotated[list[JobState] | None, typer.Option("--state", "-s", help="Only these states.")]
ProjectName = Annotated[str | None, typer.Option("--project", "-P", help="Only this project.")]
Client = Annotated[str | None, typer.Option(help="Only jobs of this client.")]
AnyJob = Annotated[str | None, typer.Argument(help="The job's 8-character code or id.", show_default=False)]
ErrorCode = Annotated[str | None, typer.Option("--error", metavar="CODE", help="Failed ones with this error code.")]
BatchName = Annotated[str | None, typer.Option("--batch", help="Failed ones of this batch.")]
FailedModel = Annotated[str | None, typer.Option("--model", "-m", help="Failed ones of this model.")]
Since = Annotated[str | None, typer.Option(help="Those that failed since, RFC 3339; without an offset local time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run none; say how many there are.")]
BatchOnly = Annotated[str | None, typer.Option("--batch", help="Only jobs of this batch.")]
Character = Annotated[str | None, typer.Option("--character", "-c", help="Only jobs in which this character appears.")]
Cursor = Annotated[str | None, typer.Option(help="Go on where a list ended.")]


def jobs(
    job: MaybeJob = None,
    *,
    state: States = None,
    project: ProjectName = None,
    client: Client = None,
    batch: BatchOnly = None,
    character: Character = None,
    limit: Limit = 20,
    cursor: Cursor = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first, or show one."""
    if job is not None:
        run(_show(job, url, as_json=as_json), as_json=as_json)
        return
    wanted: dict[str, object] = {"project": project, "client": client, "batch": batch, "character": character}
    wanted |= {"limit": limit, "cursor": cursor}
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


def retry(
    job: AnyJob = None,
    *,
    code: ErrorCode = None,
    project: ProjectName = None,
    batch: BatchName = None,
    model: FailedModel = None,
    since: Since = None,
    dry_run: DryRun = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a failed or cancelled job again, under the same id; without JOB, all failed ones that the options find."""
    wanted = given(code=code, project=project, batch=batch, model=model, since=with_offset(since))
    if job is None:
        run(_retry_many(wanted | {"dry_run": dry_run}, url, as_json=as_json), as_json=as_json)
        return
    with reported(as_json=as_json):
        if wanted or dry_run:
            raise CliError(ExitStatus.USAGE, "a job is run again by its name alone: options find many")
    run(_order(job, "retry", url, as_json=as_json), as_json=as_json)


async def _retry_many(wanted: dict[str, Any], url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        found = read(await api.send("POST", "/retries", json=wanted), Retried)
    if as_json:
        show_json(found)
        return
    for code, count in sorted(found.codes.items()):
        render.console().print(f"{code}: {count}")
    done = f"{found.retried} failed jobs are run again" if not wanted["dry_run"] else f"{found.found} failed jobs"
    render.console().print(done + (", and there are more: say it again" if found.more else ""))


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
