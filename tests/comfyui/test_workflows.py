"""Workflows and their manifests: what is shipped, what is wrong with others, and how a request goes into one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anime_common.contracts.generation import HiresPass, Settings, Upscaling
from anime_common.contracts.vocabulary import LoraUse, Sampler
from anime_common.messages import uuid7
from anime_generator.comfyui.binding import SAMPLERS, Files, Shot, bind, unheeded
from anime_generator.comfyui.choosing import ROLES, UPSCALE
from anime_generator.comfyui.manifest import TAKEN, Workflow, WorkflowError, load_workflow, load_workflows, read_graph
from anime_generator.engines.protocol import EngineError
from tests import builders
from tests.comfyui.recordings import classes, scripts

SHIPPED = load_workflows()[0]
PICTURE = uuid7()
LORAS = {"ink": "ink.safetensors", "soft": "sub/soft.safetensors"}
FILES = Files("anime.safetensors", LORAS, {"sharp": "x4/Sharp.pth"}, {"init_image": "in.png", "mask": "cover.png"})
AGAIN = HiresPass(width=1024, height=1536, steps=12, strength=0.45, upscaler="lanczos")
SHOT = Shot(7, "tower/a/0", (1024, 1536))
GRAPH: dict[str, Any] = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["2", 1]}, "_meta": {"title": "Words"}},
    "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 1}, "_meta": {"title": "Twice"}},
    "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}, "_meta": {"title": "Twice"}},
}
GOOD = """
outputs = ["4"]
[fields]
prompt = "Words.text"
seed = ["3.seed"]
file_prefix = "4.filename_prefix"
"""


def settings(**changes: object) -> Settings:
    usual: dict[str, object] = {"prompt": "1girl", "negative_prompt": "blurry", "sampler": Sampler.EULER_A}
    return builders.settings(**usual).model_copy(update=changes)


def bound(workflow: Workflow, files: Files = FILES, shot: Shot = SHOT, **changes: object) -> dict[str, dict[str, Any]]:
    """The inputs of the bound workflow, by the titles of its nodes."""
    graph = bind(workflow, settings(**changes), shot, files)
    return {node["_meta"]["title"]: node["inputs"] for node in graph.values()}


def written(folder: Path, manifest: str = GOOD, graph: object = GRAPH) -> Path:
    (folder / "mine.json").write_text(graph if isinstance(graph, str) else json.dumps(graph), encoding="utf-8")
    (folder / "mine.toml").write_text(manifest, encoding="utf-8")
    return folder / "mine.toml"


def problems(manifest: Path) -> list[str]:
    with pytest.raises(WorkflowError) as caught:
        load_workflow(manifest)
    return caught.value.problems


def test_what_is_shipped_honours_what_its_name_says() -> None:
    usual = {"model", "prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "seed"}
    usual |= {"clip_skip", "loras", "guidance_rescale", "upscale"}
    drawing = {name: workflow for name, workflow in SHIPPED.items() if name in ROLES and name != UPSCALE}
    assert {name: set(workflow.honours) - usual for name, workflow in drawing.items()} == {
        "text-to-image": set(),
        "image-to-image": {"init_image", "strength"},
        "inpaint": {"init_image", "mask", "strength"},
        "hires": {"hires"},
    }
    assert all(usual <= workflow.honours for workflow in drawing.values())
    assert SHIPPED["upscale"].honours == {"init_image", "upscale"}
    assert SHIPPED.keys() - ROLES.keys() == {"animation"}
    assert [name for name, workflow in SHIPPED.items() if not workflow.tested] == ["animation"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_link_of_what_is_shipped_leads_to_a_node(name: str) -> None:
    graph = SHIPPED[name].graph
    for node in graph.values():
        links = [value for value in node["inputs"].values() if isinstance(value, list)]
        assert {link[0] for link in links} <= graph.keys()


def test_every_sampler_is_one_that_the_recorded_server_has() -> None:
    known = classes()["KSampler"]["input"]["required"]
    for sampler, schedule in SAMPLERS.values():
        assert sampler in known["sampler_name"][0]
        assert schedule in known["scheduler"][0]


def test_a_request_goes_into_the_nodes() -> None:
    found = bound(SHIPPED["text-to-image"], width=512, height=768, steps=30, guidance=5.5, clip_skip=2)
    assert found["Prompt"]["text"] == "1girl"
    assert found["Negative prompt"]["text"] == "blurry"
    assert (found["Empty latent"]["width"], found["Empty latent"]["height"]) == (512, 768)
    assert found["Checkpoint"]["ckpt_name"] == "anime.safetensors"
    assert found["CLIP layer"]["stop_at_clip_layer"] == -2
    sampler = found["Sampler"]
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (7, 30, 5.5)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("euler_ancestral", "normal")
    assert found["Save"]["filename_prefix"] == "tower/a/0"


def test_a_second_pass_takes_its_own_settings() -> None:
    found = bound(SHIPPED["hires"], hires=AGAIN)
    assert (found["Enlarge"]["width"], found["Enlarge"]["height"]) == (1024, 1536)
    assert (found["Sampler again"]["steps"], found["Sampler again"]["denoise"]) == (5, 0.45)
    assert found["Sampler"]["denoise"] == 1.0
    assert found["Sampler again"]["seed"] == 7


def test_an_uploaded_picture_is_named_as_the_server_calls_it() -> None:
    found = bound(SHIPPED["image-to-image"], init_image=PICTURE, strength=0.3, steps=20)
    assert (found["Picture"]["image"], found["Sampler"]["denoise"]) == ("in.png", 0.3)
    # Of a schedule of twenty steps the last six: ComfyUI is told how many it makes.
    assert found["Sampler"]["steps"] == 6


def test_loras_are_chained_between_the_loader_and_whoever_uses_it() -> None:
    uses = (LoraUse(key="ink", weight=0.8), LoraUse(key="soft", weight=-0.5))
    found = bound(SHIPPED["text-to-image"], loras=uses)
    first, second = found["LoRA 1"], found["LoRA 2"]
    assert (first["lora_name"], first["strength_model"], first["strength_clip"]) == ("ink.safetensors", 0.8, 0.8)
    assert (first["model"], first["clip"]) == (["4", 0], ["4", 1])
    assert (second["lora_name"], second["model"]) == ("sub/soft.safetensors", ["lora-1", 0])
    assert found["Sampler"]["model"] == ["lora-2", 0]
    assert found["Prompt"]["clip"] == found["Negative prompt"]["clip"] == ["lora-2", 1]
    assert found["Decode"]["vae"] == ["4", 2]


def test_clip_skip_is_counted_from_the_layer_that_the_family_takes() -> None:
    assert "CLIP layer" not in bound(SHIPPED["text-to-image"])
    plain = bound(SHIPPED["text-to-image"], clip_skip=2)
    assert plain["CLIP layer"] == {"clip": ["4", 1], "stop_at_clip_layer": -2}
    assert plain["Prompt"]["clip"] == ["clip-layer", 0]
    larger = bound(SHIPPED["text-to-image"], replace(FILES, family="sdxl"), clip_skip=2)
    assert larger["CLIP layer"]["stop_at_clip_layer"] == -3


def test_guidance_is_rescaled_behind_the_loras() -> None:
    found = bound(SHIPPED["hires"], guidance_rescale=0.7, loras=(LoraUse(key="ink", weight=1.0),), hires=AGAIN)
    assert found["Guidance rescale"] == {"model": ["lora-1", 0], "multiplier": 0.7}
    assert found["Sampler"]["model"] == found["Sampler again"]["model"] == ["guidance-rescale", 0]


def test_enlarging_comes_before_what_saves_with_a_model_or_without() -> None:
    plain = bound(SHIPPED["text-to-image"], upscale=Upscaling(factor=2.0, upscaler="bicubic"))
    assert plain["Save"]["images"] == ["upscale-size", 0]
    assert plain["Enlarge to size"] == {
        "image": ["8", 0], "upscale_method": "bicubic", "width": 1024, "height": 1536, "crop": "disabled"
    }  # fmt: skip
    found = bound(SHIPPED["upscale"], init_image=PICTURE, strength=0.0, upscale=Upscaling(factor=2.0, upscaler="sharp"))
    assert found["Upscaler"] == {"model_name": "x4/Sharp.pth"}
    assert found["Enlarge"] == {"upscale_model": ["upscale-model", 0], "image": ["11", 0]}
    assert found["Enlarge to size"]["image"] == ["upscale", 0]
    with pytest.raises(EngineError, match=r"upscale\.upscaler: there is no 'soft'; known: sharp, lanczos, bicubic"):
        bound(SHIPPED["text-to-image"], upscale=Upscaling(factor=2.0, upscaler="soft"))


def test_a_model_may_enlarge_between_two_passes() -> None:
    found = bound(SHIPPED["hires"], hires=AGAIN.model_copy(update={"upscaler": "sharp"}))
    enlarged = [node for node in found.values() if node.get("upscale_model") == ["hires-upscale-model", 0]]
    assert [node["image"] for node in enlarged] == [["8", 0]]
    assert found["Encode again"]["pixels"] == ["14", 0]


def test_where_memory_is_short_it_is_decoded_in_tiles() -> None:
    graph = bind(SHIPPED["hires"], settings(hires=AGAIN), replace(SHOT, economical=True), FILES)
    assert [node["class_type"] for node in graph.values() if "Decode" in node["class_type"]] == ["VAEDecodeTiled"] * 2


def test_a_mask_is_named_as_the_server_calls_it() -> None:
    found = bound(SHIPPED["inpaint"], init_image=PICTURE, mask=PICTURE, strength=0.5)
    assert (found["Picture"]["image"], found["Mask"]["image"]) == ("in.png", "cover.png")


def test_a_checkpoint_of_the_workflows_own_stays() -> None:
    found = bound(SHIPPED["text-to-image"], replace(FILES, model=None))
    assert found["Checkpoint"]["ckpt_name"] == SHIPPED["text-to-image"].value("model")


def test_the_workflow_itself_stays_as_it_is() -> None:
    before = json.dumps(SHIPPED["hires"].graph)
    bound(SHIPPED["hires"], loras=(LoraUse(key="ink", weight=1.0),))
    assert json.dumps(SHIPPED["hires"].graph) == before


def test_what_it_does_not_take_is_refused_not_ignored() -> None:
    workflow = SHIPPED["text-to-image"]
    wanted = settings(init_image=PICTURE, strength=0.5, mask=PICTURE)
    assert unheeded(workflow, wanted) == ["init_image", "mask", "strength"]
    with pytest.raises(EngineError, match="init_image, mask, strength: the workflow text-to-image does not"):
        bind(workflow, wanted, SHOT, FILES)
    with pytest.raises(EngineError, match="sampler: ComfyUI has no tcd of its own"):
        bound(workflow, sampler=Sampler.TCD)


def test_every_sampler_but_one_has_a_name_there() -> None:
    assert set(Sampler) - SAMPLERS.keys() == {Sampler.TCD}


def test_a_workflow_of_ones_own_is_laid_over_those_that_are_shipped(tmp_path: Path) -> None:
    written(tmp_path)
    found, wrong = load_workflows(tmp_path)
    assert wrong == ()
    assert found.keys() == SHIPPED.keys() | {"mine"}
    assert found["mine"].honours == {"prompt", "seed"}
    assert found["mine"].title == "mine"


def test_what_was_exported_from_a_real_server_is_read() -> None:
    assert read_graph(json.dumps(scripts("a_success_cold_full")[0].graph))["3"]["class_type"] == "KSampler"


@pytest.mark.parametrize(
    ("manifest", "graph", "says"),
    [
        (GOOD.replace("Words.text", "Word.text"), GRAPH, "fields.prompt: no node has the id or title 'Word'"),
        (GOOD.replace("Words.text", "Words.clip"), GRAPH, "fields.prompt: the input 'clip' of node Words is linked to"),
        (GOOD.replace("Words.text", "Words.txt"), GRAPH, "fields.prompt: node Words has no input 'txt'; it has text"),
        (GOOD.replace("Words.text", "Words"), GRAPH, "fields.prompt: 'Words' is not of the form node.input"),
        (GOOD.replace('"4"', '"Twice"', 1), GRAPH, "outputs: 2 nodes have the id or title 'Twice'"),
        (GOOD.replace("seed = ", "seeds = "), GRAPH, "fields.seeds: there is no such field; known: model, prompt"),
        (GOOD.replace("seed = ", "seeds = "), GRAPH, "fields.seed: is missing, and needed"),
        (GOOD.replace("outputs", "output"), GRAPH, "outputs: Field required"),
        (GOOD + 'speed = "3.seed"', GRAPH, "fields.speed: there is no such field"),
        (GOOD, {"nodes": [], "links": []}, "is in the editor's own format: in ComfyUI choose Workflow, Export (API)"),
        (GOOD, [], "is no workflow in the API format"),
        (GOOD, {"1": {"inputs": {}}}, "node 1: has no class_type"),
        (GOOD, {"1": {"class_type": "A", "inputs": []}}, "node 1: its inputs are no object"),
        (GOOD, "{", "is no JSON"),
        ("[fields", GRAPH, ""),
    ],
)
def test_mistakes_are_told_by_their_key(tmp_path: Path, manifest: str, graph: object, says: str) -> None:
    assert any(problem.startswith(says) for problem in problems(written(tmp_path, manifest, graph)))


def test_a_manifest_without_its_workflow_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD, encoding="utf-8")
    assert "mine.json" in problems(tmp_path / "mine.toml")[0]


def test_every_field_that_may_be_named_is_one_of_a_request() -> None:
    ours = set(Settings.model_fields) | {f"hires.{name}" for name in HiresPass.model_fields}
    assert set(TAKEN) - ours == {"scheduler", "file_prefix"}
