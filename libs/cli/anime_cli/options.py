"""Options that many commands share, and how a command runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from anime_cli.errors import CliError, ExitStatus, report

T = TypeVar("T")

Url = Annotated[
    str | None,
    typer.Option("--url", help="The gateway; default: ANIME_URL, else the stack of ANIME_HOME.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many to show.")]
Job = Annotated[str, typer.Argument(help="The job's 8-character code or id.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def run(work: Coroutine[Any, Any, T], *, as_json: bool = False) -> T:
    """Run a command to its end; an expected error becomes its exit status."""
    with reported(as_json=as_json):
        return asyncio.run(work)


@contextmanager
def reported(*, as_json: bool = False) -> Iterator[None]:
    """Within it, an expected error is told to the person, and becomes the exit status."""
    try:
        yield
    except CliError as error:
        report(error, as_json=as_json)
        raise typer.Exit(error.status) from error
    except BrokenPipeError as error:
        # Whoever read our output has enough; at exit Python would complain once more about what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitStatus.FAILED) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(ExitStatus.INTERRUPTED) from error


def given(**values: Any) -> dict[str, Any]:
    """What was said: options that were left out are None."""
    return {name: value for name, value in values.items() if value is not None}


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone; raises CliError when the answer is no, or there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(ExitStatus.USAGE, f"{question} Nobody is there to answer: say --yes")
    if not typer.confirm(question, err=True):
        raise CliError(ExitStatus.USAGE, "nothing was done")


def show_json(value: BaseModel | Any) -> None:
    """Print one JSON document on one line."""
    if isinstance(value, BaseModel):
        print(value.model_dump_json(), flush=True)
    else:
        print(json.dumps(value, ensure_ascii=False), flush=True)
