"""A request becomes a workflow: its fields go into the inputs that the manifest names. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anime_common.contracts.vocabulary import Sampler
from anime_generator.comfyui import faults
from anime_generator.engines.protocol import EngineError

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_generator.comfyui.manifest import Place, Workflow

SAMPLERS: Mapping[Sampler, tuple[str, str]] = {
    Sampler.DPMPP_2M: ("dpmpp_2m", "normal"),
    Sampler.DPMPP_2M_KARRAS: ("dpmpp_2m", "karras"),
    Sampler.DPMPP_2M_SDE: ("dpmpp_2m_sde", "normal"),
    Sampler.DPMPP_2M_SDE_KARRAS: ("dpmpp_2m_sde", "karras"),
    Sampler.DPMPP_3M_SDE_KARRAS: ("dpmpp_3m_sde", "karras"),
    Sampler.DPMPP_SDE: ("dpmpp_sde", "normal"),
    Sampler.DPMPP_SDE_KARRAS: ("dpmpp_sde", "karras"),
    Sampler.EULER: ("euler", "normal"),
    Sampler.EULER_KARRAS: ("euler", "karras"),
    Sampler.EULER_TRAILING: ("euler", "sgm_uniform"),
    Sampler.EULER_A: ("euler_ancestral", "normal"),
    Sampler.DDIM: ("ddim", "ddim_uniform"),
    Sampler.UNIPC: ("uni_pc", "normal"),
    Sampler.UNIPC_KARRAS: ("uni_pc", "karras"),
    Sampler.LCM: ("lcm", "sgm_uniform"),
}
"""ComfyUI's names for our samplers, and for the schedule of each; TCD is in no node of its core."""
PLAIN = "lanczos"
UPSCALERS: Mapping[str, str] = {PLAIN: "lanczos", "bicubic": "bicubic"}
"""Its names for what enlarges without a model."""
OPTIONAL = ("clip_skip", "loras", "init_image", "mask", "strength", "hires", "upscale", "guidance_rescale")
"""Fields of a request that a workflow may not know, and that have a value only where somebody wanted one."""
DEEPER = frozenset({"sdxl"})
"""Families that usually take the layer before the last of their text encoders: others are counted from there."""
TILE = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
"""How `VAEDecodeTiled` works where memory is short: the values that the node comes with."""

Nodes = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Files:
    """What the server calls things: checkpoint (none: as the workflow has it), LoRAs and upscalers by our key, and
    uploaded pictures by the field of the request that they are for. `family` is that of the checkpoint.
    """

    model: str | None = None
    loras: Mapping[str, str] = field(default_factory=dict)
    upscalers: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    family: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a request: its seed, what the names of its files begin with, and its width and height in the end.

    The prefix is one of its own for every attempt and picture: the server would answer with files of another job
    whose inputs were the same. `economical` is whether it is decoded in tiles.
    """

    seed: int
    prefix: str
    size: tuple[int, int]
    economical: bool = False


def unheeded(workflow: Workflow, settings: Settings) -> list[str]:
    """The fields that a request sets and the workflow does not take."""
    usual = {"clip_skip": 1, "guidance_rescale": 0.0, "loras": ()}
    wanted = [name for name in OPTIONAL if getattr(settings, name) not in (None, usual.get(name))]
    if "strength" in wanted and (settings.init_image is None or not settings.sampled()):
        wanted.remove("strength")
    return [name for name in wanted if name not in workflow.honours]


def bind(workflow: Workflow, settings: Settings, shot: Shot, files: Files) -> Nodes:
    """The workflow for one picture; raises EngineError for what the workflow would not heed."""
    if ignored := unheeded(workflow, settings):
        text = f"{', '.join(ignored)}: the workflow {workflow.name} does not take it"
        raise EngineError("bad_settings", text)
    graph: Nodes = copy.deepcopy(dict(workflow.graph))  # type: ignore[arg-type]
    values = dict(_values(workflow, settings, shot, files))
    for name, places in workflow.fields.items():
        if name in values:
            for place in places:
                graph[place.node]["inputs"][place.input] = values[name]
    for node in graph.values():
        if "filename_prefix" in node.get("inputs", {}):
            node["inputs"]["filename_prefix"] = shot.prefix
    if workflow.loader is not None:
        _load(graph, workflow.loader, settings, files)
    if settings.hires is not None and settings.hires.upscaler in files.upscalers:
        _enlarge_again(graph, workflow, files.upscalers[settings.hires.upscaler])
    if settings.upscale is not None and workflow.upscale is not None:
        _enlarge(graph, workflow.upscale, settings.upscale.upscaler, shot.size, files)
    if shot.economical:
        _in_tiles(graph)
    return graph


def _values(workflow: Workflow, settings: Settings, shot: Shot, files: Files) -> Iterator[tuple[str, Any]]:
    for name in ("prompt", "negative_prompt", "width", "height", "guidance"):
        yield name, getattr(settings, name)
    yield from {"seed": shot.seed, "file_prefix": shot.prefix}.items()
    if files.model is not None:
        yield "model", files.model
    if "sampler" in workflow.fields:
        yield from zip(("sampler", "scheduler"), _sampler(settings.sampler), strict=True)
    yield from files.pictures.items()
    yield "clip_skip", _layer(settings.clip_skip, files.family)
    # A sampler that begins late takes as many steps as it is told, of a schedule that is longer by so much.
    passes = settings.sampled()
    yield "steps", passes[0].steps if passes else settings.steps
    if settings.strength is not None:
        yield "strength", settings.strength
    if (again := settings.hires) is not None:
        values = {"width": again.width, "height": again.height, "steps": passes[-1].steps, "strength": again.strength}
        yield from {f"hires.{name}": value for name, value in values.items()}.items()
        yield "hires.upscaler", _plain(again.upscaler, files, "hires")


def _sampler(sampler: Sampler) -> tuple[str, str]:
    try:
        return SAMPLERS[sampler]
    except KeyError:
        text = f"sampler: ComfyUI has no {sampler} of its own; known: {', '.join(SAMPLERS)}"
        raise EngineError(faults.BAD_VALUE, text) from None


def _layer(skip: int, family: str) -> int:
    """ComfyUI's number of a layer of the text encoder: -1 is the last."""
    return -skip - (family in DEEPER)


