"""`anime unload`: generators give up models, so that another program gets the card. Talks to the bus as its owner."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from pydantic import ValidationError

from anime_cli import render
from anime_cli.dead import owner
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, run, show_json
from anime_common.bus import Bus, Received
from anime_common.contracts.generator import Control, Heartbeat, UnloadModel

LISTEN = 6.0
"""Seconds in which every generator that lives is heard."""
OBEY = 10.0

Model = Annotated[str | None, typer.Argument(help="Key of the model; without it, all.", show_default=False)]
Generator = Annotated[
    str | None, typer.Option("--generator", "-g", help="Only this generator; default: all.", show_default=False)
]


class Fleet:
    """The generators that are heard, by name, as they were last."""

    def __init__(self) -> None:
        self.heard: dict[str, Heartbeat] = {}
        self._news = asyncio.Event()

    async def hear(self, received: Received) -> None:
        """Take in a heartbeat; one that cannot be read is a newer generator's."""
        try:
            beat = Heartbeat.parse(received.data)
        except ValidationError:
            return
        self.heard[beat.worker] = beat
        self._news.set()

    def holding(self, model: str | None, generator: str | None) -> dict[str, tuple[str, ...]]:
        """What is in memory of what is to go, by generator."""
        found = {}
        for name, beat in self.heard.items():
            held = tuple(each.key for each in beat.residency if each.tier and model in {None, each.key})
            if held and not beat.goodbye and generator in {None, name}:
                found[name] = held
        return found

    async def until(self, *names: str, within: float, gone: str | None = None, all_gone: bool = False) -> None:
        """Wait until these are heard (with `all_gone`: and hold `gone` no more); without names, the whole time."""
        deadline = asyncio.get_running_loop().time() + within
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            heard = bool(names) and all(name in self.heard for name in names)
            if heard and not (all_gone and any(self.holding(gone, name) for name in names)):
                return
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                return


def unload(model: Model = None, *, generator: Generator = None, as_json: Json = False) -> None:
    """Have generators give up models in memory, once the run in hand is over; they are loaded again when used."""

    async def work() -> dict[str, dict[str, tuple[str, ...]]]:
        async with owner() as bus:
            return await _unload(bus, model, generator)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [
        (name, ", ".join(each["given_up"]) or "none", ", ".join(each["still_held"]) or "none")
        for name, each in found.items()
    ]
    render.table(("generator", "given up", "still in use"), rows, "nothing of the kind is in memory")


async def _unload(bus: Bus, model: str | None, generator: str | None) -> dict[str, dict[str, tuple[str, ...]]]:
    fleet = Fleet()
    await bus.listen("anime.tel.generator.*", fleet.hear)
    await fleet.until(*([generator] if generator else []), within=LISTEN)
    if generator and generator not in fleet.heard:
        raise CliError(ExitStatus.NOT_FOUND, f"no generator {generator!r} is heard: `anime generators` lists them")
    before = fleet.holding(model, generator)
    for name in before:
        await bus.tell(Control(worker=name, order=UnloadModel(model=model)))
    await fleet.until(*before, within=OBEY if before else 0.0, gone=model, all_gone=True)
    after = fleet.holding(model, generator)
    return {
        name: {
            "given_up": tuple(key for key in held if key not in after.get(name, ())),
            "still_held": after.get(name, ()),
        }
        for name, held in before.items()
    }
