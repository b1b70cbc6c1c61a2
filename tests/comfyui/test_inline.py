"""Workflows that come with a job: what is taken of them, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from anime_common.contracts.generation import MAX_NODES, MAX_WORKFLOW, GenerationRequest, workflow_text
from anime_generator.comfyui import faults
from anime_generator.comfyui.binding import Files, Shot, bind
from anime_generator.comfyui.choosing import choose
from anime_generator.comfyui.inline import USUAL, inline
from anime_generator.comfyui.servers import Remote, Servers
from anime_generator.comfyui.shelf import Found, stock
from anime_generator.engines.protocol import EngineError
from tests import builders
from tests.comfyui.painter_nodes import classes

GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../etc/theirs"}},
}


def changed(**nodes: Any) -> str:
    return workflow_text(GRAPH | nodes)


def refused(text: str, allowed: tuple[str, ...] = ()) -> EngineError:
    with pytest.raises(EngineError) as caught:
        inline(text, allowed)
    assert not caught.value.retryable
    return caught.value


def test_it_is_run_as_it_is_but_for_where_it_writes() -> None:
    found = inline(workflow_text(GRAPH), ())
    assert found.outputs == {"2"}
    bound = bind(found, builders.settings(), Shot(7, "tower/a/00", (64, 32)), Files())
    assert bound["1"] == GRAPH["1"]
    assert bound["2"]["inputs"]["filename_prefix"] == "tower/a/00"


def test_only_classes_on_the_list_are_taken() -> None:
    text = changed(**{"3": {"class_type": "LoadImage", "inputs": {}}, "4": {"class_type": "RunPython", "inputs": {}}})
    error = refused(text)
    assert error.code == faults.NODE_NOT_ALLOWED
    assert "has not allowed LoadImage, RunPython: see inline_nodes" in error.message
    assert refused(text, ("LoadImage",)).message.count("RunPython") == 1
    assert inline(text, ("LoadImage", "RunPython")).outputs == {"2"}
    assert not {name for name in USUAL if name.startswith(("LoadImage", "LoadLatent", "SaveLatent", "Webcam"))}


def test_what_would_write_under_no_prefix_or_a_made_up_one_is_refused() -> None:
    assert "add a SaveImage node" in refused(workflow_text({"1": GRAPH["1"]})).message
    linked = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ["1", 0]}}
    assert "filename_prefix is linked" in refused(changed(**{"2": linked})).message
    assert refused("[1]").code == faults.WORKFLOW_INVALID


def test_it_needs_a_server_whose_owner_switched_it_on() -> None:
    wanted = builders.settings().model_copy(update={"workflow": workflow_text(GRAPH)})
    on, off = (Remote(name="t", url="http://x", inline=inline) for inline in (True, False))
    assert choose({}, "workflow", wanted, on).outputs == {"2"}
    for settings, remote, says in ((wanted, off, "switched"), (builders.settings(), on, "is missing")):
        with pytest.raises(EngineError, match=says):
            choose({}, "workflow", settings, remote)


def test_it_is_announced_where_it_is_switched_on() -> None:
    found = Found(classes=classes({}))
    assert "workflow" not in stock(Servers({}, {}, {}), found, {}).registry.models
    spec = stock(Servers({}, {}, {}), found, {}, inline=True).registry.models["workflow"]
    assert spec.info(spec.samplers).fields == ("prompt", "workflow")


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        ({}, "1 to 500 nodes"),
        ({str(number): GRAPH["1"] for number in range(MAX_NODES + 1)}, "1 to 500 nodes"),
        ({"nodes": []}, "node nodes: must be an object with class_type and inputs"),
        ({"1": {"class_type": 3}}, "node 1: must be an object"),
        ({"1": {"class_type": "A", "inputs": []}}, "node 1: must be an object"),
        ({"1": {"class_type": "A", "inputs": {"text": "x" * MAX_WORKFLOW}}}, "at most 65536 are taken"),
    ],
)
def test_requests_with_something_else_are_refused_by_the_field(workflow: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        GenerationRequest.model_validate({"prompt": "x", "workflow": workflow})
    assert caught.value.errors()[0]["loc"] == ("workflow",)


def test_equal_workflows_are_one_text() -> None:
    turned = json.loads(json.dumps(dict(reversed(GRAPH.items()))))
    assert workflow_text(turned) == workflow_text(GRAPH)
