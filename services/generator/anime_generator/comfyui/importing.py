"""Finds out by itself which node of a workflow takes what, as far as the usual nodes go. Pure.

Begins at the sampler and follows its links: to the texts of both conditionings, to the file of the model, to what the
latents begin with. What it cannot map is said, for a person to add a line to the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from anime_common.contracts.vocabulary import Work
from anime_generator.comfyui.graph import Graph, work_of

CONDITIONINGS = {"prompt": "positive", "negative_prompt": "negative"}
"""The inputs of a sampler that texts come in by."""
_SAMPLER = {
    "steps": ("steps",),
    "guidance": ("cfg", "guidance"),
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "seed": ("seed", "noise_seed"),
}
_PARTS = {"steps": "sigmas", "guidance": "guider", "sampler": "sampler", "scheduler": "sigmas", "seed": "noise"}
"""The inputs by which those samplers take these settings that are made up of parts, such as `SamplerCustomAdvanced`."""
DEEPEST = 64
"""Links that are followed at most."""


@dataclass(slots=True)
class Imported:
    """The lines of a manifest, and what a person should know."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    loader: str | None = None
    upscale: str | None = None
    notes: list[str] = field(default_factory=list)
    samples: bool = True

    @property
    def problems(self) -> list[str]:
        """Reasons why it cannot be used so."""
        found = [] if self.outputs else ["no node of it writes files under a prefix: add a SaveImage node"]
        needed = ("prompt", "seed") if self.samples else ()
        return found + [f"{name}: no input was found that takes it" for name in needed if name not in self.fields]

    def say(self, name: str, place: str) -> None:
        """Have a line of the manifest say something else than what was found; several places with commas between."""
        places = [each.strip() for each in place.split(",") if each.strip()]
        if name == "outputs":
            self.outputs = places
        elif name in {"loader", "upscale"}:
            setattr(self, name, place or None)
        elif places:
            self.fields[name] = places
        else:
            self.fields.pop(name, None)
        self.notes = [each for each in self.notes if not each.startswith(f"{name}:")]

    def manifest(self, title: str) -> str:
        """The manifest as it is to be written."""
        lines = [f"title = {json.dumps(title)}", f"outputs = {json.dumps(self.outputs)}"]
        if self.loader is not None:
            lines.append(f"loader = {json.dumps(self.loader)}")
        if self.upscale is not None:
            lines.append(f"upscale = {json.dumps(self.upscale)}")
        lines += ["", "[fields]"]
        for name, places in self.fields.items():
            key = name if name.isidentifier() else json.dumps(name)
            lines.append(f"{key} = {json.dumps(places[0] if len(places) == 1 else places)}")
        return "\n".join(lines) + "\n"


def import_graph(graph: Graph) -> Imported:
    """What a workflow takes and puts out."""
    found = Imported()
    samplers = [name for name in _by_depth(graph) if work_of(graph[name]["class_type"]) is Work.SAMPLE]
    if samplers:
        _sampler(graph, samplers, found)
    else:
        found.samples = False
        found.notes.append(
            "there is no sampler among its nodes: it draws nothing, or with nodes that are not known here"
        )
    for name, node in graph.items():
        if _literal(graph, name, "filename_prefix"):
            found.outputs.append(name)
            found.fields.setdefault("file_prefix", []).append(f"{name}.filename_prefix")
        if node["class_type"] == "CLIPSetLastLayer" and _literal(graph, name, "stop_at_clip_layer"):
            found.fields.setdefault("clip_skip", []).append(f"{name}.stop_at_clip_layer")
    stills = [
        name for name in found.outputs if graph[name]["class_type"] == "SaveImage" and _links(graph, name, "images")
    ]
    if len(found.outputs) == 1 == len(stills):
        found.upscale = f"{stills[0]}.images"
    missing = [name for name in ("negative_prompt", "width", "model") if name not in found.fields]
    found.notes += [f"{name}: stays as it is in the workflow: no input was found that takes it" for name in missing]
    return found


