"""Whether a server can run a workflow, by what a real server said of three of its classes and others made up alike."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from anime_generator.comfyui.checking import check
from anime_generator.comfyui.manifest import load_workflows
from tests.comfyui.recordings import classes

WORKFLOW = load_workflows()[0]["text-to-image"]


def info(*outputs: str, **inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": list(outputs)}


CLASSES: dict[str, Any] = classes() | {
    "CLIPSetLastLayer": info("CLIP", clip=["CLIP"], stop_at_clip_layer=["INT", {"min": -24, "max": -1}]),
    "CLIPTextEncode": info("CONDITIONING", text=["STRING", {}], clip=["CLIP"]),
    "VAEDecode": info("IMAGE", samples=["LATENT"], vae=["VAE"]),
    "SaveImage": info(images=["IMAGE"], filename_prefix=["STRING", {}]),
}


def checked(known: dict[str, Any] = CLASSES, **changes: dict[str, Any]) -> list[str]:
    """The problems of the shipped workflow with other inputs in some nodes, by their titles."""
    graph = copy.deepcopy(dict(WORKFLOW.graph))
    for node in graph.values():
        node["inputs"] |= changes.get(node["_meta"]["title"], {})  # type: ignore[index]
    return check(replace(WORKFLOW, graph=graph), known)


def test_what_is_shipped_runs_on_a_server_with_the_core_nodes() -> None:
    assert checked() == []


def test_what_a_request_fills_is_not_looked_at() -> None:
    assert checked(Checkpoint={"ckpt_name": "not-there.safetensors"}, Sampler={"sampler_name": "odd"}) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"Sampler": {"denoise": 2.0}}, "node 3 'Sampler': denoise: must be within 0.0 and 1.0, not 2.0"),
        ({"Sampler": {"denoise": "much"}}, "node 3 'Sampler': denoise: must be a number, not 'much'"),
        ({"Sampler": {"positive": ["5", 0]}}, "node 3 'Sampler': positive: is CONDITIONING, node 5 gives LATENT"),
        ({"Sampler": {"model": ["4", 7]}}, "node 3 'Sampler': model: node 4 has 3 outputs, not one of number 7"),
        (
            {"Sampler": {"model": ["44", 0]}},
            "node 3 'Sampler': model: is linked to ['44', 0], which is no node of the workflow",
        ),
    ],
)
def test_every_problem_names_node_and_input(changes: dict[str, Any], problem: str) -> None:
    assert checked(**changes) == [problem]


def test_missing_nodes_inputs_and_choices_are_named() -> None:
    known = {name: each for name, each in CLASSES.items() if name != "VAEDecode"}
    known["SaveImage"] = info(images=["IMAGE"], filename_prefix=["STRING", {}], quality=["INT", {}])
    known["EmptyLatentImage"] = info("LATENT", batch_size=["COMBO", {"options": [2, 4]}])
    assert sorted(checked(known)) == [
        "node 5 'Empty latent': batch_size: the server has no 1; it has 2, 4",
        "node 8 'Decode': the server has no node class 'VAEDecode': is an extension missing?",
        "node 9 'Save': the input 'quality' is missing",
    ]


def test_a_workflow_that_is_a_model_of_its_own_needs_the_checkpoint_that_it_has() -> None:
    own = replace(WORKFLOW, name="mine")
    (problem,) = check(own, CLASSES)
    assert problem.startswith("node 4 'Checkpoint': ckpt_name: the server has no 'model.safetensors'; it has sd15_")


def test_a_choice_that_brings_inputs_of_its_own_is_chosen_by_its_key() -> None:
    dynamic = {"options": [{"key": 1, "inputs": {"required": {}}}, {"key": 2, "inputs": {}}]}
    known = CLASSES | {"EmptyLatentImage": info("LATENT", batch_size=["COMFY_DYNAMICCOMBO_V3", dynamic])}
    assert checked(known) == []
    dynamic["options"] = dynamic["options"][1:]
    assert checked(known) == ["node 5 'Empty latent': batch_size: the server has no 1; it has 2"]


def test_types_that_fit_everything_fit() -> None:
    known = CLASSES | {"VAEDecode": info("*", samples=["LATENT,IMAGE"], vae=["*"])}
    assert checked(known) == []
