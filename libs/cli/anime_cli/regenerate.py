"""`anime regenerate`: make a picture again from what it tells of its making, and compare."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile
from pydantic import ValidationError

from anime_cli import display, render
from anime_cli.api import Api, connect, segment
from anime_cli.errors import CliError, ExitStatus
from anime_cli.generate import submit
from anime_cli.options import Json, Url, reported, run, show_json
from anime_common.contracts.generation import PICTURE_RECORD, Settings
from anime_common.contracts.jobs import Catalogue, JobView
from anime_common.messages import Model

TOLERANCE = 1
"""Of 255: pictures drawn alone and in a batch may differ by so much."""

File = Annotated[Path, typer.Argument(help="A PNG that this system made.", show_default=False)]
Most = Annotated[
    int, typer.Option("--tolerance", help="By how much of 255 a colour of a pixel may differ.", min=0, max=255)
]

_FREE = frozenset({"preset", "seed", "count"})
_SPELLED = (
    *("prompt", "negative_prompt", "model", "width", "height", "steps", "guidance", "guidance_rescale", "clip_skip"),
    *("sampler", "init_image", "mask", "strength", "upscale"),
)


class Record(Model):
    """What a picture tells of its making, as far as it is needed here."""

    project: str
    seed: int
    settings: Settings
    generator: str = ""


class Difference(NamedTuple):
    """How far two pictures of one size are apart: the largest difference of a colour, and the share of pixels."""

    largest: int
    share: float


def regenerate(file: File, *, tolerance: Most = TOLERANCE, url: Url = None, as_json: Json = False) -> None:
    """Make a picture again from its own metadata, and compare; exit status 1 when it differs."""
    with reported(as_json=as_json):
        record, original = read_picture(file)

    async def work() -> tuple[JobView, bytes]:
        async with connect(url) as api:
            return await _again(api, record, as_json=as_json)

    job, again = run(work(), as_json=as_json)
    with Image.open(io.BytesIO(again), formats=["PNG"]) as image:
        found = difference(original, image)
    same = found is not None and found.largest <= tolerance
    changed = _changed(record.settings, job.settings)
    if as_json:
        compared = found._asdict() if found else None
        show_json({"job": job.code, "same": same, "difference": compared, "settings_changed": changed})
    else:
        if changed:
            render.console().print(f"made otherwise this time: {', '.join(changed)}", soft_wrap=True)
        render.console().print(f"job {job.code}: {_verdict(found, tolerance)}", soft_wrap=True)
    if not same:
        raise typer.Exit(ExitStatus.FAILED)


def read_picture(file: Path) -> tuple[Record, Image.Image]:
    """What a picture tells, and its pixels; raises CliError for what this system did not make."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            assert isinstance(image, PngImageFile)
            text = image.text.get(PICTURE_RECORD)
            pixels = image.convert("RGB")
    except FileNotFoundError as error:
        raise CliError(ExitStatus.NOT_FOUND, f"there is no file {file}") from error
    except (OSError, ValueError) as error:
        raise CliError(ExitStatus.USAGE, f"{file} is no PNG that can be read: {error}") from error
    if text is None:
        raise CliError(ExitStatus.USAGE, f"{file} does not tell how it was made: it has no text {PICTURE_RECORD!r}")
    try:
        return Record.model_validate(json.loads(text), extra="ignore"), pixels
    except (ValueError, ValidationError) as error:
        raise CliError(ExitStatus.USAGE, f"{file} tells how it was made in a way that is not understood") from error


def body_of(record: Record, honoured: tuple[str, ...]) -> dict[str, Any]:
    """The request that makes the picture again; `honoured` are the fields that its model takes (empty: all)."""
    settings = record.settings
    found: dict[str, Any] = settings.model_dump(mode="json", include=set(_SPELLED), exclude_none=True)
    found |= {"seed": record.seed, "project": record.project, "count": 1}
    found["loras"] = [use.model_dump() for use in settings.loras]
    if settings.hires is not None:
        hires = settings.hires
        found["hires"] = {
            "scale": hires.width / settings.width,
            **hires.model_dump(include={"steps", "strength", "upscaler"}),
        }
    always = {"prompt", "model", "project"}
    return {name: value for name, value in found.items() if name in always or not honoured or name in honoured}


def difference(one: Image.Image, other: Image.Image) -> Difference | None:
    """How far two pictures are apart; None when they are of different sizes."""
    if one.size != other.size:
        return None
    red, green, blue = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).split()
    counts = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
    largest = max(amount for amount, count in enumerate(counts) if count)
    return Difference(largest, sum(counts[1:]) / sum(counts))


async def _again(api: Api, record: Record, *, as_json: bool) -> tuple[JobView, bytes]:
    models = {entry.model.key: entry.model for entry in (await api.get("/models", Catalogue)).items}
    model = models.get(record.settings.model)
    job, promised = await submit(api, body_of(record, model.fields if model else ()))
    name = job.code if isinstance(job, JobView) else job.job_id
    view = await display.watch(api, name, as_json=as_json, promised=promised)
    answer = await api.send("GET", f"/files/{segment('file', str(view.outputs[0].file_id))}/content")
    return view, answer.content


def _changed(asked: Settings, used: Settings | None) -> list[str]:
    """The settings that were not as recorded, such as a size that the model does not draw any more."""
    if used is None:
        return []
    return [
        f"{name} {getattr(used, name)} instead of {getattr(asked, name)}"
        for name in Settings.model_fields
        if name not in _FREE and getattr(used, name) != getattr(asked, name)
    ]


def _verdict(found: Difference | None, tolerance: int) -> str:
    if found is None:
        return "differs: the pictures are of different sizes"
    if found.largest == 0:
        return "the same, pixel by pixel"
    text = f"{found.share:.1%} of the pixels differ, by at most {found.largest} of 255"
    return f"the same within the tolerance: {text}" if found.largest <= tolerance else f"differs: {text}"
