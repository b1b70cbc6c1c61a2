"""Whether a server can run a workflow, by what it says of its node classes (`/object_info`). Pure.

A class says of each input `[type, options]`: the type is a list of choices, or a word (`INT`, `MODEL`, `COMBO`, …).
Inputs that a request fills are not looked at: what a job asks for is checked when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anime_generator.comfyui.choosing import ROLES
from anime_generator.comfyui.graph import Node, nodes_of
from anime_generator.comfyui.manifest import Place, Workflow

ANY = "*"
"""A type that fits every other."""
SOME = 8
"""Choices that are named in a problem."""


def check(workflow: Workflow, classes: Mapping[str, Any]) -> list[str]:
    """What is wrong with a workflow on this server, each with its node; empty when it can run."""
    kept = set() if workflow.name in ROLES else {"model"}  # others draw with the checkpoint that they have
    taken = (places for name, places in workflow.fields.items() if name not in kept)
    filled = frozenset(place for places in taken for place in places)
    problems = []
    for node in nodes_of(workflow.graph).values():
        where = f"node {node.id} {node.title!r}"
        known = classes.get(node.class_type)
        if not isinstance(known, Mapping):
            problems.append(f"{where}: the server has no node class {node.class_type!r}: is an extension missing?")
            continue
        problems += [f"{where}: {problem}" for problem in _inputs(workflow, node, known, filled, classes)]
    return problems


def _inputs(
    workflow: Workflow, node: Node, known: Mapping[str, Any], filled: frozenset[Place], classes: Mapping[str, Any]
) -> Iterator[str]:
    given: Mapping[str, Any] = workflow.graph[node.id].get("inputs", {})
    told = known.get("input") or {}
    required, optional = told.get("required") or {}, told.get("optional") or {}
    yield from (f"the input {name!r} is missing" for name in required if name not in given)
    for name, value in given.items():
        said = required.get(name) or optional.get(name)
        if not isinstance(said, list) or not said or Place(node.id, name) in filled:
            continue
        if isinstance(value, list):
            yield from _link(workflow, name, value, said[0], classes)
        else:
            yield from _value(name, value, said)


def choices_of(said: list[Any]) -> list[Any] | None:
    """What an input may be, of what a class says of it; None when that is no choice.

    A choice is a list in the place of the type, or the type `COMBO` with `options`. Some choices bring inputs of their
    own (`COMFY_DYNAMICCOMBO_V3`): those are objects, chosen by their `key`.
    """
    options = said[1].get("options") if len(said) > 1 and isinstance(said[1], Mapping) else None
    choices = said[0] if isinstance(said[0], list) else options
    if not isinstance(choices, list):
        return None
    return [each["key"] if isinstance(each, Mapping) and "key" in each else each for each in choices]


def _link(workflow: Workflow, name: str, link: list[Any], wanted: object, classes: Mapping[str, Any]) -> Iterator[str]:
    source = workflow.graph.get(str(link[0])) if len(link) == 2 else None
    if source is None:
        yield f"{name}: is linked to {link!r}, which is no node of the workflow"
        return
    outputs = (classes.get(source["class_type"]) or {}).get("output")
    if not isinstance(outputs, list):
        return  # of a class that the server does not have, which is said already
    number = link[1]
    if not isinstance(number, int) or not 0 <= number < len(outputs):
        yield f"{name}: node {link[0]} has {len(outputs)} outputs, not one of number {number}"
    elif isinstance(wanted, str) and not _fits(outputs[number], wanted):
        yield f"{name}: is {wanted}, node {link[0]} gives {outputs[number]}"


def _fits(given: object, wanted: str) -> bool:
    """Whether an output may go into an input; either may name several types, with commas between them."""
    if not isinstance(given, str):
        return True  # choices of a list
    wanted_types, given_types = set(wanted.split(",")), set(given.split(","))
    return ANY in wanted_types | given_types or bool(wanted_types & given_types)


def _value(name: str, value: object, said: list[Any]) -> Iterator[str]:
    options = said[1] if len(said) > 1 and isinstance(said[1], Mapping) else {}
    choices = choices_of(said)
    if choices is not None:
        if value not in choices:
            some = ", ".join(map(str, choices[:SOME])) or "nothing"
            yield f"{name}: the server has no {value!r}; it has {some}{', …' if len(choices) > SOME else ''}"
    elif said[0] in {"INT", "FLOAT"}:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name}: must be a number, not {value!r}"
        elif not options.get("min", value) <= value <= options.get("max", value):
            yield f"{name}: must be within {options.get('min')} and {options.get('max')}, not {value}"
