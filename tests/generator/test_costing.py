"""What nodes cost, added up over the pictures of a job."""

from __future__ import annotations

from anime_common.contracts.vocabulary import NodeCost, Work
from anime_generator.costing import MOST, Costs


def cost(node: str, seconds: float, *, cached: bool = False) -> NodeCost:
    return NodeCost(node=node, title=node, kind=Work.SAMPLE, seconds=seconds, cached=cached)


def test_seconds_add_up_and_cached_is_what_always_was() -> None:
    costs = Costs()
    costs.add("flow", [cost("load", 5.0), cost("draw", 1.0), cost("same", 0.0, cached=True)])
    costs.add("flow", [cost("load", 0.0, cached=True), cost("draw", 2.5), cost("same", 0.0, cached=True)])
    assert costs.workflow == "flow"
    assert [(each.node, each.seconds, each.cached) for each in costs.told()] == [
        ("load", 5.0, False),
        ("draw", 3.5, False),
        ("same", 0.0, True),
    ]


def test_another_workflow_begins_anew_and_only_the_dearest_are_told() -> None:
    costs = Costs()
    costs.add("flow", [cost("load", 5.0)])
    costs.add("other", [cost(f"{number:03}", float(number)) for number in range(MOST + 50)])
    assert len(costs.told()) == MOST
    assert (costs.workflow, costs.told()[0].node) == ("other", f"{MOST + 49:03}")


def test_of_an_engine_without_nodes_there_is_nothing() -> None:
    assert (Costs().workflow, Costs().told()) == (None, ())
