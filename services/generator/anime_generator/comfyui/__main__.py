"""`python -m anime_generator.comfyui list|check|import`: says as JSON what `anime workflows` tells people.

A program, so that the command line asks the generator that is installed instead of knowing its insides.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anime_common.keys import key_for
from anime_generator.comfyui.checking import check
from anime_generator.comfyui.choosing import ROLES
from anime_generator.comfyui.importing import import_graph
from anime_generator.comfyui.manifest import Workflow, WorkflowError, load_workflow, load_workflows, read_graph
from anime_generator.comfyui.server import Refused, Server, TooLarge, Unreachable
from anime_generator.comfyui.servers import Remote, ServersError, load_servers
from anime_generator.comfyui.shelf import CHECKPOINTS

ANSWERS_WITHIN = 30.0


def main(argv: list[str] | None = None) -> int:
    """Print one JSON document; exit status 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m anime_generator.comfyui", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("list", "the workflows of each server"), ("check", "ask each server whether it can run them")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path, help="the file of servers")
        command.add_argument("--server", help="this server alone")
    importing = commands.add_parser("import", help="make a workflow of a file that ComfyUI exported")
    importing.add_argument("file", type=Path, help="a workflow in the API format")
    importing.add_argument("folder", type=Path, help="where workflows are kept")
    importing.add_argument("--name", default="", help="what it shall be called; default: as its file")
    importing.add_argument("--title", default="", help="its name for people")
    importing.add_argument("--field", action="append", default=[], help="FIELD=NODE.INPUT, for what is not found")
    importing.add_argument("--force", action="store_true", help="write over a workflow of that name")
    options = parser.parse_args(argv)
    try:
        report = _import(options) if options.command == "import" else _servers(options)
    except ServersError as error:
        report = {"problems": str(error).splitlines()}
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    return 1 if report["problems"] else 0


def _servers(options: argparse.Namespace) -> dict[str, Any]:
    servers = load_servers(options.file).servers
    if options.server is not None and options.server not in servers:
        return {"problems": [f"there is no server {options.server!r}; there is: {', '.join(servers)}"], "servers": []}
    told, problems = [], []
    for name, remote in servers.items():
        if options.server in {None, name}:
            workflows, wrong = load_workflows(remote.workflows)
            shown = [_shown(each) for each in workflows.values()]
            entry: dict[str, Any] = {"name": name, "url": remote.url, "folder": str(remote.workflows)}
            entry |= {"workflows": shown, "wrong": {each.name: each.problems for each in wrong}}
            if options.command == "check":
                entry |= _checked(remote, workflows)
            problems += list(_problems(entry))
            told.append(entry)
    return {"servers": told, "problems": problems}


def _problems(entry: dict[str, Any]) -> Iterator[str]:
    for name, found in entry["wrong"].items():
        yield from (f"{entry['name']}: {name}: {each}" for each in found)
    if entry.get("away"):
        yield f"{entry['name']}: {entry['away']}"
    for name, found in entry.get("problems", {}).items():
        # What comes with us and what nobody asked for may lack models of its own.
        optional = name not in ROLES and not next(each["own"] for each in entry["workflows"] if each["name"] == name)
        yield from (f"{entry['name']}: {name}: {each}" for each in found if not optional)


def _checked(remote: Remote, workflows: dict[str, Workflow]) -> dict[str, Any]:
    server = Server(remote.url, remote.headers, ANSWERS_WITHIN)
    try:
        classes, checkpoints = server.object_info(), server.models(CHECKPOINTS)
    except (Unreachable, Refused, TooLarge) as error:
        return {"away": f"the server at {remote.url} does not answer as it should: {error}"}
    finally:
        server.close()
    problems = {name: check(workflow, classes) for name, workflow in workflows.items()}
    return {"away": "", "classes": len(classes), "checkpoints": list(checkpoints), "problems": problems}


def _shown(workflow: Workflow) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "title": workflow.title,
        "own": workflow.own,
        "tested": workflow.tested,
        "model": workflow.name not in ROLES,
        "fields": sorted(workflow.honours),
        "nodes": len(workflow.graph),
    }


def _import(options: argparse.Namespace) -> dict[str, Any]:
    name = options.name or key_for(options.file.stem, "workflow")
    report: dict[str, Any] = {"name": name, "folder": str(options.folder), "written": False, "problems": []}
    if key_for(name) != name:
        report["problems"] = [f"--name {name!r}: small letters, digits, dots, dashes and underscores, at most 64"]
        return report
    try:
        text = options.file.read_text(encoding="utf-8")
        found = import_graph(read_graph(text))
    except (OSError, ValueError, RecursionError) as error:
        report["problems"] = [f"{options.file}: {error}"]
        return report
    for given in options.field:
        field, _, place = given.partition("=")
        found.say(field.strip(), place.strip())
    report |= {"fields": found.fields, "outputs": found.outputs, "notes": found.notes}
    report |= {"manifest": found.manifest(options.title or name), "problems": list(found.problems)}
    if not found.problems:
        report["problems"] = _write(options.folder, name, text, report["manifest"], force=options.force)
        report["written"] = not report["problems"]
    return report


def _write(folder: Path, name: str, graph: str, manifest: str, *, force: bool) -> list[str]:
    """Put both files into a folder, unless they would not serve there; what is wrong then."""
    files = {folder / f"{name}.json": graph, folder / f"{name}.toml": manifest}
    if not force and (there := [path.name for path in files if path.exists()]):
        return [f"{', '.join(there)}: is there already in {folder}; --force writes over it, --name gives another name"]
    with tempfile.TemporaryDirectory() as trial:
        for path, text in files.items():
            (Path(trial) / path.name).write_text(text, encoding="utf-8")
        try:
            load_workflow(Path(trial) / f"{name}.toml")
        except WorkflowError as error:
            return error.problems
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        return [f"{folder}: cannot be written to: {error.strerror}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
