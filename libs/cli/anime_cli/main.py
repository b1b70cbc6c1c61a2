"""The `anime` command."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.metadata import version
from typing import Annotated

import structlog
import typer

from anime_cli import (
    attempts,
    batches,
    characters,
    compose,
    dead,
    demo,
    doctor,
    files,
    generate,
    jobs,
    migrate,
    models,
    profile,
    projects,
    regenerate,
    reschedule,
    stack,
    stats,
    system,
    token,
    unload,
    upload,
    upscale,
    workflows,
)
from anime_cli.errors import ExitStatus
from anime_cli.settings import StackSettings
from anime_common.settings import load

EPILOG = (
    "Exit status: 0 ok; 1 a job failed or the doctor found something; 2 invalid input; 3 nothing answers; 4 not found;"
    " 5 conflict; 6 denied; 130 interrupted."
)

app = typer.Typer(
    name="anime",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - how typer calls it
    if asked:
        print(f"anime {version('tower-anime-cli')}")
        raise typer.Exit


@app.callback()
def anime(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Anime pictures from prompts, on your own machine."""
    del show_version  # done by its callback
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


@app.command()
def up() -> None:
    """Run the whole stack in the foreground until Ctrl-C. Settings are environment variables, see docs/cli.md."""
    try:
        status = asyncio.run(stack.up(load(StackSettings)))
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    raise typer.Exit(status)


app.command()(demo.demo)
app.command(cls=generate.WithFactors)(generate.generate)
app.command()(upscale.upscale)
app.command()(regenerate.regenerate)
app.command()(jobs.jobs)
app.command()(attempts.attempts)
app.command()(jobs.watch)
app.command()(jobs.cancel)
app.command()(jobs.retry)
app.command()(reschedule.reschedule)
app.command()(batches.batch)
app.add_typer(batches.app, name="batches")
app.add_typer(projects.app, name="projects")
app.add_typer(characters.app, name="characters")
app.command()(compose.compose)
app.add_typer(files.app, name="files")
app.command()(upload.upload)
app.command()(profile.profile)
app.command()(stats.stats)
app.add_typer(system.queue_app, name="queue")
app.add_typer(models.app, name="models")
app.add_typer(workflows.app, name="workflows")
app.command()(system.generators)
app.command()(unload.unload)
app.add_typer(dead.app, name="dead")
app.add_typer(token.app, name="token")
app.add_typer(migrate.app, name="migrate")
app.command()(doctor.doctor)

if __name__ == "__main__":
    app()
