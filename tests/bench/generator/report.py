"""The record of the generator's benchmark: a page for people, and the file of numbers that it is written from. Pure but
for the writing.

A run replaces what is known of its kind of device (`cpu`, `cuda`) and leaves the other as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.generator.expected import METRICS, SOURCES, Metric
from tests.bench.tables import Cell, Result, Table, shown

PAGE, DATA = "generator.md", "generator.json"
OTHERS = "of the machine, other programs meanwhile"
SHARED = "therefore"
"""Lines about the machine: how much others took of it; and, where that was much, what to make of it."""
INTRO = """\
Written by `make bench-generator`, from [generator.json](generator.json). Everything is measured at the engine: the code
of the engine process, with all that it tells its service over a real socket, up to the PNG; bus, ledger and storage are
measured by [`make bench`](README.md). A number stands here only if the pictures it is told of were audited.

```sh
make bench-generator                                        # sprite and a checkpoint of SD 1.5's size; recorded here
make bench-generator ARGS="--quick"                         # sprite alone, in less than two minutes; not recorded
make bench-generator ARGS="--only cold,switch"              # some parts; not recorded
make bench-generator ARGS="--checkpoints /srv/models/bench" # keep the random checkpoint there
ANIME_MODELS=$PWD/models.toml make bench-generator ARGS="--device cuda --model counterfeit"  # fills the GPU's column
```"""
GPU_IS_EMPTY = """\
**Nothing here was measured on a GPU.** The column is empty until somebody with a card runs the last command above; the
code for it is written, and has not run on a card yet. What is expected there is arithmetic on published figures, for
Stable Diffusion 1.5 in half precision at 512 × 512 with 20 steps on a card such as the RTX 3060 with 12 GB; the numbers
in brackets say where from."""
HOW = """\
- **Two models.** *sprite* is the built-in one. *sd15* has Stable Diffusion 1.5's architecture (UNet 860 million
  parameters, autoencoder 84, text encoder 123) with random weights, which take as long as trained ones; it is made in
  a temporary folder, in half precision as such checkpoints are published, and computes in single precision on a CPU.
- **Contestants take turns**, A B A B, each round begun by another one. Percentages are medians of the ratios within
  each round, so that what the machine does meanwhile meets both sides; lowest and highest say how far rounds lie apart.
- **Wall time and processor time.** On a machine that others use, a run takes longer by the clock than it works. torch
  has one thread, so that both mean the same on a calm machine. Rates are of wall time.
- **The bare pipeline** is diffusers' own, built around the same weights at the same addresses, and called with texts,
  as its documentation does. It ends with a PNG of the same compression.
- **Audit.** Every picture is decoded from its PNG: the right size, seed, number of pictures and of steps, and not of
  one colour, which is what numbers that are not finite look like. The pictures of cold processes and of the bare
  pipeline are compared with the engine's: the same but for rounding. A part whose audit fails says so in place of its
  numbers."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of one model: its settings, and the results of its parts."""

    name: str
    title: str
    about: Mapping[str, Cell]
    results: Sequence[Result]

    def number(self, metric: Metric) -> float | None:
        """A number of the overview, if it was measured."""
        for result in self.results:
            if result.name == metric.part and result.problem is None:
                return result.numbers.get(metric.key)
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """One run of the benchmark on one kind of device."""

    machine: Mapping[str, Cell]
    models: Sequence[Measured]


Records = Mapping[str, Record]


def markdown(records: Records) -> str:
    """The page."""
    parts = ["# The generator", INTRO]
    if "cuda" not in records:
        parts.append(GPU_IS_EMPTY)
    parts += ["## Overview", overview(records).markdown(), _misses(records), "Where the expectations come from:"]
    parts.append(
        "\n".join(f"{number}. {source.replace(chr(10), chr(10) + '   ')}" for number, source in enumerate(SOURCES, 1))
    )
    parts += ["## What holds for all numbers", HOW]
    for kind, record in records.items():
        lines = "\n".join(f"- {name}: {shown(value)}" for name, value in record.machine.items())
        parts += [f"## Measured on {_device(kind)}", lines]
        for model in record.models:
            settings = ", ".join(f"{name} {shown(value)}" for name, value in model.about.items())
            parts += [f"### {model.title}", f"Settings: {settings}."]
            parts += [result.markdown().replace("## ", "#### ", 1) for result in model.results]
    return "\n\n".join(part for part in parts if part) + "\n"


def overview(records: Records) -> Table:
    """One row a number, one column a model; the GPU's is empty as long as nobody has measured there."""
    models = [(kind, model) for kind, record in records.items() for model in record.models]
    columns = [f"{model.name}, {kind}" for kind, model in models]
    gpu = [] if "cuda" in records else ["GPU, measured"]
    rows: list[list[Cell]] = []
    for metric in METRICS:
        found = [_cell(model.number(metric), metric.unit) for _, model in models]
        goal = "" if metric.goal is None else f"≤ {metric.goal:g} {metric.unit}"
        rows.append([metric.what, goal, *found, *("" for _ in gpu), metric.expected, metric.because])
    return Table(("what", "goal", *columns, *gpu, "12 GB card, expected", "because"), rows)


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    number = f"{value:.2g}" if 0 < abs(value) < 0.1 else shown(value)
    return f"{number} {unit}"


def _misses(records: Records) -> str:
    """What is above its goal, said in words."""
    found: dict[str, list[str]] = {}
    for kind, run in records.items():
        for model in run.models:
            for metric in METRICS:
                value = model.number(metric)
                if metric.goal is None or value is None or value <= metric.goal:
                    continue
                others = run.machine.get(OTHERS) if SHARED in run.machine and metric.wall else None
                while_shared = f" by the clock, while other programs took {others} of the machine" if others else ""
                text = f"{metric.what} ({model.name}, {kind}): {_cell(value, metric.unit)}"
                found.setdefault(f"Above the goal{while_shared}", []).append(text)
    if not found:
        return "No number is above its goal."
    return "\n\n".join(f"{which}: {'; '.join(texts)}." for which, texts in found.items())


def _device(kind: str) -> str:
    return {"cpu": "a CPU", "cuda": "a GPU"}.get(kind, kind)


def record(folder: Path, kind: str, found: Record) -> None:
    """Write both files, with what is known of other devices kept."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {**known(folder), kind: found}
    (folder / DATA).write_text(json.dumps(_as_json(records), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(markdown(records), encoding="utf-8")


def known(folder: Path) -> dict[str, Record]:
    """What was recorded in a folder before, by kind of device."""
    file = folder / DATA
    if not file.is_file():
        return {}
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {
        kind: Record(run["machine"], [_model(name, each) for name, each in run["models"].items()])
        for kind, run in said.items()
    }


def _as_json(records: Records) -> dict[str, Any]:
    return {
        kind: {
            "machine": dict(run.machine),
            "models": {
                model.name: {
                    "title": model.title,
                    "settings": dict(model.about),
                    "parts": {result.name: result.as_json() for result in model.results},
                }
                for model in run.models
            },
        }
        for kind, run in records.items()
    }


def _model(name: str, said: Mapping[str, Any]) -> Measured:
    results = [_result(part, each) for part, each in said["parts"].items()]
    return Measured(name, said["title"], said["settings"], results)


def _result(name: str, said: Mapping[str, Any]) -> Result:
    tables = [
        Table(tuple(table["rows"][0]), [tuple(row.values()) for row in table["rows"]], table["title"])
        for table in said["tables"]
        if table["rows"]
    ]
    return Result(
        name, said["title"], said["settings"], dict(said["numbers"]), tables, list(said["remarks"]), said["problem"]
    )
