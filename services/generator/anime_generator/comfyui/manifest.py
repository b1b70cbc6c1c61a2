"""A workflow and its manifest: which input of which node takes which field of a request, and which outputs count.

A workflow is two files of one name: `NAME.json`, exported from ComfyUI in the API format, and `NAME.toml`:

    title = "Text to image"
    outputs = ["9"]                      # nodes whose files are the pictures, by id or by title
    loader = "4"                         # the node that loads model and CLIP, in this order: LoRAs come behind it
    upscale = "9.images"                 # a linked input: what comes in there is enlarged before, if a job asks for it
    [fields]
    prompt = "6.text"                    # node and input; the node by its id, or by its title
    seed = ["3.seed", "15.noise_seed"]   # into several inputs

A field that no line names is not honoured, and a request that has it is refused rather than half obeyed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from anime_common.contracts.vocabulary import Work
from anime_common.messages import Request
from anime_generator.comfyui.graph import Graph, nodes_of

SHIPPED = Path(__file__).parent / "workflows"
LARGEST = 1 << 20
"""Bytes of a workflow's file."""

TAKEN = (
    *("model", "prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "scheduler", "seed"),
    *("clip_skip", "init_image", "mask", "strength", "file_prefix"),
    *("hires.width", "hires.height", "hires.steps", "hires.strength", "hires.upscaler"),
)
"""What a line of `[fields]` may name. `sampler` and `scheduler` are ComfyUI's two halves of our sampler."""
NEEDED = ("file_prefix",)
"""What every workflow must take: pictures of other jobs would come back otherwise."""
NEEDED_TO_SAMPLE = ("prompt", "seed")
"""What one must take that draws."""


class WorkflowError(Exception):
    """A workflow cannot be used; `problems` are lines of the form `key: what is wrong`."""

    def __init__(self, name: str, problems: list[str]) -> None:
        super().__init__("; ".join(f"workflow {name}: {problem}" for problem in problems))
        self.name, self.problems = name, problems


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Places = Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1)]


class _Manifest(Request):
    title: str = ""
    tested: bool = True
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    loader: str | None = None
    upscale: str | None = None
    fields: dict[str, Places]


@dataclass(frozen=True, slots=True)
class Place:
    """An input of a node."""

    node: str
    input: str


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow with its manifest, looked over. `loader` is the node that LoRAs and the choice of a CLIP layer come
    behind, `upscale` a linked input that enlarging comes before. `tested` is whether it has
    ever run on a card, as far as we know; `own` whether it is the owner's.
    """

    name: str
    title: str
    graph: Graph
    fields: Mapping[str, tuple[Place, ...]]
    outputs: frozenset[str]
    loader: str | None = None
    upscale: Place | None = None
    tested: bool = True
    own: bool = False

    @property
    def honours(self) -> frozenset[str]:
        """The fields of a request that have an effect."""
        found = {name.partition(".")[0] for name in self.fields} - {"scheduler", "file_prefix"}
        if self.loader is not None:
            found |= {"loras", "clip_skip", "guidance_rescale"}
        return frozenset(found | ({"upscale"} if self.upscale is not None else set()))

    def value(self, field: str) -> Any:
        """What the workflow has where a field of a request goes; None for one that it does not take."""
        places = self.fields.get(field)
        return self.graph[places[0].node]["inputs"][places[0].input] if places else None


def load_workflows(folder: Path | None = None) -> tuple[dict[str, Workflow], tuple[WorkflowError, ...]]:
    """The workflows that are shipped, with those of a folder laid over them by name; and what cannot be used of it."""
    found = {path.stem: load_workflow(path) for path in sorted(SHIPPED.glob("*.toml"))}
    wrong = []
    for path in sorted(folder.glob("*.toml")) if folder is not None else ():
        try:
            found[path.stem] = load_workflow(path)
        except WorkflowError as error:
            wrong.append(error)
    return found, tuple(wrong)


def load_workflow(manifest: Path) -> Workflow:
    """The workflow of a manifest; raises WorkflowError with every mistake at once."""
    name = manifest.stem
    try:
        said = _Manifest.model_validate(tomllib.loads(_read(manifest)))
        graph = read_graph(_read(manifest.with_suffix(".json")))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise WorkflowError(name, problems) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WorkflowError(name, [str(error)]) from error
    problems = []
    fields = {}
    for field, places in said.fields.items():
        if field not in TAKEN:
            problems.append(f"fields.{field}: there is no such field; known: {', '.join(TAKEN)}")
            continue
        fields[field] = tuple(_places(graph, f"fields.{field}", places, problems))
    samples = any(node.work is Work.SAMPLE for node in nodes_of(graph).values())
    needed = (*NEEDED, *(NEEDED_TO_SAMPLE if samples else ()))
    problems += [f"fields.{field}: is missing, and needed" for field in needed if field not in said.fields]
    outputs = frozenset(_nodes(graph, "outputs", said.outputs, problems))
    loader = next(_nodes(graph, "loader", (said.loader,), problems), None) if said.loader is not None else None
    given = (said.upscale,) if said.upscale is not None else ()
    upscale = next(_places(graph, "upscale", given, problems, linked=True), None)
    if problems:
        raise WorkflowError(name, problems)
    own = manifest.parent != SHIPPED
    return Workflow(name, said.title or name, graph, fields, outputs, loader, upscale, said.tested, own)


def read_graph(text: str) -> Graph:
    """A workflow in the API format; raises ValueError that says how to get one, when it is in the editor's own."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if problem := _not_a_graph(found):
        raise ValueError(problem)
    graph: Graph = found
    return graph


def _not_a_graph(found: object) -> str | None:
    if not isinstance(found, dict) or not found:
        return "is no workflow in the API format: a JSON object of nodes by id is needed"
    if isinstance(found.get("nodes"), list):
        return "is in the editor's own format: in ComfyUI choose Workflow, Export (API), and take that file"
    for name, node in found.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            return f"node {name}: has no class_type"
        if not isinstance(node.get("inputs", {}), dict):
            return f"node {name}: its inputs are no object"
    return None


def _read(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} is larger than {LARGEST} bytes")
    return path.read_text(encoding="utf-8")


def _places(
    graph: Graph, where: str, texts: tuple[str, ...], problems: list[str], *, linked: bool = False
) -> Iterator[Place]:
    for text in texts:
        node, _, name = text.rpartition(".")
        if not node or not name:
            problems.append(f"{where}: {text!r} is not of the form node.input")
            continue
        for found in _nodes(graph, where, (node,), problems):
            inputs: Mapping[str, Any] = graph[found].get("inputs", {})
            if name not in inputs:
                known = ", ".join(inputs) or "none"
                problems.append(f"{where}: node {node} has no input {name!r}; it has {known}")
            elif isinstance(inputs[name], list) is not linked:
                is_linked = "is not" if linked else "is"
                problems.append(f"{where}: the input {name!r} of node {node} {is_linked} linked to another node")
            else:
                yield Place(found, name)


def _nodes(graph: Graph, where: str, names: tuple[str, ...], problems: list[str]) -> Iterator[str]:
    for name in names:
        titled = [key for key, node in graph.items() if (node.get("_meta") or {}).get("title") == name]
        if name in graph:
            yield name
        elif len(titled) == 1:
            yield titled[0]
        else:
            many = f"{len(titled)} nodes have" if titled else "no node has"
            problems.append(f"{where}: {many} the id or title {name!r}")
