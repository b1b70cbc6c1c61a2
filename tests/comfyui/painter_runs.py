"""How the painter runs a prompt: which node when, what it takes from the prompt before, and what it tells of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.comfyui.painter_files import SAVING, annotated, save
from tests.comfyui.painter_manners import NO_MEMORY, Manners, NodeFailed, no_memory
from tests.comfyui.painter_nodes import SAMPLING, passed_on, pixels_of, preview, run, sampled, steps_of
from tests.comfyui.painter_wire import EVERYBODY, Wire

TIPS = """This error means you ran out of memory on your GPU.

TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."""
LATENT = "{'samples': tensor([[[[0., 0., 0.,  ..., 0., 0., 0.]]]])}"
TENSOR = "tensor([[[[0.1, 0.2, 0.3]]]])"
MODEL = "<comfy.model_patcher.ModelPatcher object at 0x7f3c5c0b1d50>"

Graph = Mapping[str, Any]


@dataclass
class Job:
    """A prompt."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    client_id: str | None
    outputs: list[str]
    interrupted: bool = False
    step: int = 0
    node: str = ""
    messages: list[Any] = field(default_factory=list)

    def entry(self) -> list[Any]:
        """As the queue and the history have it."""
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


@dataclass(frozen=True)
class Result:
    """What a node gave, and showed of it."""

    values: tuple[Any, ...]
    shown: dict[str, Any] | None = None


class Interrupted(Exception):
    """The prompt was stopped."""


class Agenda:
    """Which node is next: an output before others, then what leads to one soonest, then who waited longest."""

    def __init__(self, graph: Graph, outputs: list[str], saving: Collection[str], there: Collection[str]) -> None:
        self._outputs = saving
        self._waits: dict[str, set[str]] = {}
        self._frees: dict[str, dict[str, None]] = {}
        for output in outputs:
            wanted = [output]
            while wanted:
                name = wanted.pop()
                if name in self._waits:
                    continue
                self._waits[name] = {each for each in upstream(graph, name) if each not in there}
                self._frees.setdefault(name, {})
                for each in upstream(graph, name):
                    if each not in there:
                        wanted.append(each)
                        self._frees.setdefault(each, {})[name] = None

    def next(self) -> str | None:
        """The node to run now; none when all have."""
        ready = [name for name, waits in self._waits.items() if not waits]
        for near in (self._is_output, self._frees_output, self._frees_one_that_does):
            if (found := next(filter(near, ready), None)) is not None:
                return found
        return ready[0] if ready else None

    def done(self, name: str) -> None:
        """It has run."""
        del self._waits[name]
        for each in self._frees[name]:
            self._waits[each].discard(name)

    def _is_output(self, name: str) -> bool:
        return name in self._outputs

    def _frees_output(self, name: str) -> bool:
        return any(each in self._outputs for each in self._frees[name])

    def _frees_one_that_does(self, name: str) -> bool:
        return any(self._frees_output(each) for each in self._frees[name])


