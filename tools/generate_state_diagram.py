"""Draws the state diagram of a job from the transition table: runs every rule, notes where it leads.

    python tools/generate_state_diagram.py [--check]

Each state is tried in the variants that decide where a rule leads, so an edge is drawn exactly if the code can take it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from anime_common.contracts.echo import OptimizedPrompt, OptimizeFailed, PromptOptimized
from anime_common.contracts.files import Filed, FilingFailed
from anime_common.contracts.generation import GenerationRequest, Settings
from anime_common.contracts.generator import (
    AttemptCancelled,
    AttemptFailed,
    AttemptFinished,
    AttemptReleased,
    AttemptStarted,
)
from anime_common.contracts.jobs import CancelJob, Job, RetryJob
from anime_common.contracts.vocabulary import JobState, Priority, Sampler, StagedOutput
from anime_common.outcomes import Refused
from anime_jobs.model import (
    TABLE,
    DeadlinePassed,
    Dispatch,
    IllegalTransition,
    ModelAnnounced,
    Moment,
    OfferFenced,
    Policy,
    Record,
    WorkerLost,
    decide,
)

TARGET = Path(__file__).parents[1] / "docs" / "state-machine.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID, OTHER = UUID(int=1), UUID(int=2)
OWNED = (JobState.DISPATCHED, JobState.RUNNING, JobState.FILING)
SETTINGS = Settings(
    prompt="x", model="m", width=64, height=64, steps=1, guidance=1.0, sampler=Sampler.EULER, seed=1, count=2
)
STAGED = StagedOutput(index=0, seed=1, sha256="0" * 64, size=1, media_type="image/png", width=64, height=64)

FACT: dict[str, Any] = {
    "job_id": ID, "attempt_id": ID, "epoch": 1, "worker": "w", "incarnation": OTHER, "engine": "e", "device": "d",
    "settings": SETTINGS, "outputs": (), "timings": {}, "code": "c", "message": "m", "reason": "r", "retryable": True,
    "started_at": NOW, "finished_at": NOW, "failed_at": NOW, "cancelled_at": NOW, "released_at": NOW,
    "job_version": 1, "result": OptimizedPrompt(prompt="x", provider="p"),
}  # fmt: skip


def fact(cls: type[Any], **changes: Any) -> Any:
    """A fact about the attempt."""
    return cls.model_validate({name: value for name, value in (FACT | changes).items() if name in cls.model_fields})


MESSAGES: list[tuple[str, Any]] = [
    ("cancel", CancelJob(job=str(ID))),
    ("retry by hand", RetryJob(job=str(ID))),
    ("prompt optimised", fact(PromptOptimized)),
    ("optimising failed", fact(OptimizeFailed)),
    ("waited too long for Echo", DeadlinePassed()),
    ("request does not fit the model", ModelAnnounced(None)),
    ("offered to a worker", Dispatch("w", OTHER, ID, OTHER)),
    ("offer not taken", OfferFenced()),
    ("started", fact(AttemptStarted)),
    ("finished", fact(AttemptFinished, outputs=(STAGED,))),
    ("failed", fact(AttemptFailed)),
    ("failed for good", fact(AttemptFailed, retryable=False)),
    ("stopped", fact(AttemptCancelled)),
    ("stopped with pictures to keep", fact(AttemptCancelled, outputs=(STAGED,))),
    ("given back", fact(AttemptReleased)),
    ("worker lost", WorkerLost("gone", counts=True)),
    ("filed", fact(Filed)),
    ("filing failed", fact(FilingFailed)),
]


def variants(state: JobState) -> Iterator[tuple[str, Record]]:
    """Records in a state, the plain one first, then those with what a rule looks at, each with its condition."""
    yield "", sample(state)
    if state is JobState.RUNNING:
        yield "cancel asked for", sample(state, cancel_requested=True)
    if state in OWNED:
        yield "no tries left", sample(state, failures=Policy().max_failures - 1)
    if state is JobState.FILING:
        yield "of a cancelled job", replace(sample(state), end_as=JobState.CANCELLED)


def sample(state: JobState, **fields: Any) -> Record:
    """A job in a state, with what it has by then."""
    request = GenerationRequest(prompt="x", keep_partial=True, count=2)
    attempt: dict[str, Any] = {"attempt_id": ID, "worker": "w"} if state in OWNED or state.ended else {}
    job = Job(
        id=ID, code="00000000", version=1, epoch=1, state=state, client="gateway", project_id=OTHER, project="default",
        priority=Priority.NORMAL, request=request, settings=SETTINGS, created_at=NOW, updated_at=NOW, queued_at=NOW,
        **attempt, **fields,
    )  # fmt: skip
    base = Record(job=job, request_hash="", prompt="x", negative_prompt=None, seed=1)
    return replace(base, filing_date=NOW.date(), staged=(STAGED,))


def edges() -> dict[tuple[JobState, JobState], list[str]]:
    """(from, to) → the messages that lead there, with the condition where it takes one."""
    found: dict[tuple[JobState, JobState], list[str]] = defaultdict(list)
    for state in TABLE:
        for name, message in MESSAGES:
            usual: JobState | None = None
            for condition, record in variants(state):
                after = outcome(record, message)
                if not condition:
                    usual = after
                elif after is usual:
                    continue
                if after is not None and after is not state:
                    found[state, after].append(f"{name} ({condition})" if condition else name)
    return dict(found)


def outcome(record: Record, message: object) -> JobState | None:
    """The state that a message leads to; None when it is refused or cannot happen."""
    at = Moment(now=NOW + timedelta(hours=1), today=NOW.date())
    try:
        return decide(record, message, at)[0].state
    except (Refused, IllegalTransition):
        return None


def page() -> str:
    """The whole page."""
    arrows = edges()
    ends = [state for state in JobState if state.ended]
    lines = ["    [*] --> preparing: submit, with optimize", "    [*] --> queued: submit"]
    lines += [f"    {one.value} --> {two.value}: {', '.join(names)}" for (one, two), names in arrows.items()]
    lines += [f"    {state.value} --> [*]" for state in ends]
    rows = [f"| {one.value} | {two.value} | {', '.join(names)} |" for (one, two), names in arrows.items()]
    return "\n".join(
        [
            "# The life of a job",
            "",
            "Generated by `make generated` from the table in `services/jobs/anime_jobs/model.py`: every rule",
            "is run, and where it leads is noted. Do not edit.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            *lines,
            "```",
            "",
            "| from | to | when |",
            "|---|---|---|",
            *rows,
            "",
            "Any other message changes no state: it is refused with 409 (a command that comes too late), ignored",
            "(a late fact, or one about an attempt that does not own the job), or an error (our bug).",
            "",
        ]
    )


def main() -> int:
    """Write the page, or check that it is as it would be written."""
    parser = argparse.ArgumentParser(description="State diagram from the transition table")
    parser.add_argument("--check", action="store_true", help="fail when the page is stale")
    wanted = page()
    if parser.parse_args().check:
        if TARGET.is_file() and TARGET.read_text() == wanted:
            return 0
        print(f"{TARGET.name} is stale: run `make generated`", file=sys.stderr)
        return 1
    TARGET.write_text(wanted)
    print(f"wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
