"""`anime stats`: what the last hour, day, week or month was like."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anime_cli import render
from anime_cli.api import connect, read
from anime_cli.options import Json, Url, run, show_json
from anime_common.contracts.statistics import History, Window
from anime_common.messages import Model

Since = Annotated[Window, typer.Option("--window", "-w", help="How far back to look.")]


class _Whole(Model):
    """Of the answer, what is shown here; the rest is of the moment, not of the window."""

    history: History


def stats(*, window: Since = Window.DAY, url: Url = None, as_json: Json = False) -> None:
    """Show how quick, how often again and how long waited: a table of a stretch of time."""
    found = run(_ask(window, url), as_json=as_json)
    if as_json:
        show_json(found)
        return
    _show(found)


async def _ask(window: Window, url: str | None) -> History:
    async with connect(url) as api:
        answer: Any = await api.send("GET", "/stats", params={"window": window.value})
        return read(answer, _Whole).history


def _show(found: History) -> None:
    out, seconds = render.console(), render.seconds
    out.print(f"{'since the beginning' if found.since is None else f'the last {found.window.value}'}:", markup=False)
    states = ", ".join(f"{count} {state.value}" for state, count in found.submitted.items() if count)
    out.print(f"submitted: {states or 'nothing'}", markup=False)
    out.print(
        f"ended: {found.completed} completed, {found.failed} failed, {found.cancelled} cancelled;"
        f" {found.files} files, {render.size(found.bytes)}",
        markup=False,
    )
    rows = [
        (
            each.model,
            str(each.finished),
            str(each.pictures),
            seconds(each.median_seconds),
            seconds(each.p95_seconds),
            f"{100 * each.within_target:.0f} %",
            seconds(each.median_loading),
        )
        for each in found.models
    ]
    within = f"within {found.target_seconds:g} s"
    render.table(("model", "finished", "pictures", "median", "p95", within, "loading"), rows, "no attempt finished")
    waits = [
        (each.priority.value, str(each.jobs), seconds(each.median_seconds), seconds(each.p95_seconds))
        for each in found.waits
    ]
    render.table(("class", "begun", "waited, median", "p95"), waits, "no job was begun")
    again = found.retries
    why = ", ".join(f"{code} {count}" for code, count in again.codes.items())
    out.print(f"tried again: {again.attempts} attempts of {again.jobs} jobs{f' ({why})' if why else ''}", markup=False)
    echo = found.echo
    why = "; ".join(f"{reason} ({count})" for reason, count in echo.reasons.items())
    used = f"echo: {echo.asked} asked, {echo.improved} improved, {echo.fell_back} with their own words"
    out.print(f"{used}{f': {why}' if why else ''}", markup=False)
    if found.eta_factor is not None:
        out.print(f"ends were told right within a factor of {found.eta_factor:.2f} (median)", markup=False)
