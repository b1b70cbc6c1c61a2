"""Shows a job while it is followed: a live bar in a terminal, lines elsewhere, JSON for programs; and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from anime_cli import places, render
from anime_cli.api import Api
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import show_json
from anime_cli.settings import ClientSettings
from anime_cli.watching import Follower
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState, Phase
from anime_common.settings import load


async def watch(api: Api, job: str, *, as_json: bool, promised: bool = False) -> JobView:
    """Follow a job to its end and show it; raises CliError when it does not end well. Ctrl-C leaves it running."""
    follower = Follower(api, job, promised=promised)
    show = _as_json if as_json else _as_bar if render.console().is_terminal else _as_lines
    try:
        async with aclosing(follower.views()) as views:
            view = await show(views)
    except asyncio.CancelledError:
        name = follower.view.code if follower.view else job
        render.error_console().print(
            f"job {name} goes on: `anime watch {name}` follows it, `anime cancel {name}` stops it"
        )
        raise
    raise_unless_completed(view)
    return view


async def _as_json(views: AsyncIterator[JobView]) -> JobView:
    """One line of progress a change, then the job."""
    last: JobView | None = None
    async for view in views:
        if last is None or view.progress != last.progress:
            show_json({"progress": view.progress.model_dump(mode="json")})
        last = view
    assert last is not None
    show_json({"job": last.model_dump(mode="json")})
    return last


async def _as_lines(views: AsyncIterator[JobView]) -> JobView:
    """A line whenever state or phase change."""
    last: JobView | None = None
    async for view in views:
        if last is None or _stage(view) != _stage(last):
            render.console().print(f"{view.code}  {_stage(view)}  {view.progress.percent:.0f} %")
        last = view
    assert last is not None
    return last


async def _as_bar(views: AsyncIterator[JobView]) -> JobView:
    """A bar that says exactly what the gateway says."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[step]}"),
        TextColumn("{task.fields[eta]}", style="cyan"),
        TimeElapsedColumn(),
    )
    last: JobView | None = None
    with Progress(*columns, console=render.console(), transient=False) as bar:
        task = bar.add_task("…", total=100.0, step="", eta="")
        async for view in views:
            _update(bar, task, view)
            last = view
    assert last is not None
    return last


def _update(bar: Progress, task: TaskID, view: JobView) -> None:
    now = view.progress
    waits = view.state in {JobState.PREPARING, JobState.QUEUED, JobState.DISPATCHED}
    step = f"step {now.step}/{now.steps}" if now.step is not None and now.steps and not view.state.ended else ""
    eta = f"≈ {render.seconds(now.eta_seconds)} left" if now.eta_seconds is not None and not view.state.ended else ""
    text = _stage(view)
    if waits and now.position:
        text = f"{text}, place {now.position}"
    bar.update(task, description=f"{view.code} {text}", completed=now.percent, step=step, eta=eta)


def _stage(view: JobView) -> str:
    if view.state is JobState.RUNNING and view.progress.phase is not None:
        return view.progress.phase.value
    return view.state.value


def raise_unless_completed(view: JobView) -> None:
    """Raise CliError with the reason when a job failed or was cancelled."""
    if view.state is JobState.COMPLETED:
        return
    reason = view.error.message if view.error else view.message or "no reason was given"
    if view.state is JobState.CANCELLED:
        lines = [f"job {view.code} was cancelled; `anime retry {view.code}` runs it again"]
    else:
        lines = [f"job {view.code} failed: {reason}"]
    if view.error is not None and view.error.retryable:
        lines.append(f"trying again may help: `anime retry {view.code}`")
    problem = {"code": view.error.code if view.error else view.state.value, "detail": reason, "job_id": str(view.id)}
    raise CliError(ExitStatus.FAILED, *lines, problem=problem)


def summary(view: JobView) -> None:
    """How long each phase of a completed job took."""
    rows = [(phase.value, render.seconds(view.timings[phase])) for phase in Phase if phase in view.timings]
    if view.started_at is not None:
        rows.insert(0, ("waiting", render.seconds((view.started_at - view.created_at).total_seconds())))
    if view.ended_at is not None:
        rows.append(("all", render.seconds((view.ended_at - view.created_at).total_seconds())))
    render.table(("phase", "took"), rows, "")
    for warning in view.warnings:
        render.console().print(f"warning: {warning}")


def pictures(view: JobView, url: str) -> list[str]:
    """Where the pictures of a job lie."""
    home = load(ClientSettings).home.expanduser()
    return [places.place_of(output, url, home) for output in view.outputs]
