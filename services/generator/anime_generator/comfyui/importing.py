"""Finds out by itself which node of a workflow takes what, as far as the usual nodes go. Pure.

Begins at the sampler and follows its links: to the texts of both conditionings, to the file of the model, to what the
latents begin with. What it cannot map is said, for a person to add a line to the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from anime_generator.comfyui.graph import Graph, Work, work_of

CONDITIONINGS = {"prompt": "positive", "negative_prompt": "negative"}
"""The inputs of a sampler that texts come in by."""
_SAMPLER = {
    "steps": ("steps",),
    "guidance": ("cfg",),
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "seed": ("seed", "noise_seed"),
}
DEEPEST = 64
"""Links that are followed at most."""


@dataclass(slots=True)
class Imported:
    """The lines of a manifest, and what a person should know. `problems` are reasons why it cannot be used so."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    loader: str | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def manifest(self, title: str) -> str:
        """The manifest as it is to be written."""
        lines = [f"title = {json.dumps(title)}", f"outputs = {json.dumps(self.outputs)}"]
        if self.loader is not None:
            lines.append(f"loader = {json.dumps(self.loader)}")
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
        found.problems.append("there is no sampler among its nodes: name the inputs in the manifest by hand")
    for name, node in graph.items():
        if _literal(graph, name, "filename_prefix"):
            found.outputs.append(name)
            found.fields.setdefault("file_prefix", []).append(f"{name}.filename_prefix")
        if node["class_type"] == "CLIPSetLastLayer" and _literal(graph, name, "stop_at_clip_layer"):
            found.fields.setdefault("clip_skip", []).append(f"{name}.stop_at_clip_layer")
    if not found.outputs:
        found.problems.append("no node of it writes files under a prefix: add a SaveImage node")
    found.problems += [
        f"{name}: no input was found that takes it" for name in ("prompt", "seed") if name not in found.fields
    ]
    missing = [name for name in ("negative_prompt", "width", "model") if name not in found.fields]
    found.notes += [f"{name}: stays as it is in the workflow: no input was found that takes it" for name in missing]
    return found


def _sampler(graph: Graph, samplers: list[str], found: Imported) -> None:
    first = samplers[0]
    for name, inputs in _SAMPLER.items():
        takers = samplers if name == "seed" else [first]
        places = [f"{each}.{key}" for each in takers for key in inputs if _literal(graph, each, key)]
        if places:
            found.fields[name] = places
    for name, key in CONDITIONINGS.items():
        texts = [each for each in _upstream(graph, first, key) if _literal(graph, each, "text")]
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


def _model(graph: Graph, sampler: str, found: Imported) -> None:
    for name in _upstream(graph, sampler, "model"):
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
