"""The parts that are measured on one resident model: overhead, batches, remembered prompts, previews."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anime_common.contracts.vocabulary import Phase
from tests.bench.generator.audit import AuditError, Pixels, Run, alike, decoded
from tests.bench.generator.bare import Bare
from tests.bench.generator.subjects import Subject, fresh
from tests.bench.generator.timing import Lap, Range, alternately, percent_over
from tests.bench.generator.workshop import AtWork, preview_costs, without_previews
from tests.bench.tables import Result, Table

LIKE = (
    "*Like with like*: new texts each time, which both encode, and no previews. *As shipped*: previews, and texts that"
    " the engine remembers. The bare call ends with a PNG too, of the same compression. They take turns; percentages"
    " are medians of the ratios within each round."
)
FIRST = (
    "The first preview is made whatever it costs, later ones only within 2 % of the run: the longer the run, the less"
    " the first one counts."
)
ON_A_CARD = (
    "On a card a preview waits for the steps before it: its own time holds work that is done anyway, and the difference"
    " between the runs says more."
)
WARM_UP = 999
"""A round that is not counted."""


def overhead(subject: Subject, engine: AtWork) -> Result:
    """What the engine costs beyond the pipeline call: everything on, and compared like with like."""
    bare, settings = Bare(engine.resident(subject.spec.key)), subject.settings()

    def plainly(number: int) -> tuple[Lap, Pixels]:
        lap, png = bare.draw(fresh(settings, number))
        return lap, decoded(png, settings.width, settings.height)

    def like_for_like(number: int) -> tuple[Lap, Pixels]:
        with without_previews():
            lap, run = engine.draw(fresh(settings, number))
        return lap, run.pictures[0]

    def as_shipped(number: int) -> tuple[Lap, Pixels]:
        lap, run = engine.draw(settings.model_copy(update={"seed": 5000 + number}))
        return lap, run.pictures[0]

    for each in (plainly, like_for_like, as_shipped):
        each(WARM_UP)
    theirs, equal, shipped = alternately((plainly, like_for_like, as_shipped), subject.amount.rounds)
    for (_, plain), (_, ours) in zip(theirs, equal, strict=True):
        alike(ours, plain, "the bare pipeline's and the engine's")
    laps = [[lap for lap, _ in found] for found in (theirs, equal, shipped)]
    table = Table(
        ("what", "s, median", "lowest", "highest", "CPU s", "wall over bare %", "lowest %", "highest %", "CPU over %"),
        [
            (*_spent("bare pipeline call", laps[0]), None, None, None, None),
            (*_spent("engine, like with like", laps[1]), *_over(laps[1], laps[0])),
            (*_spent("engine, as shipped", laps[2]), *_over(laps[2], laps[0])),
        ],
    )
    walls, cpus = ([[getattr(lap, clock) for lap in each] for each in laps] for clock in ("wall", "cpu"))
    numbers = {
        "bare s": Range.of(walls[0]).median,
        "engine s": Range.of(walls[2]).median,
        "overhead %": percent_over(walls[1], walls[0]).median,
        "overhead, CPU %": percent_over(cpus[1], cpus[0]).median,
        "overhead as shipped %": percent_over(walls[2], walls[0]).median,
        "overhead as shipped, CPU %": percent_over(cpus[2], cpus[0]).median,
    }
    remarks = [LIKE, _audit(3 * len(theirs), "; the bare pipeline's show the same as the engine's")]
    return Result(
        "overhead", "The engine against a bare pipeline call", numbers=numbers, tables=[table], remarks=remarks
    )


def _spent(name: str, laps: list[Lap]) -> tuple[str, float, float, float, float]:
    wall = Range.of(lap.wall for lap in laps)
    return (name, wall.median, wall.low, wall.high, Range.of(lap.cpu for lap in laps).median)


def _over(ours: list[Lap], theirs: list[Lap]) -> tuple[float, float, float, float]:
    wall = percent_over([lap.wall for lap in ours], [lap.wall for lap in theirs])
    cpu = percent_over([lap.cpu for lap in ours], [lap.cpu for lap in theirs])
    return (wall.median, wall.low, wall.high, cpu.median)


def batches(subject: Subject, engine: AtWork) -> Result:
    """Pictures a second in passes of several pictures."""
    sizes, settings = subject.amount.batches, subject.settings()

    def in_a_pass(count: int, number: int) -> tuple[Lap, Run]:
        return engine.draw(settings.model_copy(update={"count": count, "seed": 7000 + 20 * number}))

    in_a_pass(1, WARM_UP)
    found = alternately([partial(in_a_pass, size) for size in sizes], subject.amount.batch_rounds)
    rows: list[tuple[str | int | float | None, ...]] = []
    numbers: dict[str, float] = {}
    short = []
    for size, laps in zip(sizes, found, strict=True):
        if any(run.widest < size or run.warnings for _, run in laps):
            short.append(f"{size} (drawn {min(run.widest for _, run in laps)} at a time)")
            rows.append((size, None, None, None, None))
            continue
        wall, cpu = Range.of(lap.wall for lap, _ in laps), Range.of(lap.cpu for lap, _ in laps)
        numbers[f"pictures/s at {size}"] = size / wall.median
        numbers[f"CPU s a picture at {size}"] = cpu.median / size
        first = numbers.get(f"pictures/s at {sizes[0]}")
        gain = numbers[f"pictures/s at {size}"] / first if first else None
        rows.append((size, size / wall.median, wall.median, cpu.median / size, gain))
    table = Table(("pictures a pass", "pictures/s", "s a pass", "CPU s a picture", f"rate ÷ that of {sizes[0]}"), rows)
    remarks = [f"Memory was too short for passes of {', '.join(short)}."] if short else []
    remarks.append(_audit(sum(size * len(laps) for size, laps in zip(sizes, found, strict=True))))
    return Result("batches", "Pictures a second by batch", numbers=numbers, tables=[table], remarks=remarks)


def embeddings(subject: Subject, engine: AtWork) -> Result:
    """What remembering a prompt's embeddings saves."""
    settings = subject.settings(**subject.small)

    def remembered(number: int) -> tuple[Lap, Run]:
        return engine.draw(settings.model_copy(update={"seed": 9000 + number}))

    def encoded(number: int) -> tuple[Lap, Run]:
        return engine.draw(fresh(settings, 1000 + number))

    for each in (remembered, encoded):
        each(WARM_UP)
    on, off = alternately((remembered, encoded), subject.amount.rounds)
    rows = [_encoding("remembered", on), _encoding("encoded", off)]
    milliseconds = [Range.of(1000 * run.timings[Phase.ENCODING] for _, run in laps).median for laps in (on, off)]
    usual = Range.of(lap.wall for lap, _ in off).median
    numbers = {
        "encoding ms, remembered": milliseconds[0],
        "encoding ms": milliseconds[1],
        "encoding % of the run": 100 * (milliseconds[1] - milliseconds[0]) / 1000 / usual,
    }
    table = Table(("prompt and negative prompt", "encoding ms, median", "lowest", "highest", "s a run", "CPU s"), rows)
    size = f"{settings.width} × {settings.height}, {settings.steps} steps"
    remarks = [
        f"At {size}; the milliseconds depend on neither. By the engine's own clock of its phases.",
        _audit(len(on) + len(off)),
    ]
    return Result("embeddings", "Remembered prompt embeddings", numbers=numbers, tables=[table], remarks=remarks)


