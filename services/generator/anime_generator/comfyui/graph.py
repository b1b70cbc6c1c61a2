"""A workflow in ComfyUI's API format: nodes by id, each with a class and inputs. Pure.

A node: `{"class_type": "KSampler", "inputs": {"steps": 20, "model": ["4", 0]}, "_meta": {"title": "KSampler"}}`; an
input is a value, or a link: the id of another node and the number of its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anime_common.contracts.vocabulary import Phase, Work

Graph = Mapping[str, Mapping[str, Any]]


PHASES = {
    Work.LOAD: Phase.LOADING,
    Work.ENCODE: Phase.ENCODING,
    Work.SAMPLE: Phase.SAMPLING,
    Work.DECODE: Phase.DECODING,
    Work.UPSCALE: Phase.UPSCALING,
    Work.SAVE: Phase.SAVING,
}
"""The phase of a run in which a node works; others belong to the phase in hand."""

_WORKS = (
    (re.compile(r"^LoadImage"), Work.OTHER),
    (re.compile(r"KSampler(?!Select)|SamplerCustom"), Work.SAMPLE),
    (re.compile(r"^UltimateSDUpscale"), Work.SAMPLE),
    (re.compile(r"ImageUpscaleWithModel|UpscaleImageUsingModel"), Work.UPSCALE),
    (re.compile(r"^VAEDecode"), Work.DECODE),
    (re.compile(r"^VAEEncode|TextEncode|^CLIPVisionEncode|Encode$"), Work.ENCODE),
    (re.compile(r"^(Save|Preview)|VideoCombine|^CreateVideo"), Work.SAVE),
    (re.compile(r"Loader|^Load"), Work.LOAD),
)


_SCALES = re.compile(r"^(Image|Latent)(Scale|Upscale)")
"""What scales: enlarging, when it is done to what was drawn; before that, it only brings something to size."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as far as a run is followed by it. `steps` is how often a sampler will tell of a step, if it says so."""

    id: str
    class_type: str
    title: str
    work: Work
    steps: int | None = None


def nodes_of(graph: Graph) -> dict[str, Node]:
    """The nodes of a workflow, by id."""
    found = {str(name): _node(str(name), node) for name, node in graph.items()}
    drawn = {name for name, node in found.items() if node.work is Work.SAMPLE}
    while more := {name for name in found.keys() - drawn if not drawn.isdisjoint(_sources(graph[name]))}:
        drawn |= more
    for name in drawn:
        if _SCALES.match(found[name].class_type):
            found[name] = replace(found[name], work=Work.UPSCALE)
    return found


def _sources(node: Mapping[str, Any]) -> set[str]:
    """The nodes that a node takes something of."""
    inputs = (node.get("inputs") or {}).values()
    return {str(value[0]) for value in inputs if isinstance(value, list) and len(value) == 2}


def work_of(class_type: str) -> Work:
    """What nodes of a class spend their time with, told by their names: those of extensions follow the usual ones."""
    return next((work for pattern, work in _WORKS if pattern.search(class_type)), Work.OTHER)


def _node(name: str, node: Mapping[str, Any]) -> Node:
    class_type = str(node.get("class_type", ""))
    title = str((node.get("_meta") or {}).get("title") or class_type)
    work = work_of(class_type)
    inputs = node.get("inputs") or {}
    return Node(name, class_type, title, work, _steps(inputs) if work is Work.SAMPLE else None)


def _steps(inputs: Mapping[str, Any]) -> int | None:
    """The steps that a sampler will take: a part of them where it begins late or ends early."""
    steps = inputs.get("steps")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        return None
    first, last = inputs.get("start_at_step", 0), inputs.get("end_at_step", steps)
    if isinstance(first, int) and isinstance(last, int):
        return max(min(last, steps) - max(first, 0), 1)
    return steps
