"""Whether the painter takes a workflow, and what it says when not: as the real one words it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LOADS = frozenset({"LoadImage", "LoadImageMask", "LoadImageOutput"})
LONGEST = 20
"""Choices that are named when a value is none of them."""

Error = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The outputs that can run, or an error; and what is wrong with which node."""

    outputs: list[str] = field(default_factory=list)
    error: Error | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def judge(graph: Mapping[str, Any], known: Mapping[str, Any], exists: Callable[[str], bool]) -> Verdict:
    """Look a workflow over, and make its values of the types that they should have; `exists` knows pictures.

    Raises TypeError where the real server comes to grief.
    """
    for name, node in graph.items():
        if "class_type" not in node:
            return _invalid(name, "Cannot execute because a node is missing the class_type property.")
        if node["class_type"] not in known:
            return _invalid(name, f"Cannot execute because node {node['class_type']} does not exist.")
    outputs = [name for name, node in graph.items() if known[node["class_type"]]["output_node"]]
    if not outputs:
        return Verdict(error=_error("prompt_no_outputs", "Prompt has no outputs", "", {}))
    return _Inspection(graph, known, exists).verdict(outputs)


class _Inspection:
    def __init__(self, graph: Mapping[str, Any], known: Mapping[str, Any], exists: Callable[[str], bool]) -> None:
        self._graph, self._known, self._exists = graph, known, exists
        self._seen: dict[str, tuple[bool, list[Error]]] = {}
        self._within: set[str] = set()

    def verdict(self, outputs: list[str]) -> Verdict:
        good, wrong = [], dict[str, Any]()
        for output in outputs:
            try:
                valid = self._valid(output)
            except (KeyError, IndexError) as error:
                extra = {"exception_type": type(error).__name__, "traceback": _traceback("validate_prompt")}
                text = "Exception when validating node"
                self._seen[output] = False, [_error("exception_during_validation", text, str(error), extra)]
                valid = False
            if valid:
                good.append(output)
                continue
            for name, (_, errors) in self._seen.items():
                if errors:
                    kind = self._graph[name]["class_type"]
                    told = wrong.setdefault(name, {"errors": errors, "dependent_outputs": [], "class_type": kind})
                    told["dependent_outputs"].append(output)
        if good:
            return Verdict(good, None, wrong)
        text = "Prompt outputs failed validation"
        return Verdict([], _error("prompt_outputs_failed_validation", text, "", {}), wrong)

    def _valid(self, name: str) -> bool:
        """Whether a node and all that it needs is right; raises KeyError for a link to nowhere."""
        if name in self._seen:
            return self._seen[name][0]
        if name in self._within:
            return False  # a circle: wrong, though nothing is said of it
        self._within.add(name)
        node = self._graph[name]
        inputs, told = node["inputs"], self._known[node["class_type"]]["input"]
        errors: list[Error] = []
        upstream = True
        for part in ("required", "optional"):
            for key, said in told.get(part, {}).items():
                if key not in inputs:
                    if part == "required":
                        text = "Required input is missing"
                        errors.append(_error("required_input_missing", text, key, {"input_name": key}))
                elif isinstance(inputs[key], list):
                    upstream &= self._link(key, inputs[key], said, errors)
                else:
                    errors += _value(inputs, key, said, free=node["class_type"] in LOADS and key == "image")
        if not errors and node["class_type"] in LOADS and not self._exists(str(inputs["image"])):
            details = f"image - Invalid image file: {inputs['image']}"
            text = "Custom validation failed for node"
            errors.append(_error("custom_validation_failed", text, details, {"input_name": "image"}))
        self._within.discard(name)
        self._seen[name] = upstream and not errors, errors
        return self._seen[name][0]

    def _link(self, key: str, link: list[Any], said: list[Any], errors: list[Error]) -> bool:
        extra = {"input_name": key, "input_config": _config(said)}
        if len(link) != 2:
            text = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            errors.append(_error("bad_linked_input", text, key, extra | {"received_value": link}))
            return True
        given = self._known[self._graph[link[0]]["class_type"]]["output"][link[1]]
        if not _fits(given, said[0]):
            details = f"{key}, received_type({given}) mismatch input_type({said[0]})"
            extra |= {"received_type": given, "linked_node": link}
            text = "Return type mismatch between linked nodes"
            errors.append(_error("return_type_mismatch", text, details, extra))
            return True
        try:
            return self._valid(link[0])
        except (KeyError, IndexError) as error:
            extra |= {"exception_message": str(error), "exception_type": type(error).__name__}
            extra |= {"traceback": _traceback("validate_inputs"), "linked_node": link}
            text = "Exception when validating inner node"
            self._seen[link[0]] = False, [_error("exception_during_inner_validation", text, str(error), extra)]
            return False


def _value(inputs: dict[str, Any], key: str, said: list[Any], *, free: bool) -> Iterator[Error]:
    """What is wrong with a value; a `free` one may be anything of its type."""
    kind, options = _config(said)
    value = inputs[key]
    extra = {"input_name": key, "input_config": [kind, options], "received_value": value}
    convert: Callable[[Any], Any] | None = _TYPES.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        try:
            value = inputs[key] = extra["received_value"] = convert(value)
        except (TypeError, ValueError) as error:
            text = f"Failed to convert an input value to a {kind} value"
            details = f"{key}, {value}, {error}"
            yield _error("invalid_input_type", text, details, extra | {"exception_message": str(error)})
            return
    if free:
        return
    if "min" in options and value < options["min"]:
        yield _error("value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", key, extra)
    elif "max" in options and value > options["max"]:
        yield _error("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", key, extra)
    elif isinstance(kind, list) or kind == "COMBO":
        among = kind if isinstance(kind, list) else options.get("options", [])
        if value not in among:
            many = len(among) > LONGEST
            details = f"{key}: '{value}' not in {f'(list of length {len(among)})' if many else among}"
            extra |= {"input_config": None} if many else {}
            yield _error("value_not_in_list", "Value not in list", details, extra)


_TYPES: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _config(said: list[Any]) -> list[Any]:
    return [said[0], said[1] if len(said) > 1 else {}]


def _fits(given: str, wanted: object) -> bool:
    return not isinstance(wanted, str) or "*" in {given, wanted} or bool({*given.split(",")} & {*wanted.split(",")})


def _invalid(name: str, text: str) -> Verdict:
    return Verdict(error=_error("invalid_prompt", text, f"Node ID '#{name}'", {}))


def _error(kind: str, message: str, details: str, extra: dict[str, Any]) -> Error:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _traceback(name: str) -> list[str]:
    return [f'  File "/opt/ComfyUI/execution.py", line 788, in {name}\n']