def _encoding(name: str, laps: list[tuple[Lap, Run]]) -> tuple[str | float, ...]:
    phase = Range.of(1000 * run.timings[Phase.ENCODING] for _, run in laps)
    wall, cpu = (Range.of(getattr(lap, clock) for lap, _ in laps) for clock in ("wall", "cpu"))
    return (name, phase.median, phase.low, phase.high, wall.median, cpu.median)


def previews(subject: Subject, engine: AtWork) -> Result:
    """What previews cost of a run."""
    settings = subject.settings()
    spent: list[float] = []

    def shown(number: int) -> tuple[Lap, Run]:
        with preview_costs() as costs:
            lap, run = engine.draw(settings.model_copy(update={"seed": 11000 + number}))
        spent.append(100 * sum(costs) / lap.wall)
        return _seen(lap, run, some=settings.steps > 3)

    def hidden(number: int) -> tuple[Lap, Run]:
        with without_previews():
            return _seen(*engine.draw(settings.model_copy(update={"seed": 11000 + number})), some=False)

    for each in (shown, hidden):
        each(WARM_UP)
    spent.clear()
    on, off = alternately((shown, hidden), subject.amount.rounds)
    over = percent_over([lap.wall for lap, _ in on], [lap.wall for lap, _ in off])
    cpu = percent_over([lap.cpu for lap, _ in on], [lap.cpu for lap, _ in off])
    own = Range.of(spent)
    count = Range.of(run.previews for _, run in on).median
    table = Table(
        ("clock", "% of the run, median", "lowest", "highest"),
        [
            ("the previews' own time", own.median, own.low, own.high),
            ("runs with against runs without, wall", over.median, over.low, over.high),
            ("runs with against runs without, CPU", cpu.median, cpu.low, cpu.high),
        ],
    )
    numbers = {"previews %": own.median, "previews, by difference %": over.median, "previews a run": count}
    remarks = [
        f"Previews a run of {settings.steps} steps: {count:g}. {FIRST}",
        *([ON_A_CARD] if subject.device.startswith("cuda") else []),
        _audit(len(on) + len(off), "; previews came where they were wanted, and none where not"),
    ]
    return Result("previews", "Previews", numbers=numbers, tables=[table], remarks=remarks)


def _seen(lap: Lap, run: Run, *, some: bool) -> tuple[Lap, Run]:
    if bool(run.previews) is not some:
        raise AuditError(f"{run.previews} previews came, {'at least one' if some else 'none'} was expected")
    return lap, run


def _audit(pictures: int, more: str = "") -> str:
    return (
        f"Audit: {pictures:,} pictures decoded from their PNGs, of the right size, seeds, number of steps, and none of"
        f" one colour{more}."
    )


PARTS: dict[str, Callable[[Subject, AtWork], Result]] = {
    "overhead": overhead,
    "batches": batches,
    "embeddings": embeddings,
    "previews": previews,
}
"""By name; in this order."""