def _plain(upscaler: str, files: Files, where: str) -> str:
    """What scales to the very size: the method that was asked for, or the usual one behind a model."""
    if upscaler in files.upscalers:
        return PLAIN
    if upscaler in UPSCALERS:
        return UPSCALERS[upscaler]
    text = f"{where}.upscaler: there is no {upscaler!r}; known: {', '.join((*files.upscalers, *UPSCALERS))}"
    raise EngineError(faults.MODEL_MISSING, text)


def _load(graph: Nodes, loader: str, settings: Settings, files: Files) -> None:
    """Put what a request wants of model and CLIP between their loader and whoever uses them."""
    models, clips = _users(graph, loader, 0), _users(graph, loader, 1)
    model, clip = [loader, 0], [loader, 1]
    for number, use in enumerate(settings.loras, 1):
        name = files.loras.get(use.key)
        if name is None:
            text = f"loras.{use.key}: the server has no such LoRA (any more)"
            raise EngineError("unknown_lora", text)
        inputs = {"lora_name": name, "strength_model": use.weight, "strength_clip": use.weight}
        lora = _add(graph, f"lora-{number}", f"LoRA {number}", "LoraLoader", inputs | {"model": model, "clip": clip})
        model, clip = [lora, 0], [lora, 1]
    if settings.clip_skip > 1:
        inputs = {"clip": clip, "stop_at_clip_layer": _layer(settings.clip_skip, files.family)}
        clip = [_add(graph, "clip-layer", "CLIP layer", "CLIPSetLastLayer", inputs), 0]
    if settings.guidance_rescale > 0:
        inputs = {"model": model, "multiplier": settings.guidance_rescale}
        model = [_add(graph, "guidance-rescale", "Guidance rescale", "RescaleCFG", inputs), 0]
    for users, link in ((models, model), (clips, clip)):
        for inputs, name in users:
            inputs[name] = link


def _enlarge(graph: Nodes, place: Place, upscaler: str, size: tuple[int, int], files: Files) -> None:
    """Enlarge what comes into an input to a width and height."""
    method = _plain(upscaler, files, "upscale")
    if upscaler in files.upscalers:
        _with_model(graph, place.node, place.input, "upscale", files.upscalers[upscaler])
    inputs = graph[place.node]["inputs"]
    scaled = {"image": inputs[place.input], "upscale_method": method, "width": size[0], "height": size[1]}
    name = _add(graph, "upscale-size", "Enlarge to size", "ImageScale", scaled | {"crop": "disabled"})
    inputs[place.input] = [name, 0]


def _enlarge_again(graph: Nodes, workflow: Workflow, file: str) -> None:
    """Have a model enlarge between two passes, before the node that scales to the very size."""
    places = [place for place in workflow.fields.get("hires.upscaler", ()) if _linked(graph, place.node, "image")]
    if not places:
        text = f"hires.upscaler: the workflow {workflow.name} enlarges in a way that takes no model"
        raise EngineError("bad_settings", text)
    _with_model(graph, places[0].node, "image", "hires-upscale", file)


def _with_model(graph: Nodes, node: str, name: str, prefix: str, file: str) -> None:
    loader = _add(graph, f"{prefix}-model", "Upscaler", "UpscaleModelLoader", {"model_name": file})
    inputs = {"upscale_model": [loader, 0], "image": graph[node]["inputs"][name]}
    graph[node]["inputs"][name] = [_add(graph, prefix, "Enlarge", "ImageUpscaleWithModel", inputs), 0]


def _in_tiles(graph: Nodes) -> None:
    """Decode in tiles, which takes less memory at once."""
    for node in graph.values():
        if node["class_type"] == "VAEDecode":
            node["class_type"] = "VAEDecodeTiled"
            node["inputs"] |= TILE


def _users(graph: Nodes, source: str, output: int) -> list[tuple[dict[str, Any], str]]:
    """The inputs that an output is linked to."""
    return [
        (node["inputs"], name)
        for node in graph.values()
        for name, link in node.get("inputs", {}).items()
        if isinstance(link, list) and link == [source, output]
    ]


def _linked(graph: Nodes, node: str, name: str) -> bool:
    return isinstance(graph[node]["inputs"].get(name), list)


def _add(graph: Nodes, name: str, title: str, class_type: str, inputs: dict[str, Any]) -> str:
    while name in graph:
        name += "+"
    graph[name] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
    return name
