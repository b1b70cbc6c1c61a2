"""`anime generate`: make pictures from a prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from anime_cli import display, originals, render
from anime_cli.api import Api, connect, read
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Url, given, run, show_json
from anime_common.contracts.jobs import JobView
from anime_common.contracts.vocabulary import JobState, Priority, Sampler
from anime_common.messages import Model

Prompt = Annotated[str, typer.Argument(help="What to draw: tags or prose.", show_default=False)]
Project = Annotated[str | None, typer.Option("--project", "-P", help="Project (slug or id) to file under.")]
Characters = Annotated[
    list[str] | None,
    typer.Option("--character", "-c", metavar="NAME[@VERSION]", help="Who appears; may be repeated, in their order."),
]
Scene = Annotated[str | None, typer.Option(help="Label of a scene, throughout which characters may keep one seed.")]
ModelKey = Annotated[str | None, typer.Option("--model", "-m", help="Model; see `anime models`.")]
Width = Annotated[int | None, typer.Option(help="Pixels.")]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")]
SamplerName = Annotated[Sampler | None, typer.Option("--sampler", help="Sampler.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What must not appear.")]
Count = Annotated[int | None, typer.Option("--count", "-n", help="How many pictures.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the first picture; the next ones count up.")]
Optimize = Annotated[bool, typer.Option("--optimize", help="Let Echo improve the prompt first.")]
PriorityClass = Annotated[Priority | None, typer.Option("--priority", help="Priority class.")]
NotBefore = Annotated[str | None, typer.Option(help="Earliest start, RFC 3339; without an offset local time is meant.")]
KeepPartial = Annotated[bool, typer.Option("--keep-partial", help="Keep finished pictures if it is cancelled.")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE", help="Begin with this picture: a file, an id of the library, a job's code."),
]
Mask = Annotated[
    str | None, typer.Option("--mask", metavar="FILE", help="Draw only where this picture is white; as --from.")
]
Strength = Annotated[
    float | None, typer.Option(help="How much is drawn anew, 0 to 1: of --from, or in the second pass of --hires.")
]
PresetName = Annotated[str | None, typer.Option("--preset", help="A preset of the model; see `anime models show`.")]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", metavar="KEY[:WEIGHT]", help="A LoRA to apply; may be repeated.")
]
ClipSkip = Annotated[int | None, typer.Option(help="Layer of the text encoder, counted from its end.")]
GuidanceRescale = Annotated[float | None, typer.Option(help="How far guidance is kept from overexposing, 0 to 1.")]
HiresScale = Annotated[
    float | None,
    typer.Option("--hires", metavar="[SCALE]", help="Draw small, enlarge, draw again; without a number 2 times."),
]
UpscaleFactor = Annotated[
    float | None,
    typer.Option("--upscale", metavar="[FACTOR]", help="Enlarge the finished pictures; without a number 2 times."),
]
Upscaler = Annotated[str | None, typer.Option("--upscaler", metavar="NAME", help="What enlarges.")]
WorkflowFile = Annotated[
    Path | None,
    typer.Option(
        "--workflow",
        metavar="FILE",
        help="Run a workflow as ComfyUI exports it (API): with --model workflow, where the owner allows it.",
    ),
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]


class WithFactors(TyperCommand):
    """A command whose options `--hires` and `--upscale` may stand without their number."""

    FACTORS = ("--hires", "--upscale")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give these options the number 2 where none follows."""
        return super().parse_args(ctx, list(_with_numbers(args, self.FACTORS, "2")))


def _with_numbers(args: list[str], options: tuple[str, ...], usual: str) -> Iterable[str]:
    for index, arg in enumerate(args):
        yield arg
        if arg == "--":
            yield from args[index + 1 :]
            return
        if arg in options and not _is_number(args[index + 1 : index + 2]):
            yield usual


def _is_number(args: list[str]) -> bool:
    try:
        return bool(args) and math.isfinite(float(args[0]))
    except ValueError:
        return False


class Pending(Model):
    """A job that the bus has stored and the ledger has not answered for yet."""

    job_id: str
    detail: str


