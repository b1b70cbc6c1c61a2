"""`anime dead`: letters that no service could handle. Talks to the bus itself, as its owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from anime_cli import render
from anime_cli.bus_access import admin_settings
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Yes, confirm, run, show_json
from anime_common.bus import ApiError, Bus, Stored
from anime_common.messages import subject_matches
from anime_common.outcomes import Unavailable
from anime_common.topology import ADMIN, DEAD

app = typer.Typer(no_args_is_help=True, help="Dead letters: what no service could handle.")

CONNECT_TIMEOUT = 5.0
NO_MESSAGE = 10037

Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers of letters, see `anime dead list`.")]
All = Annotated[bool, typer.Option("--all", help="All letters (of the consumer, if one is given).")]
Consumer = Annotated[str | None, typer.Option("--consumer", "-c", help="Only letters of this consumer.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="How many to show.")]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, and the message it was made of."""

    stored: Stored

    @property
    def number(self) -> int:
        """Its sequence in the stream of dead letters."""
        return self.stored.sequence

    @property
    def consumer(self) -> str:
        """Who could not handle it."""
        return self.stored.subject.rsplit(".", 1)[-1]

    def header(self, name: str) -> str:
        """A header, empty when absent."""
        return self.stored.headers.get(name, "")

    @property
    def original(self) -> dict[str, str]:
        """The headers that the message had."""
        ours = ("nats-", "anime-")
        return {name: value for name, value in self.stored.headers.items() if not name.lower().startswith(ours)}

    def as_json(self) -> dict[str, Any]:
        """Everything of it; the body as JSON where it is, else as text."""
        text = self.stored.data.decode(errors="replace")
        try:
            body: Any = json.loads(text)
        except ValueError:
            body = text
        return {
            "number": self.number,
            "consumer": self.consumer,
            "at": self.header("Nats-Time-Stamp"),
            "subject": self.header("anime-subject"),
            "reason": self.header("anime-reason"),
            "deliveries": int(self.header("anime-deliveries") or 0),
            "headers": self.original,
            "body": body,
        }


Act = Callable[[Bus, Letter], Awaitable[str]]
"""What is done with a letter; says what was done."""


@app.command("list")
def list_letters(*, consumer: Consumer = None, limit: Most = 100, as_json: Json = False) -> None:
    """List dead letters, oldest first."""

    async def work() -> list[Letter]:
        async with owner() as bus:
            return [letter async for letter in letters(bus, consumer, limit)]

    found = run(work(), as_json=as_json)
    if as_json:
        show_json([letter.as_json() for letter in found])
        return
    rows = [
        (
            str(letter.number),
            letter.header("Nats-Time-Stamp")[:19].replace("T", " "),
            letter.consumer,
            letter.header("ce-type") or letter.header("anime-subject"),
            render.one_line(letter.header("anime-reason"), 80),
        )
        for letter in found
    ]
    render.table(("number", "at (UTC)", "consumer", "message", "reason"), rows, "no dead letters")


@app.command()
def replay(
    numbers: Numbers = None, *, every: All = False, consumer: Consumer = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Send letters again, as they were, to where they came from; each that is stored there is then removed here."""
    run(_each("replay", _replay, numbers or [], consumer, every=every, yes=yes, as_json=as_json), as_json=as_json)


@app.command()
def drop(
    numbers: Numbers = None, *, every: All = False, consumer: Consumer = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Remove letters for good."""
    run(_each("drop", _drop, numbers or [], consumer, every=every, yes=yes, as_json=as_json), as_json=as_json)


async def _each(
    verb: str, act: Act, numbers: Sequence[int], consumer: str | None, *, every: bool, yes: bool, as_json: bool
) -> None:
    if every == bool(numbers):
        raise CliError(ExitStatus.USAGE, f"say which letters to {verb}: their numbers, or --all")
    async with owner() as bus:
        chosen = (
            [letter async for letter in letters(bus, consumer)]
            if every
            else [await letter_of(bus, number) for number in numbers]
        )
        if every and chosen:
            confirm(f"{verb} {len(chosen)} letters?", yes=yes)
        done = [(letter, await act(bus, letter)) for letter in chosen]
    if as_json:
        show_json([{"number": letter.number, "done": said} for letter, said in done])
        return
    for letter, said in done:
        render.console().print(f"{letter.number}: {said}")
    if not done:
        render.console().print("no dead letters")


async def _replay(bus: Bus, letter: Letter) -> str:
    subject = letter.header("anime-subject")
    if not any(subject_matches(pattern, subject) for pattern in ("anime.cmd.>", "anime.evt.>")):
        raise CliError(
            ExitStatus.CONFLICT,
            f"letter {letter.number} was on {subject!r}, which is not replayed: its sender makes such messages anew",
            f"remove it with `anime dead drop {letter.number}`",
        )
    # The id of the original would make the stream drop it as a repeat; this one makes a repeated replay harmless.
    created = (await bus.stream_state(DEAD)).created
    headers: Mapping[str, str] = {**letter.original, "Nats-Msg-Id": f"replay:{created}:{letter.number}"}
    stored = await bus.store(subject, headers, letter.stored.data)
    await _remove(bus, letter)
    return f"sent to {subject} ({stored.stream} {stored.sequence})"


async def _drop(bus: Bus, letter: Letter) -> str:
    await _remove(bus, letter)
    return "removed"


async def _remove(bus: Bus, letter: Letter) -> None:
    await bus.api(f"STREAM.MSG.DELETE.{DEAD}", {"seq": letter.number, "no_erase": True})


async def letters(bus: Bus, consumer: str | None = None, limit: int | None = None) -> AsyncIterator[Letter]:
    """The dead letters, oldest first."""
    position, told = 1, 0
    while page := await bus.read(DEAD, position, match=f"anime.dead.{consumer or '*'}"):
        for stored in page:
            if limit is not None and told >= limit:
                return
            yield Letter(stored)
            told += 1
        position = page[-1].sequence + 1


async def letter_of(bus: Bus, number: int) -> Letter:
    """One letter; raises CliError when there is none of that number."""
    found = await bus.read(DEAD, number, batch=1) if number > 0 else []
    if not found or found[0].sequence != number:
        raise CliError(ExitStatus.NOT_FOUND, f"there is no dead letter {number}")
    return Letter(found[0])


@asynccontextmanager
async def owner() -> AsyncIterator[Bus]:
    """The bus, as its owner; raises CliError when it does not answer or refuses."""
    settings = admin_settings()
    try:
        bus = await asyncio.wait_for(Bus.connect(settings, ADMIN), CONNECT_TIMEOUT)
    except TimeoutError as error:
        text = f"the bus at {settings.nats_url} does not let us in within {CONNECT_TIMEOUT:g} s"
        hint = "start the stack with `anime up`, or set ANIME_NATS_URL and ANIME_NATS_PASSWORD_FILE"
        raise CliError(ExitStatus.UNREACHABLE, text, hint) from error
    try:
        yield bus
    except Unavailable as error:
        raise CliError(ExitStatus.UNREACHABLE, str(error)) from error
    except ApiError as error:
        status = ExitStatus.NOT_FOUND if error.code == NO_MESSAGE else ExitStatus.FAILED
        raise CliError(status, str(error)) from error
    finally:
        await bus.close()
