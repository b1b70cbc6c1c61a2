"""What a server sends becomes values, and whatever else comes becomes nothing."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_generator.comfyui.messages import Cached, Ended, Executed, Executing, Image, States, read_binary, read_text
from tests.comfyui.recordings import CASES, frames

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = ["status", "execution_start", "execution_cached", "progress_state", "executing", "progress", "executed"]


@pytest.mark.parametrize("case", CASES)
def test_every_recorded_frame_but_feature_flags_is_understood(case: str) -> None:
    for frame in frames(case):
        if isinstance(frame, bytes):
            image = read_binary(frame)
            assert image is not None
            assert image.data[:3] in {b"\xff\xd8\xff", b"\x89PN"}
        else:
            assert (read_text(frame) is None) == ('"feature_flags"' in frame)


def test_a_reconnect_hears_what_runs_without_its_prompt() -> None:
    assert read_text('{"type": "executing", "data": {"node": "3"}}') == Executing(None, "3")
    assert read_text('{"type": "executing", "data": {"node": null, "prompt_id": "a"}}') == Executing("a", None)


def test_nodes_that_a_node_makes_of_itself_are_shown_under_it() -> None:
    state = {"value": 1, "max": 2, "state": "running", "node_id": "7.0.1", "display_node_id": "7"}
    found = read_text(json.dumps({"type": "progress_state", "data": {"prompt_id": "a", "nodes": {"7.0.1": state}}}))
    assert isinstance(found, States)
    assert found.nodes[0].node == "7"


def test_what_ended_and_what_was_put_out() -> None:
    told = {"prompt_id": "a", "node_id": "4", "exception_message": "no"}
    assert read_text(json.dumps({"type": "execution_error", "data": told})) == Ended("a", "execution_error", told)
    output = {"images": [{"filename": "x.png"}]}
    frame = {"type": "executed", "data": {"prompt_id": "a", "node": "9", "output": output}}
    assert read_text(json.dumps(frame)) == Executed("a", "9", output)
    assert read_text('{"type": "execution_cached", "data": {"prompt_id": "a", "nodes": ["1"]}}') == Cached(
        "a", frozenset({"1"})
    )


def test_images_with_and_without_metadata() -> None:
    assert read_binary(struct.pack(">II", 1, 2) + b"png") == Image(None, None, "image/png", b"png")
    told = json.dumps({"prompt_id": "a", "node_id": "3.0", "display_node_id": "3", "image_type": "image/jpeg"}).encode()
    frame = struct.pack(">II", 4, len(told)) + told + b"jpeg"
    assert read_binary(frame) == Image("a", "3", "image/jpeg", b"jpeg")
    assert read_binary(frame[:20]) is None


@given(st.sampled_from(KINDS), JSON)
def test_no_text_frame_is_too_strange(kind: str, data: object) -> None:
    read_text(json.dumps({"type": kind, "data": data}))
    read_text(json.dumps(data))


@given(st.binary(max_size=64))
def test_no_binary_frame_is_too_strange(frame: bytes) -> None:
    read_binary(frame)
    read_text(frame)