def _sampler(graph: Graph, samplers: list[str], found: Imported) -> None:
    first = samplers[0]
    for name, inputs in _SAMPLER.items():
        takers = samplers if name == "seed" else [first]
        places = [place for each in takers if (place := _setting(graph, each, name, inputs)) is not None]
        if places:
            found.fields[name] = list(dict.fromkeys(places))
    for name, key in CONDITIONINGS.items():
        texts = [each for each in _conditioned(graph, first, key) if _literal(graph, each, "text")]
        if texts:
            found.fields[name] = [f"{texts[0]}.text"]
    if found.fields.get("prompt") and found.fields.get("prompt") == found.fields.get("negative_prompt"):
        del found.fields["negative_prompt"]
        found.notes.append("prompt and negative prompt come from one node: the negative prompt was left out")
    _model(graph, first, found)
    _beginning(graph, first, found)
    if len(samplers) > 1:
        rest = ", ".join(samplers[1:])
        found.notes.append(f"the samplers {rest} draw again after {first}: they get the seed, and keep their settings")


def _setting(graph: Graph, sampler: str, name: str, inputs: tuple[str, ...]) -> str | None:
    """Where a setting of a sampler stands: at itself, or at the parts that those are made up of which have such."""
    here = next((f"{sampler}.{key}" for key in inputs if _literal(graph, sampler, key)), None)
    if here is not None or name not in _PARTS:
        return here
    part = _PARTS[name]
    return next(
        (f"{each}.{key}" for each in _upstream(graph, sampler, part) for key in inputs if _literal(graph, each, key)),
        None,
    )


def _conditioned(graph: Graph, sampler: str, key: str) -> Iterator[str]:
    """The nodes that a conditioning of a sampler comes from, of a guider's where the sampler has one."""
    if _links(graph, sampler, key):
        yield from _upstream(graph, sampler, key)
    for guider in _links(graph, sampler, "guider"):
        for name in (key, "conditioning") if key == "positive" else (key,):
            yield from _upstream(graph, guider, name)


def _model(graph: Graph, sampler: str, found: Imported) -> None:
    guiders = [each for guider in _links(graph, sampler, "guider") for each in _upstream(graph, guider, "model")]
    for name in (*_upstream(graph, sampler, "model"), *guiders):
        if _literal(graph, name, "ckpt_name"):
            found.fields["model"] = [f"{name}.ckpt_name"]
            found.loader = name
        elif _literal(graph, name, "lora_name"):
            found.notes.append(f"node {name} applies a LoRA of the workflow's own, whatever a job asks for")


def _beginning(graph: Graph, sampler: str, found: Imported) -> None:
    """What the latents begin with: an empty one of a size, or a picture."""
    for name in _upstream(graph, sampler, "latent_image"):
        if all(_literal(graph, name, side) for side in ("width", "height")):
            found.fields.setdefault("width", [f"{name}.width"])
            found.fields.setdefault("height", [f"{name}.height"])
        if graph[name]["class_type"] == "LoadImage":
            found.fields["init_image"] = [f"{name}.image"]
            if _literal(graph, sampler, "denoise"):
                found.fields["strength"] = [f"{sampler}.denoise"]


def _upstream(graph: Graph, name: str, key: str) -> Iterator[str]:
    """The nodes that an input comes from, the nearest first; from the second on, all their links are followed."""
    waiting, seen = _links(graph, name, key), {name}
    while waiting and len(seen) <= DEEPEST:
        node = waiting.pop(0)
        if node not in seen:
            seen.add(node)
            yield node
            kind = work_of(graph[node]["class_type"])
            if kind is not Work.SAMPLE:
                waiting += [each for other in graph[node].get("inputs", {}) for each in _links(graph, node, other)]


def _by_depth(graph: Graph) -> list[str]:
    """The nodes, those that wait for others after them; as they stand where links go in a circle."""
    depths: dict[str, int] = {}

    def depth(name: str, path: frozenset[str]) -> int:
        if name not in depths and name not in path and len(path) < DEEPEST:
            links = [each for key in graph[name].get("inputs", {}) for each in _links(graph, name, key)]
            depths[name] = 1 + max((depth(each, path | {name}) for each in links), default=0)
        return depths.get(name, 0)

    return sorted(graph, key=lambda name: depth(name, frozenset()))


def _links(graph: Graph, name: str, key: str) -> list[str]:
    value = graph[name].get("inputs", {}).get(key)
    linked = isinstance(value, list) and len(value) == 2 and str(value[0]) in graph
    return [str(value[0])] if linked else []


def _literal(graph: Graph, name: str, key: str) -> bool:
    """Whether a node has this input as a value, not as a link."""
    inputs = graph[name].get("inputs", {})
    return key in inputs and not isinstance(inputs[key], list)