def generate(
    prompt: Prompt,
    *,
    project: Project = None,
    character: Characters = None,
    scene: Scene = None,
    model: ModelKey = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_rescale: GuidanceRescale = None,
    sampler: SamplerName = None,
    negative: Negative = None,
    clip_skip: ClipSkip = None,
    preset: PresetName = None,
    lora: Loras = None,
    count: Count = None,
    seed: Seed = None,
    original: From = None,
    mask: Mask = None,
    strength: Strength = None,
    hires: HiresScale = None,
    upscale: UpscaleFactor = None,
    upscaler: Upscaler = None,
    workflow: WorkflowFile = None,
    optimize: Optimize = False,
    priority: PriorityClass = None,
    not_before: NotBefore = None,
    keep_partial: KeepPartial = False,
    watch: Watch = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make pictures from a prompt. What is left out takes the model's defaults."""
    wanted = {
        "project": project,
        "scene": scene,
        "model": model,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "guidance_rescale": guidance_rescale,
        "sampler": sampler,
        "negative_prompt": negative,
        "clip_skip": clip_skip,
        "preset": preset,
        "count": count,
        "seed": seed,
        "priority": priority,
        "not_before": with_offset(not_before),
        "optimize": optimize or None,
        "keep_partial": keep_partial or None,
    }
    body = {"prompt": prompt} | given(**wanted)

    async def work() -> None:
        more = _enlarging(hires, upscale, upscaler, None if original else strength)
        if character:
            more["characters"] = [character_of(each) for each in character]
        if lora:
            more["loras"] = [lora_of(each) for each in lora]
        if workflow is not None:
            more["workflow"] = _workflow(workflow)
        if original and strength is not None:
            more["strength"] = strength
        async with connect(url) as api:
            more |= await _beginning(api, body, original, mask)
            await follow(api, body | more, watch=watch, as_json=as_json)

    run(work(), as_json=as_json)


def _workflow(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CliError(ExitStatus.USAGE, f"--workflow {file}: {error}") from error


def _enlarging(
    hires: float | None, upscale: float | None, upscaler: str | None, strength: float | None
) -> dict[str, Any]:
    """The fields about enlarging; raises CliError when there is nothing that an option could be about."""
    if upscaler is not None and hires is None and upscale is None:
        raise CliError(ExitStatus.USAGE, "--upscaler: only together with --hires or --upscale")
    if strength is not None and hires is None:
        raise CliError(ExitStatus.USAGE, "--strength: only together with --from or --hires")
    found: dict[str, Any] = {}
    if hires is not None:
        found["hires"] = given(scale=hires, strength=strength, upscaler=upscaler)
    if upscale is not None:
        found["upscale"] = given(factor=upscale, upscaler=upscaler)
    return found


def character_of(text: str) -> dict[str, Any]:
    """`NAME` or `NAME@VERSION`; raises CliError when the version is no number."""
    name, at, version = text.partition("@")
    if not at:
        return {"character": name}
    if not version.isdecimal():
        raise CliError(ExitStatus.USAGE, f"--character {text}: the version {version!r} is no number")
    return {"character": name, "version": int(version)}


def lora_of(text: str) -> dict[str, Any]:
    """`KEY` or `KEY:WEIGHT`; raises CliError when the weight is no number."""
    key, colon, weight = text.partition(":")
    if not colon:
        return {"key": key}
    if not _is_number([weight]):
        raise CliError(ExitStatus.USAGE, f"--lora {text}: the weight {weight!r} is no number")
    return {"key": key, "weight": float(weight)}


async def _beginning(api: Api, body: dict[str, Any], original: str | None, mask: str | None) -> dict[str, Any]:
    """The fields about the picture to begin with; what lies on this machine is uploaded first."""
    if original is None:
        if mask is not None:
            raise CliError(ExitStatus.USAGE, "--mask: only together with --from")
        return {}
    file = await originals.find(api, original, body.get("project"))
    found: dict[str, Any] = {"init_image": str(file.id)}
    if mask is not None:
        found["mask"] = str((await originals.find(api, mask, body.get("project"))).id)
    return found | await originals.size_for(api, file, body)


def with_offset(text: str | None) -> str | None:
    """A time with this machine's offset when it has none; what is no time is left for the gateway to refuse."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        return text


async def follow(api: Api, body: dict[str, Any], *, watch: bool, as_json: bool) -> None:
    """Submit a job and say so; follow it to its end if `watch`."""
    job, promised = await submit(api, body)
    if watch:
        name = job.code if isinstance(job, JobView) else job.job_id
        view = await display.watch(api, name, as_json=as_json, promised=promised)
        if not as_json:
            finished(view, api.url)
    elif as_json:
        show_json(job)
    else:
        _say(job)


async def submit(api: Api, body: dict[str, Any]) -> tuple[JobView | Pending, bool]:
    """Submit a job; it is promised (True) when the ledger has not answered for it yet."""
    answer = await api.create("/jobs", body)
    if answer.status_code == 202:
        return read(answer, Pending), True
    return read(answer, JobView), False


def finished(view: JobView, url: str) -> None:
    """Print how long a completed job took, and where its pictures lie."""
    display.summary(view)
    for place in display.pictures(view, url):
        render.console().print(f"picture: {place}", soft_wrap=True)


def _say(job: JobView | Pending) -> None:
    if isinstance(job, Pending):
        render.console().print(f"job {job.job_id}: {job.detail}")
        name = job.job_id
    else:
        why = render.progress(job) if job.state in {JobState.PREPARING, JobState.QUEUED} else ""
        render.console().print(f"job {job.code} is {job.state.value}" + (f" ({why})" if why else ""))
        name = job.code
    render.console().print(f"follow it with `anime watch {name}`")
