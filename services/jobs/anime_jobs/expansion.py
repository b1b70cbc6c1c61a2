"""What a batch stands for: one request for each combination of all that it lists. Pure.

The order is that of the lists, the last turning quickest: prompts, variables, variants, casts, varied fields, seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from math import prod
from typing import Any, NamedTuple

from pydantic import ValidationError

from anime_common.contracts.batches import Axis, NewBatch, Sheet, SheetPlan
from anime_common.contracts.casting import CharacterUse
from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.vocabulary import Day
from anime_common.messages import first_error
from anime_common.outcomes import Refused

PLACEHOLDER = re.compile(r"\{([a-zA-Z][a-zA-Z0-9_-]{0,30})\}")
"""A variable in a text. Variants in braces have a `|` or `$$` between them, so they look otherwise."""
TEXTS = ("negative_prompt", "scene")
"""The fields besides prompts in which variables stand for their values."""
TAKE = "take"
LABEL = 40
"""Characters of a label: those of a thousand jobs must fit into one event."""

Variants = Callable[[str, int], Sequence[str]]
"""The texts that a dynamic prompt stands for, at most so many; raises Refused when it is written wrongly."""


class Value(NamedTuple):
    """A value on an axis: its label, and what it sets."""

    label: str
    sets: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One job of a batch: its request, its label on each axis, and which take of its combination it is, from 0."""

    request: GenerationRequest
    labels: dict[str, str]
    take: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs of a batch in their order, and the axes on which they differ."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]


@dataclass(slots=True)
class Labels:
    """Short labels of long values: the same of the same value, on each axis another one of another value."""

    given: dict[tuple[str, str], str]
    taken: set[tuple[str, str]]

    def of(self, axis: str, value: str) -> str:
        """At most `LABEL` characters; values that begin alike get a number at their end."""
        if (axis, value) not in self.given:
            ends = chain([""], (f" ({number})" for number in count(2)))
            texts = (f"{value[: LABEL - len(end)]}{end}" for end in ends)
            self.given[axis, value] = next(text for text in texts if (axis, text) not in self.taken)
            self.taken.add((axis, self.given[axis, value]))
        return self.given[axis, value]


def expand(batch: NewBatch, variants: Variants, limit: int) -> Plan:
    """Every job of a batch; raises Refused (422) when there are more than `limit`, or one of them is no request."""
    _check_variables(batch)
    lists = _lists(batch)
    _check_size(prod(len(values) for values in lists.values()), limit)
    cells: list[Cell] = []
    short = Labels({}, set())
    for combination in product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        for labels, fields in _texts(batch, chosen, variants, limit, short):
            cells.append(_cell(batch, chosen, labels, fields))
            _check_size(len(cells), limit)
    return Plan(_axes(cells), tuple(cells))


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        text = f"a batch has at most {limit} jobs, this one {size} or more: list fewer, or make several batches"
        raise Refused(422, "batch_too_large", text)


def _check_variables(batch: NewBatch) -> None:
    """Every variable stands somewhere, and whatever stands in a text like one is one."""
    texts = {"request.prompt": batch.request.prompt}
    texts |= {f"prompts.{index}": prompt for index, prompt in enumerate(batch.prompts)}
    texts |= {f"request.{name}": getattr(batch.request, name) or "" for name in TEXTS}
    texts |= {f"request.characters.{index}.words": use.words for index, use in enumerate(batch.request.characters)}
    texts |= {
        f"casts.{number}.{index}.words": use.words
        for number, cast in enumerate(batch.casts)
        for index, use in enumerate(cast)
    }
    used: set[str] = set()
    for field, text in texts.items():
        for name in PLACEHOLDER.findall(text):
            if name not in batch.variables:
                raise Refused(422, "unknown_variable", f"{{{name}}} stands for nothing: give variables.{name}", field)
            used.add(name)
    for name in batch.variables:
        if name not in used:
            raise Refused(422, "unused_variable", f"{{{name}}} stands in no text", f"variables.{name}")


