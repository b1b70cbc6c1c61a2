"""`anime attempts`: every try at a job, where its time went and why it ended."""

from __future__ import annotations

from datetime import datetime

from anime_cli import render
from anime_cli.api import connect, segment
from anime_cli.options import Job, Json, Url, run, show_json
from anime_common.contracts.jobs import Attempt, Attempts


def attempts(job: Job, *, url: Url = None, as_json: Json = False) -> None:
    """Show every attempt at a job: who made it, how long it waited and worked, and why it ended."""

    async def work() -> Attempts:
        async with connect(url) as api:
            return await api.get(f"/jobs/{segment('job', job)}/attempts", Attempts)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    head = ("attempt", "worker", "outcome", "offered", "waited", "worked", "reached", "next after", "why")
    render.table(head, [_row(each) for each in found.items], f"{found.job_code}: no worker was offered it yet")


def _row(each: Attempt) -> tuple[str, ...]:
    why = f"{each.code}: {each.error}" if each.code else each.error or ""
    reached = f"{each.reached.phase.value}, {each.reached.percent:.0f} %" if each.reached is not None else ""
    return (
        str(each.number),
        each.worker,
        each.outcome or "in work",
        render.ago(each.offered_at),
        _between(each.offered_at, each.started_at),
        _between(each.started_at, each.ended_at),
        reached,
        render.seconds(each.retry_delay) if each.retry_delay is not None else "",
        render.one_line(why, 60),
    )


def _between(start: datetime | None, end: datetime | None) -> str:
    return render.seconds(max((end - start).total_seconds(), 0.0)) if start and end else ""
