"""A request becomes a workflow: its fields go into the inputs that the manifest names. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anime_common.contracts.vocabulary import Sampler
from anime_generator.comfyui import faults
from anime_generator.engines.protocol import EngineError

if TYPE_CHECKING:
    from uuid import UUID

    from anime_common.contracts.generation import Settings
    from anime_generator.comfyui.manifest import Workflow

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
UPSCALERS: Mapping[str, str] = {"lanczos": "lanczos", "bicubic": "bicubic"}
"""Its names for what enlarges between two passes."""
OPTIONAL = ("clip_skip", "loras", "init_image", "mask", "strength", "hires", "upscale", "guidance_rescale")
"""Fields of a request that a workflow may not know, and that have a value only where somebody wanted one."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the server calls things: checkpoint and LoRAs by our key, and uploaded pictures by the id of their file."""

    model: str
    loras: Mapping[str, str]
    pictures: Mapping[UUID, str]


def unheeded(workflow: Workflow, settings: Settings) -> list[str]:
    """The fields that a request sets and the workflow does not take."""
    usual = {"clip_skip": 1, "guidance_rescale": 0.0, "loras": ()}
    wanted = [name for name in OPTIONAL if getattr(settings, name) not in (None, usual.get(name))]
    if settings.init_image is None and "strength" in wanted:
        wanted.remove("strength")
    return [name for name in wanted if name not in workflow.honours]


def bind(workflow: Workflow, settings: Settings, seed: int, prefix: str, files: Files) -> dict[str, dict[str, Any]]:
    """The workflow for one picture; raises EngineError for what the workflow would not heed.

    `prefix` begins the names of all files it writes: one of its own for every attempt and picture, or the server
    would answer with files of another job whose inputs were the same.
    """
    if ignored := unheeded(workflow, settings):
        text = f"{', '.join(ignored)}: the workflow {workflow.name} does not take it"
        raise EngineError("bad_settings", text, retryable=False)
    graph: dict[str, dict[str, Any]] = copy.deepcopy(dict(workflow.graph))  # type: ignore[arg-type]
    values = dict(_values(settings, seed, prefix, files))
    for field, places in workflow.fields.items():
        if field in values:
            for place in places:
                graph[place.node]["inputs"][place.input] = values[field]
    for node in graph.values():
        if "filename_prefix" in node.get("inputs", {}):
            node["inputs"]["filename_prefix"] = prefix
    if workflow.loras is not None:
        _chain(graph, workflow.loras, [(files.loras[use.key], use.weight) for use in settings.loras])
    return graph


def _values(settings: Settings, seed: int, prefix: str, files: Files) -> Iterator[tuple[str, Any]]:
    for name in ("prompt", "negative_prompt", "width", "height", "steps", "guidance"):
        yield name, getattr(settings, name)
    sampler, scheduler = _sampler(settings.sampler)
    yield from {"model": files.model, "seed": seed, "file_prefix": prefix}.items()
    yield from {"sampler": sampler, "scheduler": scheduler, "clip_skip": -settings.clip_skip}.items()
    for name in ("init_image", "mask"):
        if (file_id := getattr(settings, name)) is not None:
            yield name, files.pictures[file_id]
    if settings.strength is not None:
        yield "strength", settings.strength
    if (again := settings.hires) is not None:
        for name in ("width", "height", "steps", "strength"):
            yield f"hires.{name}", getattr(again, name)
        if again.upscaler not in UPSCALERS:
            raise EngineError("bad_settings", f"hires.upscaler: known: {', '.join(UPSCALERS)}", retryable=False)
        yield "hires.upscaler", UPSCALERS[again.upscaler]


def _sampler(sampler: Sampler) -> tuple[str, str]:
    try:
        return SAMPLERS[sampler]
    except KeyError:
        text = f"sampler: ComfyUI has no {sampler} of its own; known: {', '.join(SAMPLERS)}"
        raise EngineError(faults.BAD_VALUE, text, retryable=False) from None


def _chain(graph: dict[str, dict[str, Any]], loader: str, loras: Sequence[tuple[str, float]]) -> None:
    """Put a node for each LoRA between the loader's model and CLIP and whoever uses them."""
    users = [
        (node, name, link[1])
        for node in graph.values()
        for name, link in node.get("inputs", {}).items()
        if isinstance(link, list) and len(link) == 2 and link[0] == loader and link[1] in {0, 1}
    ]
    last = loader
    for number, (file, weight) in enumerate(loras, 1):
        name = f"lora-{number}"
        inputs = {"lora_name": file, "strength_model": weight, "strength_clip": weight}
        inputs |= {"model": [last, 0], "clip": [last, 1]}
        graph[name] = {"class_type": "LoraLoader", "inputs": inputs, "_meta": {"title": f"LoRA {number}"}}
        last = name
    for node, name, output in users:
        node["inputs"][name] = [last, output]