def _lists(batch: NewBatch) -> dict[str, list[Value]]:
    """What is combined, axis by axis; an axis that is absent has one value without a label."""
    lists: dict[str, list[Value]] = {}
    if batch.prompts:
        lists["prompt"] = [Value(prompt, {"prompt": prompt}) for prompt in batch.prompts]
    for name, values in batch.variables.items():
        lists[f"{{{name}}}"] = [Value(value, {name: value}) for value in dict.fromkeys(values)]
    if batch.casts:
        lists["cast"] = [Value(_named(cast), {"characters": cast}) for cast in batch.casts]
    for field, options in batch.vary.items():
        lists[field.value] = [Value(_shown(option), {field.value: option}) for option in dict.fromkeys(options)]
    if batch.seeds:
        lists["seed"] = [Value(str(seed), {"seed": seed}) for seed in batch.seeds]
    elif batch.count is not None:
        lists[TAKE] = [Value(str(number + 1), {TAKE: number}) for number in range(batch.count)]
    return lists


def _named(cast: Sequence[CharacterUse]) -> str:
    return " + ".join(use.character if use.version is None else f"{use.character}@{use.version}" for use in cast) or "—"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _texts(
    batch: NewBatch, chosen: Mapping[str, Value], variants: Variants, limit: int, short: Labels
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """The labels and the texts of one combination; several where its prompt is a dynamic one."""
    stands = {name: chosen[f"{{{name}}}"].label for name in batch.variables}
    prompt = chosen["prompt"].label if "prompt" in chosen else batch.request.prompt
    filled = _filled(prompt, stands)
    labels = {_axis(name): short.of(_axis(name), value.label) for name, value in chosen.items()}
    fields = {name: _filled(text, stands) for name in TEXTS if (text := getattr(batch.request, name)) is not None}
    if batch.dynamic is None:
        yield labels, fields | {"prompt": filled}
        return
    for text in variants(filled, limit + 1):
        yield labels | {"variant": short.of("variant", text)}, fields | {"prompt": text}


def _filled(text: str, stands: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: stands[found[1]], text)


def _axis(name: str) -> str:
    return name.strip("{}")


def _cell(batch: NewBatch, chosen: Mapping[str, Value], labels: dict[str, str], fields: Mapping[str, Any]) -> Cell:
    stands = {name: chosen[f"{{{name}}}"].label for name in batch.variables}
    cast: Sequence[CharacterUse] = chosen["cast"].sets["characters"] if "cast" in chosen else batch.request.characters
    told = [use.model_copy(update={"words": _filled(use.words, stands)}) for use in cast]
    own = {name: value for name in (*batch.vary, "seed") if name in chosen for value in chosen[name].sets.items()}
    given = {
        **batch.request.model_dump(exclude_unset=True, exclude={"characters"}),
        **fields,
        **dict(own.values()),
        "characters": told,
        "priority": batch.request.priority,
        "not_before": batch.not_before or batch.request.not_before,
    }
    try:
        request = GenerationRequest.model_validate(given)
    except ValidationError as error:
        field, text = first_error(error)
        where = f"vary.{field}" if field in own and field != "seed" else f"request.{field}"
        raise Refused(422, "invalid", f"{text.removeprefix('Value error, ')} ({_told(labels)})", where) from error
    return Cell(request, labels, chosen[TAKE].sets[TAKE] if TAKE in chosen else 0)


def _told(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}: {label}" for axis, label in labels.items()) or "the only job"


def _axes(cells: Sequence[Cell]) -> tuple[Axis, ...]:
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        for axis, label in cell.labels.items():
            found.setdefault(axis, {})[label] = None
    return tuple(Axis(name=name, values=tuple(values)) for name, values in found.items())


def sheet_plan(axes: Sequence[Axis], sheet: Sheet, title: str, day: Day) -> SheetPlan:
    """How a contact sheet is laid out: as asked, else by the first two axes with several values.

    Raises Refused (422) for an axis that the batch does not have.
    """
    known = {axis.name: axis for axis in axes}
    for field, name in (("sheet.columns", sheet.columns), ("sheet.rows", sheet.rows)):
        if name is not None and name not in known:
            there = ", ".join(known) or "none"
            raise Refused(422, "unknown_axis", f"the batch has no axis {name!r}; it has: {there}", field)
    free = [axis for axis in axes if len(axis.values) > 1 and axis.name not in {sheet.columns, sheet.rows}]
    columns = known[sheet.columns] if sheet.columns else next(iter(free), None)
    rows = known[sheet.rows] if sheet.rows else next((axis for axis in free if axis is not columns), None)
    return SheetPlan(
        title=title,
        column_axis=columns.name if columns else "",
        columns=columns.values if columns else (),
        row_axis=rows.name if rows else "",
        rows=rows.values if rows else (),
        date=day,
    )
