"""Workflows that people bring: what is found in them without help, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_generator.comfyui.importing import import_graph
from anime_generator.comfyui.manifest import Workflow, load_workflow, load_workflows
from tests.comfyui.recordings import scripts

SHIPPED = load_workflows()[0]
REAL: dict[str, Any] = scripts("a_success_cold_full")[0].graph


def loaded(folder: Path, graph: object) -> Workflow:
    """The workflow with the manifest that was found for it."""
    assert isinstance(graph, dict)
    found = import_graph(graph)
    assert found.problems == []
    (folder / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    (folder / "mine.toml").write_text(found.manifest('My "own"'), encoding="utf-8")
    return load_workflow(folder / "mine.toml")


@pytest.mark.parametrize("name", ["text-to-image", "image-to-image"])
def test_of_what_is_shipped_the_same_is_found_as_its_manifest_says(name: str, tmp_path: Path) -> None:
    shipped = SHIPPED[name]
    found = loaded(tmp_path, shipped.graph)
    assert (found.fields, found.outputs, found.loader) == (shipped.fields, shipped.outputs, shipped.loader)
    assert found.title == 'My "own"'


def test_of_two_samplers_the_first_takes_the_settings_and_both_the_seed(tmp_path: Path) -> None:
    found = loaded(tmp_path, SHIPPED["hires"].graph)
    assert [place.node for place in found.fields["seed"]] == ["3", "16"]
    assert [place.node for place in found.fields["steps"]] == ["3"]
    assert "hires" not in found.honours
    assert import_graph(SHIPPED["hires"].graph).notes == [
        "the samplers 16 draw again after 3: they get the seed, and keep their settings"
    ]


def test_what_a_real_server_exported_is_understood(tmp_path: Path) -> None:
    assert loaded(tmp_path, REAL).honours >= {"model", "prompt", "negative_prompt", "width", "seed", "loras"}


def test_a_lora_of_the_workflows_own_stays_and_is_said(tmp_path: Path) -> None:
    lora = {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["4", 0], "clip": ["4", 1]}}
    sampler = {**REAL["3"], "inputs": {**REAL["3"]["inputs"], "model": ["20", 0]}}
    graph = {**REAL, "3": sampler, "20": lora}
    assert import_graph(graph).notes == ["node 20 applies a LoRA of the workflow's own, whatever a job asks for"]
    assert loaded(tmp_path, graph).loader == "4"


def test_what_cannot_be_mapped_is_said() -> None:
    nothing = import_graph({"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}})
    assert nothing.problems == [
        "no node of it writes files under a prefix: add a SaveImage node",
    ]
    assert nothing.notes[0].startswith("there is no sampler among its nodes")
    bare = import_graph({"3": {"class_type": "KSampler", "inputs": {"steps": 8}}, "9": REAL["9"]})
    assert bare.problems == ["prompt: no input was found that takes it", "seed: no input was found that takes it"]
    bare.say("prompt", "7.text")
    bare.say("seed", "3.seed, 4.seed")
    assert bare.problems == []
    assert bare.fields["seed"] == ["3.seed", "4.seed"]
    same = {**REAL, "3": {**REAL["3"], "inputs": {**REAL["3"]["inputs"], "negative": ["6", 0]}}}
    assert import_graph(same).notes[0].startswith("prompt and negative prompt come from one node")


PARTS: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["8", 0]}},
    "3": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["2", 0]}},
    "4": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["3", 0]}},
    "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
    "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "7": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 20, "model": ["1", 0]}},
    "8": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b"}},
    "10": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 768}},
    "11": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["5", 0],
            "guider": ["4", 0],
            "sampler": ["6", 0],
            "sigmas": ["7", 0],
            "latent_image": ["10", 0],
        },
    },
    "12": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["12", 0]}},
}


def test_a_sampler_that_is_made_up_of_parts_is_understood(tmp_path: Path) -> None:
    found = import_graph(PARTS)
    assert found.problems == []
    assert found.fields == {
        "steps": ["7.steps"],
        "guidance": ["3.guidance"],
        "sampler": ["6.sampler_name"],
        "scheduler": ["7.scheduler"],
        "seed": ["5.noise_seed"],
        "prompt": ["2.text"],
        "width": ["10.width"],
        "height": ["10.height"],
        "file_prefix": ["9.filename_prefix"],
    }
    assert found.upscale == "9.images"
    assert "negative_prompt" not in loaded(tmp_path, PARTS).honours


NODES = st.dictionaries(
    st.sampled_from("123456"),
    st.builds(
        lambda kind, links: {"class_type": kind, "inputs": links},
        st.sampled_from(["KSampler", "CLIPTextEncode", "LoadImage", "CheckpointLoaderSimple", "SaveImage", "Odd"]),
        st.dictionaries(
            st.sampled_from(["model", "positive", "negative", "latent_image", "text", "filename_prefix", "seed"]),
            st.tuples(st.sampled_from("1234567"), st.integers(0, 2)).map(list) | st.text(max_size=3) | st.none(),
        ),
    ),
    min_size=1,
)


@given(NODES)
def test_no_workflow_is_too_strange(graph: dict[str, Any]) -> None:
    found = import_graph(graph)
    assert found.manifest("x")
