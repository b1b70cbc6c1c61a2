"""`anime queue`, `generators`: the state of the whole."""

from __future__ import annotations

from typing import Annotated

import typer

from anime_cli import render
from anime_cli.api import connect, read
from anime_cli.options import Json, Url, run, show_json
from anime_common.contracts.generator import Heartbeat
from anime_common.contracts.jobs import QueueState, Workers

queue_app = typer.Typer(help="What waits, in the order in which it will run; pause it, or let it go on.")

Why = Annotated[str, typer.Argument(help="Why, for people.")]


@queue_app.callback(invoke_without_command=True)
def queue(context: typer.Context, *, url: Url = None, as_json: Json = False) -> None:
    """Show what waits, in the order in which it will run."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> QueueState:
        async with connect(url) as api:
            return await api.get("/queue", QueueState)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [
        (
            str(entry.position),
            entry.code,
            render.state(entry.state),
            entry.priority.value,
            entry.project,
            f"≈ {render.seconds(entry.eta_seconds)}" if entry.eta_seconds is not None else "",
            render.one_line(entry.message or ""),
        )
        for entry in found.entries
    ]
    render.table(("place", "job", "state", "priority", "project", "ends in", "message"), rows, "nothing waits")
    if found.waiting > len(found.entries):
        render.console().print(f"and {found.waiting - len(found.entries)} more")
    counts = ", ".join(f"{count} {state.value}" for state, count in found.counts.items() if count)
    render.console().print(f"{counts or 'no jobs'}; {found.workers} generators")
    if found.paused_since is not None:
        why = f": {found.pause_reason}" if found.pause_reason else ""
        render.console().print(f"paused {render.ago(found.paused_since)}{why}", markup=False)


@queue_app.command()
def pause(reason: Why = "", *, url: Url = None, as_json: Json = False) -> None:
    """Start nothing new until it is resumed; what runs goes on to its end."""
    _hold("pause", {"reason": reason}, "paused: nothing new is started", url=url, as_json=as_json)


@queue_app.command()
def resume(*, url: Url = None, as_json: Json = False) -> None:
    """Let the queue go on."""
    _hold("resume", None, "going on", url=url, as_json=as_json)


def _hold(order: str, body: dict[str, str] | None, done: str, *, url: str | None, as_json: bool) -> None:
    async def work() -> QueueState:
        async with connect(url) as api:
            return read(
                await api.send("POST", f"/queue/{order}", **({"json": body} if body is not None else {})), QueueState
            )

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
    else:
        render.console().print(f"the queue is {done}; {found.waiting} jobs wait")


def generators(*, url: Url = None, as_json: Json = False) -> None:
    """Show the generators and what they do."""

    async def work() -> Workers:
        async with connect(url) as api:
            return await api.get("/generators", Workers)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [
        (
            each.worker,
            each.status,
            f"{each.heartbeat.device.kind}: {each.heartbeat.device.name}",
            f"{render.size(each.heartbeat.device.memory_free)} of {render.size(each.heartbeat.device.memory_total)}",
            _loaded(each.heartbeat),
            _work(each.heartbeat),
            render.ago(each.last_seen),
        )
        for each in found.items
    ]
    render.table(("generator", "status", "device", "memory free", "loaded", "works on", "seen"), rows, "no generators")
    for each in found.items:
        for warning in each.heartbeat.warnings:
            render.console().print(f"{each.worker}: {warning}", soft_wrap=True)


def _loaded(heartbeat: Heartbeat) -> str:
    """Models ready to draw, and those that wait in the machine's own memory."""
    waiting = [f"{model.key} (waits in RAM)" for model in heartbeat.residency if model.tier == "host"]
    return ", ".join([*heartbeat.resident, *waiting]) or "none"


def _work(heartbeat: Heartbeat) -> str:
    running = [held for held in heartbeat.attempts if held.started and not held.ended]
    waiting = len(heartbeat.attempts) - len(running)
    said = [f"{held.phase.value} {held.percent:.0f} %" for held in running]
    said += [f"{waiting} offered"] if waiting else []
    said += [f"{heartbeat.backlog} of others before it"] if heartbeat.backlog else []
    return ", ".join(said) or "nothing"
