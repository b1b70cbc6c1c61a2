"""A process a picture against the engine process that stays: what holding models in memory is good for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anime_generator.engine_host import EngineHost, HostOptions
from anime_generator.metadata import COMPRESSION
from anime_generator.watchdog import Patience
from tests.bench import costs
from tests.bench.generator.audit import Pixels, Run, alike, audited, decoded
from tests.bench.generator.bare import arguments, solver
from tests.bench.generator.subjects import Subject, fresh, job
from tests.bench.generator.timing import Lap, Range
from tests.bench.generator.workshop import configuration
from tests.bench.tables import Result, Table
from tests.waiting import eventually

PROGRAM = Path(__file__).with_name("cold.py")
LONGEST = 900.0
"""Seconds that one process may take."""
TITLE = "A process a picture against the engine that stays"


@dataclass(frozen=True, slots=True)
class Cold:
    """One picture by one process: the whole of it, seconds of its parts, and the pixels."""

    lap: Lap
    parts: dict[str, float]
    pixels: Pixels


def cold_start(subject: Subject) -> Result:
    """Compare them, with the same pictures."""
    with tempfile.TemporaryDirectory(prefix="anime-bench-") as folder:
        colds = [_cold(subject, Path(folder), number) for number in range(subject.amount.cold)]
    began, runs = asyncio.run(_staying(subject, max(subject.amount.cold, 3)))
    for cold, (_, run) in zip(colds, runs, strict=False):
        alike(run.pictures[0], cold.pixels, "the cold process's and the engine's")
    wall, warm = Range.of(cold.lap.wall for cold in colds), Range.of(lap.wall for lap, _ in runs)
    cpu, warm_cpu = Range.of(cold.lap.cpu for cold in colds), Range.of(lap.cpu for lap, _ in runs)
    parts = {name: Range.of(cold.parts[name] for cold in colds).median for name in colds[0].parts}
    rest = max(wall.median - sum(parts.values()), 0.0)
    numbers = {
        "cold s": wall.median,
        "cold, CPU s": cpu.median,
        "resident s": warm.median,
        "resident, CPU s": warm_cpu.median,
        "times as quick": wall.median / warm.median,
        "times as quick, CPU": cpu.median / warm_cpu.median,
        "start s": began.wall,
        **{f"cold, {name} s": seconds for name, seconds in parts.items()},
    }
    rows = [
        ("a process a picture", wall.median, wall.low, wall.high, cpu.median),
        ("the engine process, started before", warm.median, warm.low, warm.high, warm_cpu.median),
        ("its start, once: libraries, model, warm-up", began.wall, None, None, began.cpu),
    ]
    table = Table(("what", "s, median", "lowest", "highest", "CPU s"), rows)
    split = Table(
        ("part of the cold process", "s, median"),
        [*parts.items(), ("interpreter's start and end", rest)],
        "Where a cold process's time goes",
    )
    quicker = (
        f"The engine that stays is {numbers['times as quick']:.1f} times as quick"
        f" ({numbers['times as quick, CPU']:.1f} in processor time). The cold process imports torch and diffusers,"
        " loads the checkpoint (the files are in the system's cache), draws one picture, writes it and ends."
    )
    audit = (
        f"Audit: {len(colds) + len(runs)} pictures of the right size, none of one colour; those of the cold processes"
        " show the same as the engine's."
    )
    return Result("cold", TITLE, numbers=numbers, tables=[table, split], remarks=[quicker, audit])


def _cold(subject: Subject, folder: Path, number: int) -> Cold:
    """One process, from its start to its end; raises RuntimeError with what it said when it fails."""
    out = folder / f"{number}.png"
    settings = fresh(subject.settings(), number)
    command = [sys.executable, "-P", str(PROGRAM), json.dumps(_order(subject, number, folder, out))]
    began = time.perf_counter()
    with (folder / f"{number}.log").open("w+b") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=_environment()
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        took = time.perf_counter() - began
        if process.returncode != 0:
            log.seek(0)
            reason = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the cold process ended with {process.returncode}: {reason}")
    pixels = decoded(out.read_bytes(), settings.width, settings.height)
    return Cold(Lap(took, used.ru_utime + used.ru_stime), json.loads(said.splitlines()[-1]), pixels)


def _order(subject: Subject, number: int, folder: Path, out: Path) -> dict[str, Any]:
    """What the program is told: files, precision, solver and the arguments of the call."""
    import diffusers
    import torch

    from anime_generator.device import open_device
    from anime_generator.engines.pipelines import _trained, choose_dtype
    from anime_generator.engines.tokenizers import tokenizers_for

    spec, settings = subject.spec, fresh(subject.settings(), number)
    device = open_device(subject.device)
    described = spec.source if spec.source is not None and spec.source.is_dir() else spec.config
    if described is None:
        raise ValueError(f"models.{spec.key}: neither a folder nor a configuration says what it is")
    index = json.loads((described / "model_index.json").read_text(encoding="utf-8"))
    original = json.loads((described / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    came = getattr(diffusers, original["_class_name"]).from_config(original)
    trained = _trained(spec, SimpleNamespace(scheduler=came))
    scheduler, chosen = solver(settings, trained)
    tokenizers = {}
    for name, tokenizer in tokenizers_for(described).items():
        tokenizer.save_pretrained(folder / name)
        tokenizers[name] = str(folder / name)
    precision = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
    return {
        "pipeline": index["_class_name"],
        "source": str(spec.source),
        "config": "" if described == spec.source else str(described),
        "vae": str(spec.vae or ""),
        "tokenizers": tokenizers,
        "precision": precision[choose_dtype(spec, device)],
        "device": device.torch_name,
        "scheduler": scheduler.__name__,
        "configuration": chosen,
        "arguments": arguments(settings),
        "seed": settings.seed,
        "compression": COMPRESSION,
        "out": str(out),
    }


def _environment() -> dict[str, str]:
    """As the service gives it to its engine process, with as many threads as this process has."""
    import torch

    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return {**os.environ, **threads, **offline}


async def _staying(subject: Subject, pictures: int) -> tuple[Lap, list[tuple[Lap, Run]]]:
    """The start of an engine process, and its pictures, in the order and with the texts of the cold ones."""
    began = time.perf_counter()
    async with _hosted(subject) as host:
        start = Lap(time.perf_counter() - began, costs.cpu_seconds(_pid(host)))
        runs = [await _draw(subject, host, number) for number in (100, *range(pictures))]
    return start, runs[1:]


@asynccontextmanager
async def _hosted(subject: Subject) -> AsyncIterator[EngineHost]:
    """The service's side of an engine process whose model is loaded and warmed up."""
    config = configuration(subject.device, [subject.spec])
    options = HostOptions(config, (subject.spec.key,), _environment(), Patience(), log_level="error")
    host = EngineHost(options, lambda: None)
    serving = asyncio.create_task(host.serve())

    def ready() -> bool:
        if serving.done():
            serving.result()
        if problem := host.problems.get(subject.spec.key):
            raise RuntimeError(f"{subject.spec.key} cannot be loaded: {problem}")
        return host.usable and subject.spec.key in host.resident

    try:
        await eventually(ready, within=LONGEST)
        yield host
    finally:
        await host.close()
        await serving


async def _draw(subject: Subject, host: EngineHost, number: int) -> tuple[Lap, Run]:
    """One picture, from the order until the service has its bytes."""
    wanted = job(fresh(subject.settings(), number))
    cpu, began = costs.cpu_seconds(_pid(host)), time.perf_counter()
    heard = [(each.report, each.blob) async for each in host.draw((wanted,))]
    took = time.perf_counter() - began
    return Lap(took, costs.cpu_seconds(_pid(host)) - cpu), audited(wanted, heard)


def _pid(host: EngineHost) -> int:
    assert host.pid is not None
    return host.pid
