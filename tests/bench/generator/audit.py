"""Whether the pictures that a rate is told of are there: no rate without it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase
from anime_generator import wire

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Reports = Sequence[tuple[wire.Report, bytes]]

FLAT = 1.0
"""Standard deviation of the levels below which a picture shows nothing: not-a-number decodes to one colour."""
ALIKE = 1.0
"""Levels of 255 by which two pictures of the same settings may differ on the average."""


class AuditError(Exception):
    """What was measured did not do what it was to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to: pixels (height, width, 3) by index, seconds a phase, previews, the widest pass in pictures,
    models that were loaded for it.
    """

    pictures: tuple[Pixels, ...]
    timings: dict[Phase, float]
    previews: int
    widest: int
    loaded: tuple[str, ...]
    warnings: tuple[str, ...]


def audited(job: OfferedJob, reports: Reports) -> Run:
    """The run of a job, by what the engine told; raises AuditError unless every picture and step is there once."""
    settings, ends = job.settings, [report for report, _ in reports if isinstance(report, wire.Ended)]
    if len(ends) != 1 or ends[0].outcome != "painted":
        raise AuditError(f"the job ended {[f'{end.outcome} {end.message}'.strip() for end in ends]}, not once painted")
    painted = {report.index: (report, blob) for report, blob in reports if isinstance(report, wire.Painted)}
    times = sum(isinstance(report, wire.Painted) for report, _ in reports)
    if sorted(painted) != list(range(settings.count)) or times != settings.count:
        raise AuditError(f"{times} pictures with the indexes {sorted(painted)}, not {settings.count} from 0 on")
    for index, (report, _) in painted.items():
        if report.seed != settings.seed + index:
            raise AuditError(f"picture {index} has the seed {report.seed}, not {settings.seed + index}")
    steps = [report for report, _ in reports if isinstance(report, wire.Stepped)]
    done = sum(len(step.pictures) for step in steps)
    if done != settings.steps * settings.count:
        raise AuditError(f"{done} steps of single pictures, not {settings.steps * settings.count}")
    return Run(
        pictures=tuple(decoded(painted[index][1], settings.width, settings.height) for index in sorted(painted)),
        timings=dict(ends[0].timings),
        previews=sum(isinstance(report, wire.Preview) and bool(blob) for report, blob in reports),
        widest=max(len(step.pictures) for step in steps),
        loaded=tuple(report.model for report, _ in reports if isinstance(report, wire.Loading)),
        warnings=ends[0].warnings,
    )


def decoded(data: bytes, width: int, height: int) -> Pixels:
    """The pixels of a PNG; raises AuditError when it is not a whole picture of that size that shows something."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise AuditError(f"a picture cannot be read: {error}") from error
    if pixels.shape != (height, width, 3):
        raise AuditError(f"a picture has {pixels.shape[1]} x {pixels.shape[0]} pixels, not {width} x {height}")
    if pixels.std() < FLAT:
        raise AuditError("a picture is of one colour: the model told no finite numbers")
    return pixels


def alike(ours: Pixels, theirs: Pixels, what: str) -> None:
    """Raise AuditError unless two pictures are the same but for rounding."""
    difference = float(np.abs(ours.astype(float) - theirs.astype(float)).mean())
    if difference > ALIKE:
        raise AuditError(f"{what}: the pictures differ by {difference:.1f} levels on the average, not at most {ALIKE}")
