"""`anime reschedule`: when a waiting job runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anime_cli import render
from anime_cli.api import connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import Pending, with_offset
from anime_cli.options import Job, Json, Url, given, reported, run, show_json
from anime_common.contracts.jobs import JobView, Move
from anime_common.contracts.vocabulary import Priority

Wanted = Annotated[Priority | None, typer.Option("--priority", help="New priority class.")]
Before = Annotated[str | None, typer.Option(metavar="JOB", help="Put it before this job of its project.")]
After = Annotated[str | None, typer.Option(metavar="JOB", help="Put it after this job of its project.")]
Front = Annotated[bool, typer.Option("--front", help="Put it before all others of its project and class.")]
Back = Annotated[bool, typer.Option("--back", help="Put it after all others of its project and class.")]
Paused = Annotated[bool | None, typer.Option("--pause/--resume", help="Hold it back, or let it go on.")]
NotBefore = Annotated[str | None, typer.Option(help="Earliest start, RFC 3339; without an offset local time.")]
AnyTime = Annotated[bool, typer.Option("--any-time", help="Take the earliest start away.")]


def reschedule(
    job: Job,
    *,
    priority: Wanted = None,
    before: Before = None,
    after: After = None,
    front: Front = False,
    back: Back = False,
    paused: Paused = None,
    not_before: NotBefore = None,
    any_time: AnyTime = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change when a waiting job runs: its class, its place in its project, its earliest start, whether it is held."""
    with reported(as_json=as_json):
        if sum((before is not None, after is not None, front, back)) > 1:
            raise CliError(
                ExitStatus.USAGE, "a job can go to one place: give one of --before, --after, --front, --back"
            )
        if any_time and not_before is not None:
            raise CliError(ExitStatus.USAGE, "give one of --not-before and --any-time")
    move = (Move.FRONT if front else Move.BACK) if front or back else None
    changes = given(priority=priority, before=before, after=after, move=move, paused=paused)
    changes |= given(not_before=with_offset(not_before)) | ({"not_before": None} if any_time else {})
    run(_change(job, changes, url, as_json=as_json), as_json=as_json)


async def _change(job: str, changes: dict[str, Any], url: str | None, *, as_json: bool) -> None:
    async with connect(url) as api:
        answer = await api.send("PATCH", f"/jobs/{segment('job', job)}", json=changes)
        found = read(answer, Pending) if answer.status_code == 202 else read(answer, JobView)
        if isinstance(found, JobView):
            found = await api.get(f"/jobs/{found.id}", JobView)
    if as_json:
        show_json(found)
    elif isinstance(found, Pending):
        render.console().print(f"job {job}: {found.detail}")
    else:
        place = f", place {found.progress.position}" if found.progress.position else ""
        why = f": {found.progress.message}" if found.progress.message else ""
        text = f"job {found.code} is {found.state.value}, {found.priority.value}{place}{why}"
        render.console().print(render.one_line(text, 120), markup=False)
