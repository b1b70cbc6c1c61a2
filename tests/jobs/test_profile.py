"""Where the time goes: shares, medians, and what would help."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import NodeCost, Phase, Work
from anime_jobs.profile import Spent, profile

USUAL = {Phase.LOADING: 0.1, Phase.ENCODING: 0.2, Phase.SAMPLING: 8.0, Phase.DECODING: 1.0, Phase.SAVING: 0.2}


def spent(**seconds: float) -> Spent:
    return Spent("diffusers", "anime", timings=USUAL | {Phase(name): value for name, value in seconds.items()})


def cost(title: str, kind: Work, seconds: float, *, cached: bool = False, node: str = "1") -> NodeCost:
    return NodeCost(node=node, title=title, kind=kind, seconds=seconds, cached=cached)


def drawn(*costs: NodeCost, **more: Any) -> Spent:
    return Spent("comfyui", "anime", "text-to-image", USUAL, costs, **more)


def hints(*runs: Spent) -> tuple[str, ...]:
    return profile("job x", runs).hints


def test_of_one_run_phases_and_nodes_have_their_share() -> None:
    found = profile(
        "job x", [drawn(cost("Sampler", Work.SAMPLE, 7.6), cost("Checkpoint", Work.LOAD, 0.0, cached=True))]
    )
    assert (found.runs, found.engine, found.workflow, found.seconds) == (1, "comfyui", "text-to-image", 9.5)
    assert [each.phase for each in found.phases] == list(USUAL)
    assert sum(each.share for each in found.phases) == pytest.approx(1.0, abs=0.001)
    assert [(each.title, each.share, each.cached) for each in found.nodes] == [
        ("Sampler", 0.8, 0.0),
        ("Checkpoint", 0.0, 1.0),
    ]


def test_of_many_runs_it_is_the_median_and_nodes_count_where_they_ran() -> None:
    runs = [
        drawn(cost("Sampler", Work.SAMPLE, 4.0), cost("Checkpoint", Work.LOAD, 6.0)),
        drawn(cost("Sampler", Work.SAMPLE, 5.0), cost("Checkpoint", Work.LOAD, 0.0, cached=True)),
        drawn(cost("Sampler", Work.SAMPLE, 90.0, node="7"), cost("Checkpoint", Work.LOAD, 0.0, cached=True)),
    ]
    found = profile("workflow text-to-image", runs)
    nodes = {each.title: each for each in found.nodes}
    assert nodes["Sampler"].seconds == 5.0
    assert nodes["Checkpoint"].seconds == 6.0
    assert nodes["Checkpoint"].cached == pytest.approx(0.667)


def test_of_nothing_nothing_is_said() -> None:
    found = profile("model gone", [])
    assert (found.runs, found.phases, found.nodes, found.hints) == (0, (), (), ())


def test_a_usual_run_needs_no_hint() -> None:
    assert hints(spent()) == ()


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (spent(loading=5.0), "loading takes 35%: the model is loaded again and again"),
        (spent(decoding=7.0), "decoding takes 45%: is the VAE on the CPU"),
        (spent(encoding=4.0), "encoding the prompt takes 30%: is the text encoder on the CPU"),
        (drawn(cost("Checkpoint", Work.LOAD, 45.0)), "one model takes 45 s to load: a file in half precision"),
    ],
)
def test_what_would_help_is_said_with_its_figure(run: Spent, says: str) -> None:
    assert any(each.startswith(says) for each in hints(run)), hints(run)


def test_a_model_that_was_loaded_once_is_no_habit() -> None:
    assert not hints(spent(loading=20.0), spent(), spent())
    assert hints(spent(loading=20.0), spent(loading=20.0), spent())


def test_of_what_is_quick_nothing_is_worth_saying() -> None:
    assert hints(Spent("noop", "noop", timings={Phase.LOADING: 0.4, Phase.DECODING: 0.4})) == ()


TIMINGS = st.dictionaries(st.sampled_from(Phase), st.floats(0, 1e5), max_size=6)
COSTS = st.lists(
    st.builds(cost, st.sampled_from("abc"), st.sampled_from(Work), st.floats(0, 1e5), cached=st.booleans()), max_size=5
)


@given(
    st.lists(st.builds(lambda timings, costs: Spent("e", "m", None, timings, tuple(costs)), TIMINGS, COSTS), max_size=5)
)
def test_shares_are_shares(runs: list[Spent]) -> None:
    found = profile("model m", runs)
    assert all(0 <= each.share <= 1 for each in found.phases)
    assert all(0 <= each.share <= 1 for each in found.nodes)
    assert all(0 <= each.cached <= 1 for each in found.nodes)
