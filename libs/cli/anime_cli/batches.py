"""`anime batch` and `anime batches`: many jobs at once, from a file."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import Field

from anime_cli import render
from anime_cli.api import Api, connect, read, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import with_offset
from anime_cli.options import Json, Limit, Url, Yes, confirm, reported, run, show_json
from anime_common.contracts.batches import Batch, BatchOffer, BatchPage
from anime_common.contracts.vocabulary import Priority
from anime_common.messages import Model
from anime_common.schemas import batch_file_schema

app = typer.Typer(no_args_is_help=True, help="Batches: many jobs that were accepted together.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The batch, as YAML or JSON; - reads standard input.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Make nothing; say how many jobs there would be.")]
Night = Annotated[
    str | None,
    typer.Option("--night", metavar="HH:MM", help="Start at this time of this machine's clock, next it comes."),
]
NotBefore = Annotated[
    str | None, typer.Option(help="Start no earlier, RFC 3339; without an offset local time is meant.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]
Ref = Annotated[str, typer.Argument(help="Code or id of the batch.", show_default=False)]
Project = Annotated[str | None, typer.Option("--project", "-P", help="Only of this project.")]
Open = Annotated[bool, typer.Option("--open", help="Only those that have not ended.")]
PriorityClass = Annotated[Priority, typer.Argument(help="interactive, normal or batch.", show_default=False)]
Cancelled = Annotated[bool, typer.Option("--cancelled", help="Also those that were cancelled.")]
Code = Annotated[str | None, typer.Option("--error", metavar="CODE", help="Only those that failed with this code.")]

PAUSE = 1.0
"""Seconds between two looks at a batch that is followed."""


class Moved(Model):
    """What an order to all jobs of a batch came to."""

    jobs: int = Field(description="How many jobs it changed.")
    batch: Batch


def _print_schema(asked: bool) -> None:  # noqa: FBT001 - how typer calls it
    if asked:
        print(json.dumps(batch_file_schema(), indent=2))
        raise typer.Exit


def batch(
    file: File,
    *,
    dry_run: DryRun = False,
    night: Night = None,
    not_before: NotBefore = None,
    yes: Yes = False,
    watch: Watch = False,
    print_schema: Annotated[
        bool, typer.Option("--schema", callback=_print_schema, is_eager=True, help="Print its JSON Schema and leave.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make many jobs of one file: a prompt with variables, lists, seeds. How many is shown before they are made."""
    del print_schema  # done by its callback

    async def work() -> None:
        body = _read(file)
        start = next_time(night, datetime.now().astimezone()) if night is not None else with_offset(not_before)
        if start is not None:
            body["not_before"] = start
        async with connect(url) as api:
            offer = read(await api.send("POST", "/batches", json=body, params={"dry_run": True}), BatchOffer)
            if not as_json:
                _offered(offer, start)
            if dry_run:
                if as_json:
                    show_json(offer)
                return
            if not as_json and offer.total > 1:
                confirm(f"make these {offer.total} jobs?", yes=yes)
            made = read(await api.create("/batches", body), BatchOffer)
            assert made.batch is not None
            if as_json:
                show_json(made)
            else:
                render.console().print(f"batch {made.batch.code}: {made.total} jobs")
            if watch:
                await _watch(api, made.batch.code, as_json=as_json)
            elif not as_json:
                render.console().print(f"look at it with `anime batches show {made.batch.code}`")

    run(work(), as_json=as_json)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CliError(ExitStatus.USAGE, f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise CliError(ExitStatus.USAGE, f"{file}: must hold the fields of a batch, see `anime batch --schema`")
    return {str(name): value for name, value in found.items() if name != "$schema"}


def next_time(text: str, now: datetime) -> str:
    """The next moment at which a clock in the zone of `now` shows a time; raises CliError when it is no time."""
    try:
        wanted = time.fromisoformat(text)
    except ValueError as error:
        raise CliError(ExitStatus.USAGE, f"--night {text}: must be a time of the day, such as 23:30") from error
    if wanted.tzinfo is not None:
        raise CliError(ExitStatus.USAGE, f"--night {text}: is a time of this machine's clock, without an offset")
    today = now.replace(hour=wanted.hour, minute=wanted.minute, second=wanted.second, microsecond=0, tzinfo=None)
    found = today.astimezone()
    if found <= now:
        found = (today + timedelta(days=1)).astimezone()
    return found.isoformat()


def _offered(offer: BatchOffer, start: str | None) -> None:
    for axis in offer.axes:
        shown = ", ".join(axis.values[:6]) + (f" and {len(axis.values) - 6} more" if len(axis.values) > 6 else "")
        render.console().print(f"{axis.name}: {render.one_line(shown, 110)}", soft_wrap=True, markup=False)
    rows = [(" · ".join(each.labels.values()), render.one_line(each.prompt, 80)) for each in offer.samples]
    render.table(("job", "prompt"), [(render.one_line(label, 40), prompt) for label, prompt in rows], "no jobs")
    for warning in offer.warnings[:20]:
        render.console().print(f"warning: {warning}", soft_wrap=True, markup=False)
    when = f", not before {start}" if start else ""
    render.console().print(f"{offer.total} jobs{when}")


async def _watch(api: Api, code: str, *, as_json: bool) -> None:
    """Tell of a batch whenever it has come further, until it ends; fails when one of its jobs failed."""
    told = ""
    while True:
        found = await api.get(f"/batches/{code}", Batch)
        line = f"batch {code}: {found.percent:.0f} %  {_counts(found)}"
        if line != told:
            told = line
            if as_json:
                show_json(found)
            else:
                render.console().print(line, markup=False)
        if found.ended_at is not None:
            break
        await asyncio.sleep(PAUSE)
    failed = sum(count for state, count in found.counts.items() if state.value == "failed")
    if failed:
        raise CliError(ExitStatus.FAILED, f"{failed} of its jobs failed: `anime batches retry {code}` runs them again")


def _counts(found: Batch) -> str:
    return ", ".join(f"{count} {state.value}" for state, count in found.counts.items() if count)


@app.command("list")
def list_batches(
    *, project: Project = None, only_open: Open = False, limit: Limit = 20, url: Url = None, as_json: Json = False
) -> None:
    """List batches, newest first."""

    async def work() -> BatchPage:
        async with connect(url) as api:
            query = {"project": project, "open": True if only_open else None, "limit": limit}
            return await api.get("/batches", BatchPage, **query)

    page = run(work(), as_json=as_json)
    if as_json:
        show_json(page)
        return
    rows = [
        (each.code, each.project, f"{each.percent:.0f} %", _counts(each), render.one_line(each.name, 40))
        for each in page.items
    ]
    render.table(("code", "project", "done", "jobs", "name"), rows, "no batches")


@app.command()
def show(batch: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Show how far a batch is."""

    async def work() -> Batch:
        async with connect(url) as api:
            return await api.get(_path(batch), Batch)

    _shown(run(work(), as_json=as_json), as_json=as_json)


@app.command()
def pause(batch: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Hold the waiting jobs of a batch back; running ones go on."""
    _move("PATCH", batch, "", {"paused": True}, "held back", url=url, as_json=as_json)


@app.command()
def resume(batch: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Let a paused batch go on."""
    _move("PATCH", batch, "", {"paused": False}, "go on", url=url, as_json=as_json)


@app.command()
def prioritize(batch: Ref, priority: PriorityClass, *, url: Url = None, as_json: Json = False) -> None:
    """Change the priority of the waiting jobs of a batch."""
    _move("PATCH", batch, "", {"priority": priority.value}, f"are {priority.value} now", url=url, as_json=as_json)


@app.command()
def cancel(batch: Ref, *, yes: Yes = False, url: Url = None, as_json: Json = False) -> None:
    """Stop all jobs of a batch that have not ended."""
    with reported(as_json=as_json):
        confirm(f"cancel all jobs of the batch {batch!r} that have not ended?", yes=yes or as_json)
    _move("POST", batch, "/cancel", None, "are being stopped", url=url, as_json=as_json)


@app.command()
def retry(
    batch: Ref, *, cancelled: Cancelled = False, code: Code = None, url: Url = None, as_json: Json = False
) -> None:
    """Run the failed jobs of a batch again."""
    body = {"cancelled": cancelled, **({"code": code} if code else {})}
    _move("POST", batch, "/retry", body, "are tried again", url=url, as_json=as_json)


def _path(batch: str) -> str:
    return f"/batches/{segment('batch', batch)}"


def _move(
    method: str, batch: str, order: str, body: dict[str, Any] | None, done: str, *, url: str | None, as_json: bool
) -> None:
    async def work() -> Moved:
        async with connect(url) as api:
            given = {} if body is None else {"json": body}
            return read(await api.send(method, _path(batch) + order, **given), Moved)

    moved = run(work(), as_json=as_json)
    if as_json:
        show_json(moved)
    else:
        render.console().print(f"batch {moved.batch.code}: {moved.jobs} jobs {done}")


def _shown(found: Batch, *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    state = "ended" if found.ended_at else "paused" if found.paused else "running"
    render.fields(
        [
            ("batch", f"{found.code}  {found.id}"),
            ("name", found.name),
            ("project", found.project),
            ("state", f"{state}, {found.percent:.0f} %"),
            ("jobs", f"{found.total}: {_counts(found)}"),
            ("time left", render.seconds(found.eta_seconds)),
            *((axis.name, render.one_line(", ".join(axis.values), 100)) for axis in found.axes),
            ("sheet", found.sheet),
            ("made", render.ago(found.created_at)),
        ]
    )
