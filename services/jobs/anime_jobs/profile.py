"""What attempts spend their time with: shares, medians, and what would help. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from anime_common.contracts.jobs import NodeShare, PhaseShare, Profile
from anime_common.contracts.vocabulary import NodeCost, Phase, Work

SHORTEST = 1.0
"""Seconds of a run below which nothing is worth saying."""
LOADING = 0.2
"""Share of loading from which on it is worth avoiding."""
OFTEN = 0.5
"""Share of the runs that is most of them."""
SLOW_LOAD = 30.0
"""Seconds to load one model, from which on its file is large or its disk is slow."""
DECODING = 0.35
ENCODING = 0.2


@dataclass(frozen=True, slots=True)
class Spent:
    """What one finished attempt spent; seconds a phase, and what nodes cost where the engine has such."""

    engine: str
    model: str
    workflow: str | None = None
    timings: Mapping[Phase, float] = field(default_factory=dict)
    costs: tuple[NodeCost, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.timings.values())


def profile(subject: str, runs: Sequence[Spent]) -> Profile:
    """The profile of some runs, medians where there are several; of none, an empty one."""
    total = median(run.seconds for run in runs) if runs else 0.0
    phases = [_phase(phase, runs, total) for phase in Phase if any(phase in run.timings for run in runs)]
    nodes = sorted(_nodes(runs, total), key=lambda each: (-each.seconds, each.title))
    return Profile(
        subject=subject,
        engine=runs[0].engine if runs else "",
        model=runs[0].model if runs else "",
        workflow=runs[0].workflow if runs else None,
        runs=len(runs),
        seconds=round(total, 3),
        phases=tuple(phases),
        nodes=tuple(nodes),
        hints=tuple(_hints(runs, {each.phase: each for each in phases}, total, nodes)),
    )


def _phase(phase: Phase, runs: Sequence[Spent], total: float) -> PhaseShare:
    seconds = median(run.timings.get(phase, 0.0) for run in runs)
    return PhaseShare(phase=phase, seconds=round(seconds, 3), share=_share(seconds, total))


def _nodes(runs: Sequence[Spent], total: float) -> Iterator[NodeShare]:
    """Nodes of the same kind and title are one, whatever ids workflows give them."""
    found: dict[tuple[Work, str], list[NodeCost]] = {}
    for run in runs:
        for cost in run.costs:
            found.setdefault((cost.kind, cost.title), []).append(cost)
    for (kind, title), costs in found.items():
        ran = [cost.seconds for cost in costs if not cost.cached]
        seconds = median(ran) if ran else 0.0
        cached = sum(cost.cached for cost in costs) / len(costs)
        yield NodeShare(
            title=title, kind=kind, seconds=round(seconds, 3), share=_share(seconds, total), cached=round(cached, 3)
        )


def _hints(
    runs: Sequence[Spent], phases: Mapping[Phase, PhaseShare], total: float, nodes: Iterable[NodeShare]
) -> Iterator[str]:
    """What would help most, each with the figure that says so."""
    if total < SHORTEST:
        return
    share = {phase: each.share for phase, each in phases.items()}
    again = sum(run.timings.get(Phase.LOADING, 0.0) > LOADING * run.seconds for run in runs) / len(runs)
    loading = phases.get(Phase.LOADING)
    if loading is not None and loading.share > LOADING and again > OFTEN:
        text = (
            "the model is loaded again and again: draw jobs of one model one after another, preload it, or free memory"
        )
        yield f"loading takes {loading.share:.0%}: {text}"
    slow = max(
        [each.seconds for each in nodes if each.kind is Work.LOAD] or [loading.seconds if loading else 0.0], default=0.0
    )
    if slow > SLOW_LOAD:
        yield f"one model takes {slow:.0f} s to load: a file in half precision is half as large; is its disk slow?"
    decoding, sampling = share.get(Phase.DECODING, 0.0), share.get(Phase.SAMPLING, 0.0)
    if decoding > DECODING and decoding > sampling / 2:
        yield f"decoding takes {decoding:.0%}: is the VAE on the CPU, or in tiles for want of memory?"
    if share.get(Phase.ENCODING, 0.0) > ENCODING:
        yield f"encoding the prompt takes {share[Phase.ENCODING]:.0%}: is the text encoder on the CPU?"


def _share(seconds: float, total: float) -> float:
    return round(min(seconds / total, 1.0), 4) if total > 0 else 0.0
