"""Follows one prompt by what the server sends: phases, steps, previews, and what each node cost. Pure: times come in.

What is heard says how far a prompt is, never how it ended: that stands in the server's history alone. Steps are
counted over all samplers that run, so that a workflow with two of them does not begin anew in its middle, and one
whose result is there already counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from anime_common.contracts.vocabulary import Phase, Work
from anime_generator.comfyui.graph import PHASES, Node
from anime_generator.comfyui.messages import (
    Began,
    Cached,
    Ended,
    Executed,
    Executing,
    Image,
    Message,
    NodeState,
    Progressed,
    States,
    Waiting,
)

FINISHED = "finished"
RUNNING = "running"
COUNTED = frozenset({Work.SAMPLE, Work.OTHER})
"""Nodes whose steps are denoising steps, as far as a name tells: those of extensions may sample as well."""


@dataclass(frozen=True, slots=True)
class InPhase:
    """The prompt is in this phase now."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Step:
    """So many steps of so many are done, over all samplers."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in work."""

    image: Image


@dataclass(frozen=True, slots=True)
class SaidEnd:
    """The server says that the prompt is over; its history says how."""


Told = InPhase | Step | Shown | SaidEnd


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node cost: seconds that it ran, none of them when its result was there already."""

    node: Node
    seconds: float
    cached: bool = False


class Tracker:
    """One prompt: hears every message of the connection, tells what concerns this prompt."""

    def __init__(self, prompt_id: str, nodes: Mapping[str, Node]) -> None:
        self.prompt_id = prompt_id
        self._nodes = nodes
        self._running = False
        self._cached: frozenset[str] = frozenset()
        self._steps: dict[str, tuple[float, float]] = {}
        self._told = (0, 0)
        self._phase: Phase | None = None
        self._states = False
        self._since: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        self.advanced = 0

    @property
    def running(self) -> bool:
        """Whether the prompt has left the queue, as far as was heard."""
        return self._running

    @property
    def node(self) -> Node | None:
        """The node that works now, the latest that began."""
        return self._known(next(reversed(self._since), None))

    def left_queue(self) -> None:
        """The queue itself says that the prompt runs: what comes without a name is about it."""
        self._running = True

    def hear(self, message: Message, now: float) -> tuple[Told, ...]:
        """What a message says of this prompt; `now` in seconds."""
        if isinstance(message, Waiting) or not self._concerns(message):
            return ()
        told = tuple(self._hear(message, now))
        self.advanced += 1
        return told

    def costs(self, now: float, cached: Iterable[str] = ()) -> tuple[Cost, ...]:
        """What every node cost until now, the dearest first; `cached` are nodes that the history says were there."""
        seconds = dict(self._costs)
        for node, since in self._since.items():
            seconds[node] = seconds.get(node, 0.0) + max(now - since, 0.0)
        skipped = self._cached.union(cached) - seconds.keys()
        found = [Cost(self._nodes[node], spent) for node, spent in seconds.items() if node in self._nodes]
        found.sort(key=lambda cost: -cost.seconds)
        return (*found, *(Cost(self._nodes[node], 0.0, cached=True) for node in sorted(skipped & self._nodes.keys())))

    def _concerns(self, message: Message) -> bool:
        prompt_id = getattr(message, "prompt_id", None)
        return prompt_id == self.prompt_id or (prompt_id is None and self._running)

    def _hear(self, message: Message, now: float) -> Iterator[Told]:
        if isinstance(message, Image):
            if self.node is None or self.node.work is not Work.SAVE:  # those send the finished picture
                yield Shown(message)
            return
        self._running = True
        if isinstance(message, Cached):
            self._cached |= message.nodes
        elif isinstance(message, States):
            yield from self._hear_states(message.nodes, now)
        elif isinstance(message, Progressed):
            if message.node is not None:
                yield from self._stepped(message.node, message.value, message.maximum)
        elif isinstance(message, Executing):
            yield from self._executing(message.node, now)
        elif isinstance(message, Ended):
            self._close(tuple(self._since), now)
        else:
            assert isinstance(message, Began | Executed)

    def _hear_states(self, states: tuple[NodeState, ...], now: float) -> Iterator[Told]:
        self._states = True
        for state in states:
            if state.state == FINISHED:
                self._close((state.node,), now)
            elif state.state == RUNNING:
                yield from self._open(state.node, now)
            if state.state == RUNNING or state.maximum > 1:
                yield from self._stepped(state.node, state.value, state.maximum)

    def _executing(self, node: str | None, now: float) -> Iterator[Told]:
        if node is None:
            self._close(tuple(self._since), now)
            yield SaidEnd()
            return
        if not self._states:  # older servers say only what begins
            self._close(tuple(each for each in self._since if each != node), now)
        yield from self._open(node, now)

    def _open(self, node: str, now: float) -> Iterator[Told]:
        self._cached -= {node}
        if node in self._since:
            return
        self._since[node] = now
        known = self._known(node)
        phase = PHASES.get(known.work) if known is not None else None
        if phase is not None and phase is not self._phase:
            self._phase = phase
            yield InPhase(phase)

    def _close(self, nodes: tuple[str, ...], now: float) -> None:
        for node in nodes:
            if (since := self._since.pop(node, None)) is not None:
                self._costs[node] = self._costs.get(node, 0.0) + max(now - since, 0.0)

    def _stepped(self, node: str, value: float, maximum: float) -> Iterator[Told]:
        known = self._known(node)
        if known is None or known.work not in COUNTED or (known.work is Work.OTHER and maximum <= 1):
            return
        before = self._steps.get(node, (0.0, 0.0))
        self._steps[node] = (max(before[0], min(value, maximum)), maximum)
        told = self._counted()
        if told[0] > self._told[0]:
            self._told = told
            if self._phase is not Phase.SAMPLING:
                self._phase = Phase.SAMPLING
                yield InPhase(Phase.SAMPLING)
            yield Step(*told)

    def _counted(self) -> tuple[int, int]:
        """Steps done, and steps in all: those of samplers that have not begun are what the workflow says."""
        steps = sum(maximum for _, maximum in self._steps.values())
        for node in self._nodes.values():
            if node.work is Work.SAMPLE and node.id not in self._steps and node.id not in self._cached:
                steps += node.steps or 1
        return int(sum(value for value, _ in self._steps.values())), max(int(steps), 1)

    def _known(self, node: str | None) -> Node | None:
        """A node of the workflow; those that a node makes of itself while it runs are named after it."""
        if node is None:
            return None
        return self._nodes.get(node) or self._nodes.get(node.partition(":")[0]) or self._nodes.get(node.split(".")[0])
