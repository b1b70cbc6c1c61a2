"""`make bench-generator`: measures the engine on this machine, audits its pictures, prints and records the numbers."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from anime_generator.device import SPEC, DeviceError, open_device
from anime_generator.registry import RegistryError
from tests.bench import costs, machine
from tests.bench.generator import report
from tests.bench.generator.report import Measured, Record
from tests.bench.generator.subjects import Amount, Subject, from_registry, random_weights, sprite
from tests.bench.tables import Cell, Result
from tests.stacks import ROOT

RECORDS = ROOT / "docs" / "benchmarks"
PARTS = ("cold", "overhead", "batches", "embeddings", "previews", "switch")
VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")
QUICK = Amount(cold=1, rounds=3, batch_rounds=1, switches=2)
SPRITE = Amount(cold=3, rounds=12, batch_rounds=3, switches=6)
LARGE = Amount(cold=2, rounds=4, batch_rounds=1, switches=3)
CARD = Amount(cold=3, rounds=10, batch_rounds=3, switches=6)


def say(text: str) -> None:
    """What goes on, on stderr: stdout has the page."""
    print(f"bench-generator: {text}", file=sys.stderr, flush=True)


def measure(subject: Subject, parts: Sequence[str] = PARTS, threads: int = 1) -> Measured:
    """Run the parts one after another; one that fails has its problem in its result, and the others go on."""
    import torch

    from tests.bench.generator import drawing
    from tests.bench.generator.cold_start import cold_start
    from tests.bench.generator.switching import switching
    from tests.bench.generator.workshop import AtWork, at_work, configuration

    torch.set_num_threads(threads)
    found: dict[str, Result] = {}
    if "cold" in parts:
        found["cold"] = _guarded(subject, "cold", lambda: cold_start(subject))
    resident = [name for name in drawing.PARTS if name in parts]
    if resident:
        with ExitStack() as stack:
            opened: list[AtWork] = []

            def engine() -> AtWork:
                if not opened:
                    opened.append(stack.enter_context(at_work(configuration(subject.device, [subject.spec]))))
                    opened[0].prepare(subject.spec.key)
                return opened[0]

            for name in resident:
                part = drawing.PARTS[name]
                found[name] = _guarded(subject, name, lambda part=part: part(subject, engine()))  # type: ignore[misc]
    if "switch" in parts:
        found["switch"] = _guarded(subject, "switch", lambda: switching(subject))
    return Measured(subject.name, subject.title, subject.about(), [found[name] for name in PARTS if name in found])


def _guarded(subject: Subject, name: str, part: Callable[[], Result]) -> Result:
    say(f"{subject.name}: {name} …")
    began = time.monotonic()
    try:
        found = part()
    except Exception as error:  # noqa: BLE001 - whatever went wrong stands in place of the numbers
        found = Result(name, name, problem=f"{type(error).__name__}: {error}")
    problem = f", NOT MEASURED: {found.problem}" if found.problem else ""
    say(f"{subject.name}: {name} took {time.monotonic() - began:.0f} s{problem}")
    return found


def about(device: str, threads: int) -> dict[str, Cell]:
    """The machine, and the versions that matter here."""
    found: dict[str, Cell] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "processor": machine.processor(),
        "cores": machine.cores(),
        "threads of torch": threads,
        "memory GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load average at the start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: machine.installed(name) for name in VERSIONS},
    }
    if device.startswith("cuda"):
        import torch

        opened = open_device(device)
        card: dict[str, Cell] = {
            "card": opened.name,
            "card's memory GB": round(opened.memory().total / 1e9, 1),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
        found |= card
    return found


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; `record` is where to write it, None for nowhere."""
    parser = argparse.ArgumentParser(prog="make bench-generator", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="sprite alone, few rounds, under two minutes; not recorded"
    )
    parser.add_argument(
        "--only", type=_parts, default=PARTS, metavar="PART,…", help=f"of {', '.join(PARTS)}; not recorded"
    )
    parser.add_argument("--device", type=_device, default="cpu", help="cpu (default), cuda or cuda:<index>")
    parser.add_argument(
        "--model", metavar="KEY", help="a model of the registry (ANIME_MODELS) instead of sprite and random weights"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of contestants that take turns; not recorded")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch on the CPU (default 1)")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="FOLDER", help="keep the random checkpoint there (default: thrown away)"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FOLDER", help=f"where to record (a full run: {RECORDS.relative_to(ROOT)})"
    )
    given = parser.parse_args(words)
    for name in ("rounds", "threads"):
        if (value := getattr(given, name)) is not None and value < 1:
            parser.error(f"argument --{name}: must be at least 1, not {value}")
    full = not given.quick and given.only == PARTS and given.rounds is None
    if given.record is None and full and (given.model is None or given.device.startswith("cuda")):
        given.record = RECORDS
    return given


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return names


def _device(text: str) -> str:
    if not re.fullmatch(SPEC, text) or text.startswith(("auto", "simulated")):
        raise argparse.ArgumentTypeError(f"cpu, cuda or cuda:<index>, not {text!r}")
    return text


def subjects(given: argparse.Namespace, folder: Path) -> list[Subject]:
    """The models to measure; raises ValueError and RegistryError when there is no such model."""
    card = given.device.startswith("cuda")

    def amount(usual: Amount) -> Amount:
        chosen = QUICK if given.quick else CARD if card else usual
        return chosen if given.rounds is None else replace(chosen, rounds=given.rounds)

    if given.model is not None:
        return [from_registry(given.model, amount(LARGE), given.device)]
    found = [sprite(amount(SPRITE), given.device)]
    if not given.quick:
        say("the checkpoint of random weights …")
        found.append(random_weights(folder, amount(LARGE), given.device))
    return found


def run(given: argparse.Namespace) -> Record:
    """Measure what was asked for."""
    described = about(given.device, given.threads)
    clocks = {"bench": os.getpid()}
    with tempfile.TemporaryDirectory(prefix="anime-bench-") as folder:
        chosen = subjects(given, given.checkpoints or Path(folder))
        before = costs.read(clocks)
        models = [measure(subject, given.only, given.threads) for subject in chosen]
        spent = costs.Costs.between(before, costs.read(clocks), 1, machine.cores())
    described["minutes"] = round(spent.seconds / 60, 1)
    described[report.OTHERS] = f"{100 * spent.others:.0f} %"
    if spent.others > costs.FULL_MACHINE:
        described[report.SHARED] = "the machine was shared: look at ratios and processor time rather than at wall time"
    return Record(described, models)


def main() -> int:
    """Measure, print, record; 1 when a part could not be measured, 2 when it cannot begin."""
    given = arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        open_device(given.device)
        found = run(given)
    except (DeviceError, RegistryError, ValueError) as error:
        say(str(error))
        return 2
    kind = open_device(given.device).kind
    print(report.markdown({kind: found}))
    if given.record is not None:
        report.record(given.record, kind, found)
        say(f"recorded in {given.record}")
    return int(any(result.problem is not None for model in found.models for result in model.results))


if __name__ == "__main__":
    sys.exit(main())
