"""`anime workflows`: what a ComfyUI server is told to do, and whether it can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anime_cli import generator_registry, render
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generator_registry import WORKFLOWS
from anime_cli.options import Json, reported, show_json
from anime_cli.settings import ClientSettings
from anime_common.settings import load

app = typer.Typer(help="Workflows of ComfyUI: what there is, what a server can run, and how to bring your own.")

Servers = Annotated[
    Path | None,
    typer.Option(
        "--comfyui",
        help="The file of servers; default: ANIME_COMFYUI, else comfyui.toml in ANIME_HOME.",
        show_default=False,
    ),
]
Server = Annotated[str | None, typer.Option("--server", help="This server alone.", show_default=False)]
FOLDER = "workflows"


@app.callback(invoke_without_command=True)
def workflows(context: typer.Context, *, comfyui: Servers = None, as_json: Json = False) -> None:
    """Show the workflows of every server; see also the commands below."""
    if context.invoked_subcommand is None:
        _list(comfyui, None, as_json=as_json)


@app.command("list")
def list_workflows(*, comfyui: Servers = None, server: Server = None, as_json: Json = False) -> None:
    """Show the workflows of every server, and which fields of a request each takes."""
    _list(comfyui, server, as_json=as_json)


@app.command()
def check(*, comfyui: Servers = None, server: Server = None, as_json: Json = False) -> None:
    """Ask every server whether it can run its workflows: nodes, models and values that it lacks are named.

    The exit status is 1 when a server does not answer, or cannot run what is needed or what is yours.
    """
    with reported(as_json=as_json):
        found = _ask("check", comfyui, server)
        if as_json:
            show_json(found)
        else:
            for each in found["servers"]:
                _show_checked(each)
            for problem in found["problems"]:
                render.console().print(f"wrong: {problem}", soft_wrap=True)
            if not found["problems"]:
                render.console().print("\nall is well")
    if found["problems"]:
        raise typer.Exit(ExitStatus.FAILED)


@app.command("import")
def import_workflow(
    file: Annotated[Path, typer.Argument(help="A workflow as ComfyUI exports it: Workflow, Export (API).")],
    *,
    name: Annotated[str, typer.Option(help="What it shall be called, as a model; default: as its file.")] = "",
    title: Annotated[str, typer.Option(help="Its name for people.")] = "",
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=NODE.INPUT", help="Where a field goes that was not found; may be repeated."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to keep it; default: workflows beside comfyui.toml.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a workflow of that name.")] = False,
    comfyui: Servers = None,
    as_json: Json = False,
) -> None:
    """Bring a workflow of your own: it becomes a model of its name. What was not found in it is said."""
    with reported(as_json=as_json):
        target = folder or _file(comfyui).parent / FOLDER
        options = [*(f"--field={each}" for each in field or ()), *(("--force",) if force else ())]
        told = generator_registry.ask(
            WORKFLOWS, "import", f"--name={name}", f"--title={title}", *options, "--", str(file), str(target)
        )
        if as_json:
            show_json(told)
        else:
            _show_imported(told)
        if told["problems"] and not as_json:
            raise CliError(ExitStatus.USAGE, *told["problems"])
    if told["problems"]:
        raise typer.Exit(ExitStatus.USAGE)


def _file(comfyui: Path | None) -> Path:
    return comfyui or load(ClientSettings).servers()


def _ask(command: str, comfyui: Path | None, server: str | None) -> dict[str, Any]:
    file = _file(comfyui)
    if not file.exists():
        hint = 'it holds [servers.NAME] and url = "http://127.0.0.1:8188"; docs/comfyui.md tells more'
        raise CliError(ExitStatus.USAGE, f"there is no file of ComfyUI servers at {file}: {hint}")
    found = generator_registry.ask(WORKFLOWS, command, *((f"--server={server}",) if server else ()), "--", str(file))
    if "servers" not in found or (found["problems"] and not found["servers"]):
        raise CliError(ExitStatus.USAGE, *found["problems"])
    return found


def _list(comfyui: Path | None, server: str | None, *, as_json: bool) -> None:
    with reported(as_json=as_json):
        found = _ask("list", comfyui, server)
        if as_json:
            show_json(found)
            return
        for each in found["servers"]:
            render.console().print(f"{each['name']}, {each['url']}", soft_wrap=True)
            rows = [
                (
                    workflow["name"],
                    "your own" if workflow["own"] else "shipped",
                    f"the model {workflow['name']}" if workflow["model"] else "every checkpoint",
                    "yes" if workflow["tested"] else "not yet",
                    workflow["title"],
                    ", ".join(workflow["fields"]),
                )
                for workflow in each["workflows"]
            ]
            render.table(("workflow", "from", "draws for", "run on a card", "title", "fields"), rows, "none")
            render.console().print()
        for problem in found["problems"]:
            render.console().print(f"wrong: {problem}", soft_wrap=True)


def _show_checked(server: dict[str, Any]) -> None:
    render.console().print(f"{server['name']}, {server['url']}", soft_wrap=True)
    if server["away"]:
        return
    rows = [(name, "can run" if not problems else "; ".join(problems)) for name, problems in server["problems"].items()]
    render.table(("workflow", "message"), rows, "none")
    render.console().print(f"{server['classes']} node classes, {len(server['checkpoints'])} checkpoints")


def _show_imported(told: dict[str, Any]) -> None:
    found = [(field, ", ".join(places)) for field, places in told.get("fields", {}).items()]
    render.table(("field", "goes to"), found, "nothing was found")
    for note in told.get("notes", ()):
        render.console().print(f"note: {note}", soft_wrap=True)
    if told["written"]:
        place = Path(told["folder"]) / f"{told['name']}.toml"
        text = f"\n{place} says so. Workers take it up by themselves: anime generate --model {told['name']} PROMPT"
        render.console().print(text, soft_wrap=True)
