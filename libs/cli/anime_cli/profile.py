"""`anime profile`: where the time goes, and what would help."""

from __future__ import annotations

from typing import Annotated

import typer

from anime_cli import render
from anime_cli.api import connect
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Url, run, show_json
from anime_common.contracts.jobs import Profile

MOST = 12
"""Nodes that are shown."""
BAR = 30


def profile(
    job: Annotated[str | None, typer.Argument(help="A job's 8-character code or id.", show_default=False)] = None,
    *,
    workflow: Annotated[
        str | None, typer.Option(metavar="NAME", help="The latest jobs of a ComfyUI workflow.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="KEY", help="The latest jobs of a model.", show_default=False)
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How far back to look.")] = 30,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show where the time of a job went, or of the latest jobs of a workflow or model, and what would help."""

    async def work() -> Profile:
        if sum(each is not None for each in (job, workflow, model)) != 1:
            raise CliError(ExitStatus.USAGE, "name a job, or --workflow, or --model: one of them")
        async with connect(url) as api:
            return await api.get("/profile", Profile, job=job, workflow=workflow, model=model, days=days)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    if not found.runs:
        render.console().print(f"{found.subject}: nothing is recorded yet: no attempt of it has ended")
        return
    _show(found)


def _show(found: Profile) -> None:
    drew = f"{found.model}, {found.engine}" + (f", workflow {found.workflow}" if found.workflow else "")
    runs = f", medians of {found.runs} runs" if found.runs > 1 else ""
    render.console().print(f"{found.subject} ({drew}): {render.seconds(found.seconds)}{runs}\n", soft_wrap=True)
    rows = [
        (each.phase.value, render.seconds(each.seconds), f"{each.share:.0%}", _bar(each.share)) for each in found.phases
    ]
    render.table(("phase", "took", "share", ""), rows, "")
    if found.nodes:
        render.console().print()
        nodes = [
            (
                each.title,
                each.kind.value,
                render.seconds(each.seconds) if each.cached < 1 else "",
                f"{each.share:.0%}" if each.cached < 1 else "",
                "" if not each.cached else "cached" if each.cached == 1 else f"cached in {each.cached:.0%}",
            )
            for each in found.nodes[:MOST]
        ]
        render.table(("node", "does", "took", "share", ""), nodes, "")
        if len(found.nodes) > MOST:
            render.console().print(f"and {len(found.nodes) - MOST} more")
    for hint in found.hints:
        render.console().print(f"hint: {hint}", soft_wrap=True)


def _bar(share: float) -> str:
    return "#" * round(share * BAR)
