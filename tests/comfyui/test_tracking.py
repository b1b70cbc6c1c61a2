"""How far a prompt is by what was heard of it: recorded runs, two samplers, older servers, and any part of a run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_common.contracts.vocabulary import Phase, Work
from anime_generator.comfyui.graph import nodes_of, work_of
from anime_generator.comfyui.messages import (
    Began,
    Cached,
    Executing,
    Image,
    Message,
    NodeState,
    Progressed,
    States,
    read_binary,
    read_text,
)
from anime_generator.comfyui.records import Outcome, Where, ended, find
from anime_generator.comfyui.tracking import InPhase, SaidEnd, Shown, Step, Told, Tracker
from tests.comfyui.recordings import Script, scripts

COLD = scripts("a_success_cold_mini")[0]
TWO: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
    "2": {"class_type": "KSampler", "inputs": {"steps": 20}, "_meta": {"title": "First"}},
    "3": {"class_type": "LatentUpscale", "inputs": {}},
    "4": {"class_type": "KSamplerAdvanced", "inputs": {"steps": 20, "start_at_step": 10, "end_at_step": 10000}},
    "5": {"class_type": "VAEDecode", "inputs": {}},
    "6": {"class_type": "SaveImage", "inputs": {}},
}


def messages(script: Script) -> list[Message]:
    found = [read_binary(frame) if isinstance(frame, bytes) else read_text(frame) for _, frame in script.frames]
    return [each for each in found if each is not None]


def followed(tracker: Tracker, *heard: Message) -> list[Told]:
    return [told for now, message in enumerate(heard) for told in tracker.hear(message, float(now))]


def steps(told: list[Told]) -> list[tuple[int, int]]:
    return [(each.step, each.steps) for each in told if isinstance(each, Step)]


def stepped(node: str, value: int, maximum: int) -> Message:
    return Progressed("p", node, value, maximum)


def test_two_samplers_are_one_count_and_what_begins_late_takes_fewer_steps() -> None:
    tracker = Tracker("p", nodes_of(TWO))
    told = followed(
        tracker,
        Began("p"),
        Executing("p", "2"),
        *(stepped("2", step, 20) for step in range(1, 21)),
        Executing("p", "4"),
        *(stepped("4", step, 10) for step in range(1, 11)),
        Executing("p", None),
    )
    assert steps(told) == [(step, 30) for step in range(1, 31)]
    assert [each.phase for each in told if isinstance(each, InPhase)] == [Phase.SAMPLING]
    assert told[-1] == SaidEnd()


def test_a_sampler_whose_result_is_there_counts_for_nothing() -> None:
    tracker = Tracker("p", nodes_of(TWO))
    told = followed(tracker, Cached("p", frozenset({"1", "2"})), Executing("p", "4"), stepped("4", 1, 10))
    assert steps(told) == [(1, 10)]


def test_older_servers_say_only_what_begins() -> None:
    tracker = Tracker("p", nodes_of(TWO))
    followed(tracker, Executing("p", "1"), Executing("p", "2"), Executing("p", "5"), Executing("p", None))
    assert [(cost.node.id, cost.seconds) for cost in tracker.costs(9.0)] == [("1", 1.0), ("2", 1.0), ("5", 1.0)]


def test_nodes_that_run_side_by_side_cost_each_their_own_time() -> None:
    def states(**state: str) -> Message:
        return States("p", tuple(NodeState(node.strip("n"), each, 0, 1) for node, each in state.items()))

    tracker = Tracker("p", nodes_of(TWO))
    followed(tracker, states(n1="running", n3="running"), states(n1="finished", n3="running"), states(n3="finished"))
    assert {cost.node.id: cost.seconds for cost in tracker.costs(9.0)} == {"1": 1.0, "3": 2.0}


def test_what_concerns_another_prompt_is_not_heard() -> None:
    tracker = Tracker("p", nodes_of(TWO))
    assert followed(tracker, Began("q"), Executing("q", "2"), Progressed("q", "2", 1, 20), Executing(None, "2")) == []
    assert not tracker.running
    image = Image(None, None, "image/jpeg", b"x")
    assert followed(tracker, image) == []
    tracker.left_queue()
    assert followed(tracker, Executing(None, "2"), image) == [InPhase(Phase.SAMPLING), Shown(image)]


@pytest.mark.parametrize(
    ("class_type", "work"),
    [
        ("CheckpointLoaderSimple", Work.LOAD),
        ("LoraLoader", Work.LOAD),
        ("UpscaleModelLoader", Work.LOAD),
        ("LoadImage", Work.OTHER),
        ("CLIPTextEncode", Work.ENCODE),
        ("VAEEncodeForInpaint", Work.ENCODE),
        ("KSampler", Work.SAMPLE),
        ("KSampler (Efficient)", Work.SAMPLE),
        ("SamplerCustomAdvanced", Work.SAMPLE),
        ("KSamplerSelect", Work.OTHER),
        ("VAEDecodeTiled", Work.DECODE),
        ("ImageUpscaleWithModel", Work.UPSCALE),
        ("SaveAnimatedWEBP", Work.SAVE),
        ("VHS_VideoCombine", Work.SAVE),
        ("EmptyLatentImage", Work.OTHER),
    ],
)
def test_nodes_are_told_apart_by_their_names(class_type: str, work: Work) -> None:
    assert work_of(class_type) is work


@given(st.data())
def test_whatever_is_missed_or_comes_twice_progress_never_goes_back(data: st.DataObject) -> None:
    script = data.draw(st.sampled_from([COLD, *scripts("f_interrupt"), *scripts("h_reconnect")]))
    every = messages(script)
    heard = data.draw(st.lists(st.sampled_from(every), max_size=60)) if every else []
    tracker = Tracker(script.prompt_id, nodes_of(script.graph))
    counted = steps(followed(tracker, *heard))
    assert all(before[0] < after[0] for before, after in itertools.pairwise(counted))
    assert all(1 <= step <= most for step, most in counted)
    assert all(cost.seconds >= 0 for cost in tracker.costs(100.0))


def test_where_a_prompt_is() -> None:
    queue = {"queue_running": [[5, "a", {}, {"x": 1}, []]], "queue_pending": [[9, "c", {}, {}, []], [7, "b", {}, {}]]}
    places = {name: find(name, queue, {}) for name in "abcd"}
    assert [(each.where, each.ahead) for each in places.values()] == [
        (Where.RUNNING, 0),
        (Where.PENDING, 1),
        (Where.PENDING, 2),
        (Where.NOWHERE, 0),
    ]
    assert places["a"].extra == {"x": 1}


def test_how_a_prompt_ended_is_told_by_the_messages_in_its_history() -> None:
    outcomes = {
        "success": ended(COLD.history or {}).outcome,
        "failed": ended(scripts("e_execution_error")[0].history or {}).outcome,
        "interrupted": ended(scripts("f_interrupt")[0].history or {}).outcome,
        "nothing known": ended({}).outcome,
    }
    assert list(outcomes.values()) == [Outcome.SUCCESS, Outcome.ERROR, Outcome.INTERRUPTED, Outcome.ERROR]


def test_files_of_every_list_are_found() -> None:
    video = {"filename": "a.mp4", "subfolder": "clips", "type": "output", "format": "video/h264-mp4"}
    outputs = {"9": {"gifs": [video], "animated": [True]}, "8": {"audio": [{"filename": "b.flac"}], "text": ["x"]}}
    found = ended({"outputs": outputs, "status": {"status_str": "success"}}).files
    assert [(each.node, each.kind, each.name, each.subfolder, each.place) for each in found] == [
        ("9", "gifs", "a.mp4", "clips", "output"),
        ("8", "audio", "b.flac", "", "output"),
    ]