class Run:
    """One prompt as it runs. `cache` is what the prompt before left, and is left to the next one."""

    def __init__(self, job: Job, folder: Path, manners: Manners, wire: Wire, cache: dict[str, Result]) -> None:
        self.job, self.outputs = job, dict[str, Any]()
        self._folder, self._manners, self._wire, self._cache = folder, manners, wire, cache
        self._states: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []
        self._known: dict[str, Any] = {}

    async def go(self, known: dict[str, Any]) -> bool:
        """Run it to its end; whether that is a success. `known` are the classes."""
        job, self._known = self.job, known
        job.step, told = 0, {"prompt_id": job.prompt_id}
        self._note("execution_start", told)
        signs = signs_of(self._folder, job.graph)
        for gone in set(self._cache) - (set(signs.values()) if self._manners.caches else set()):
            del self._cache[gone]
        there = [name for name in job.graph if signs[name] in self._cache]
        self._note("execution_cached", {"nodes": there, **told})
        saving = [name for name, node in job.graph.items() if known[node["class_type"]]["output_node"]]
        agenda = Agenda(job.graph, job.outputs, saving, there)
        try:
            while (name := agenda.next()) is not None:
                await self._one(name, signs)
                agenda.done(name)
        except Interrupted:
            data = self._where(job.node) | {"executed": self._executed}
            self._note("execution_interrupted", data, everybody=job.client_id is None)
            return False
        except NodeFailed as error:
            self._note("execution_error", self._where(job.node) | self._failure(job.node, error))
            return False
        finally:
            job.node = ""
        self._note("execution_success", told)
        return True

    async def _one(self, name: str, signs: Mapping[str, str]) -> None:
        if (found := self._cache.get(signs[name])) is not None:
            self._show(name, found.shown)
            self._state(name, "finished", 1, 1)
            return
        self.job.node = name
        self._state(name, "running", 0.0, 1.0)
        self._tell("executing", {"node": name, "display_node": name, "prompt_id": self.job.prompt_id})
        self._stop_if_asked()
        result = await self._result(name, self._given(name, signs))
        if result.shown is not None:
            self._show(name, result.shown)
        self._executed.append(name)
        self._cache[signs[name]] = result
        self._state(name, "finished", self._states[name]["max"], self._states[name]["max"])

    def _given(self, name: str, signs: Mapping[str, str]) -> dict[str, Any]:
        graph = self.job.graph
        return {
            key: self._cache[signs[str(value[0])]].values[value[1]] if is_link(graph, value) else value
            for key, value in graph[name]["inputs"].items()
        }

    async def _result(self, name: str, given: dict[str, Any]) -> Result:
        class_type = self.job.graph[name]["class_type"]
        if "Loader" in class_type:
            await asyncio.sleep(self._manners.load)
        await self._befall(class_type, given)
        try:
            if class_type in SAMPLING:
                await self._sample(name, given)
                return Result((await asyncio.to_thread(sampled, given),))
            if class_type in SAVING:
                return Result((), await asyncio.to_thread(save, self._folder, class_type, given, self._texts()))
            if class_type in self._manners.extra_classes:
                return Result(passed_on(self._known[class_type], given))
            return Result(await asyncio.to_thread(run, self._folder, class_type, given))
        except (Interrupted, NodeFailed):
            raise
        except Exception as error:  # whatever a node raises ends the prompt, not the server
            raise NodeFailed(type(error).__name__, str(error)) from error

    async def _befall(self, class_type: str, given: Mapping[str, Any]) -> None:
        pixels = pixels_of(given)
        if class_type in SAMPLING and self._manners.short(pixels):
            failure = no_memory()
            raise NodeFailed(failure.kind, failure.text)
        if (found := self._manners.fails.get(class_type)) is None:
            return
        await asyncio.sleep(found.sleep)
        if found.hang:
            await asyncio.Event().wait()
        if found.raises(pixels):
            raise NodeFailed(found.kind, found.text)

    async def _sample(self, name: str, given: Mapping[str, Any]) -> None:
        steps, client_id = steps_of(given), self.job.client_id
        said = {"node_id": name, "prompt_id": self.job.prompt_id, "display_node_id": name, "parent_node_id": None}
        said |= {"real_node_id": name, "image_type": "image/jpeg"}
        metadata = self._manners.metadata or self._wire.wants_metadata(client_id)
        for step in range(1, steps + 1):
            while self._manners.holds(step):
                await asyncio.sleep(0.005)
                self._stop_if_asked()
            await asyncio.sleep(self._manners.step)
            self._stop_if_asked()
            self.job.step = step
            self._state(name, "running", step, steps)
            shown = self._manners.previews and step % self._manners.preview_every == 0
            if shown and metadata:
                self._wire.show_of(client_id, said, preview(given, step / steps))
            told = {"value": step, "max": steps, "prompt_id": self.job.prompt_id, "node": name}
            self._wire.tell(client_id, "progress", told)
            if shown and not metadata:
                self._wire.show(client_id, preview(given, step / steps))

    def _texts(self) -> dict[str, Any]:
        return {"prompt": self.job.graph, **(self.job.extra.get("extra_pnginfo") or {})}

    def _stop_if_asked(self) -> None:
        if self.job.interrupted:
            raise Interrupted

    def _show(self, name: str, shown: dict[str, Any] | None) -> None:
        if shown is not None:
            self.outputs[name] = shown
        self._tell("executed", {"node": name, "display_node": name, "output": shown, "prompt_id": self.job.prompt_id})

    def _state(self, name: str, state: str, value: float, most: float) -> None:
        self._states[name] = {"value": value, "max": most, "state": state, "node_id": name}
        self._states[name] |= {"prompt_id": self.job.prompt_id, "display_node_id": name}
        self._states[name] |= {"parent_node_id": None, "real_node_id": name}
        data = {"prompt_id": self.job.prompt_id, "nodes": self._states}
        self._wire.tell(self.job.client_id, "progress_state", data)

    def _note(self, kind: str, data: dict[str, Any], *, everybody: bool = False) -> None:
        """Tell, and keep it for the history."""
        data = data | {"timestamp": int(time.time() * 1000)}
        self.job.messages.append([kind, data])
        if everybody:
            self._wire.tell(EVERYBODY, kind, data)
        else:
            self._tell(kind, data)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        """Tell the client; a prompt without one says nothing but its progress, and that to everybody."""
        if self.job.client_id is not None:
            self._wire.tell(self.job.client_id, kind, data)

    def _where(self, name: str) -> dict[str, Any]:
        kind = self.job.graph[name]["class_type"]
        return {"prompt_id": self.job.prompt_id, "node_id": name, "node_type": kind}

    def _failure(self, name: str, error: NodeFailed) -> dict[str, Any]:
        graph = self.job.graph
        shown = {"LATENT": LATENT, "IMAGE": TENSOR, "MASK": TENSOR}
        inputs = {
            key: [shown.get(self._gives(value), MODEL) if is_link(graph, value) else value]
            for key, value in graph[name]["inputs"].items()
        }
        return {
            "executed": self._executed,
            "exception_message": f"{error}\n{TIPS if error.kind == NO_MEMORY else ''}",
            "exception_type": error.kind,
            "traceback": [
                '  File "/opt/ComfyUI/execution.py", line 496, in execute\n    output_data = await get_output_data()\n',
                '  File "/opt/ComfyUI/nodes.py", line 1498, in sample\n    return common_ksampler(model, seed)\n',
            ],
            "current_inputs": inputs,
            "current_outputs": list(graph),
        }

    def _gives(self, link: list[Any]) -> str:
        kind = self.job.graph[str(link[0])]["class_type"]
        return str(self._known[kind]["output"][link[1]])


def is_link(graph: Graph, value: object) -> bool:
    """Whether a value of an input is what another node gives."""
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph


def upstream(graph: Graph, name: str) -> list[str]:
    """The nodes whose results a node takes."""
    return [str(value[0]) for value in graph[name]["inputs"].values() if is_link(graph, value)]


def signs_of(folder: Path, graph: Graph) -> dict[str, str]:
    """The same for nodes of one class with the same inputs and the same files, all the way up."""
    found: dict[str, str] = {}

    def sign(name: str) -> str:
        if name in found:
            return found[name]
        found[name] = "a circle"  # of nodes that will not run
        node = graph[name]
        inputs = {
            key: [sign(str(value[0])), value[1]] if is_link(graph, value) else value
            for key, value in node["inputs"].items()
        }
        loads = node["class_type"].startswith("LoadImage")
        path = annotated(folder, str(inputs.get("image"))) if loads else None
        file = hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""
        said = json.dumps([node["class_type"], inputs, file], sort_keys=True)
        found[name] = hashlib.sha256(said.encode()).hexdigest()
        return found[name]

    return {name: sign(name) for name in graph}
