"""What the nodes of workflows cost, added up over the pictures of an attempt. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from anime_common.contracts.vocabulary import NodeCost

MOST = 200
"""Nodes that are told of; the dearest stay."""


class Costs:
    """The costs of one attempt; `workflow` is what drew it last."""

    def __init__(self) -> None:
        self.workflow: str | None = None
        self._nodes: dict[str, NodeCost] = {}

    def add(self, workflow: str, costs: Iterable[NodeCost]) -> None:
        """One more picture is made; ids of another workflow are other nodes."""
        if workflow != self.workflow:
            self.workflow, self._nodes = workflow, {}
        for cost in costs:
            known = self._nodes.get(cost.node)
            if known is not None:
                seconds = round(known.seconds + cost.seconds, 4)
                cost = cost.model_copy(update={"seconds": seconds, "cached": known.cached and cost.cached})  # noqa: PLW2901
            self._nodes[cost.node] = cost

    def told(self) -> tuple[NodeCost, ...]:
        """The dearest first."""
        return tuple(sorted(self._nodes.values(), key=lambda cost: (-cost.seconds, cost.node))[:MOST])
