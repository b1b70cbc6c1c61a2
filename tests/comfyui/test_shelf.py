"""What a server has, as the registry of its worker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anime_common.contracts.vocabulary import Sampler
from anime_generator.comfyui.manifest import load_workflows
from anime_generator.comfyui.servers import CheckpointEntry, LoraFileEntry, Servers
from anime_generator.comfyui.shelf import Found, Stock, keys_for, stock, upscalers_for
from anime_generator.registry.entries import Defaults
from tests.comfyui.painter_nodes import classes

SHIPPED = load_workflows()[0]
CLASSES = classes({"checkpoints": ["sd15_random.safetensors"]})
PLAIN = Servers({}, {}, {})
UNKNOWN = "their kind cannot be told: drawn at 512 x 512 unless asked otherwise; say their family or defaults"
KNOWN = Servers({}, {"anything.safetensors": CheckpointEntry(family="sd15")}, {})


def made(found: Found | None = None, servers: Servers = PLAIN, workflows: Any = SHIPPED, **changes: Any) -> Stock:
    usual = Found(checkpoints=("anything.safetensors",), classes=CLASSES)
    return stock(servers, replace(found or usual, **changes), workflows)


def own(folder: Path, name: str, graph: dict[str, Any], manifest: str) -> dict[str, Any]:
    (folder / f"{name}.json").write_text(json.dumps(graph))
    (folder / f"{name}.toml").write_text(manifest)
    return load_workflows(folder)[0]


def test_files_are_told_apart_by_their_folders() -> None:
    names = ("xl/Base v1.safetensors", "Base v1.ckpt", "sd\\base V1.safetensors", "base v1.pt", "ねこ.safetensors")
    assert keys_for(names, {"base v1.pt": "mine"}) == {
        "base v1.pt": "mine",
        "Base v1.ckpt": "base-v1",
        "ねこ.safetensors": "model",
        "sd\\base V1.safetensors": "sd-base-v1",
        "xl/Base v1.safetensors": "xl-base-v1",
    }


def test_keys_that_nothing_tells_apart_are_numbered() -> None:
    assert sorted(keys_for(("a b.ckpt", "a+b.ckpt", "a-b.ckpt"), {}).values()) == ["a-b", "a-b-2", "a-b-3"]


def test_upscalers_for_drawings_come_first() -> None:
    assert list(upscalers_for(("4x_Sharp.pth", "RealESRGAN_x4plus_anime_6B.pth"))) == [
        "realesrgan_x4plus_anime_6b",
        "4x_sharp",
    ]


@pytest.mark.parametrize(
    ("name", "texts", "family", "side"),
    [
        ("animagine-xl-4.0.safetensors", {}, "sdxl", 1024),
        ("novel.safetensors", {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, "sdxl", 1024),
        ("my-xl-look.safetensors", {"modelspec.architecture": "stable-diffusion-v1"}, "sd15", 512),
        ("v1-5-pruned-emaonly.safetensors", {}, "sd15", 512),
        ("flux1-dev-fp8.safetensors", {}, "flux", 1024),
    ],
)
def test_the_kind_of_a_checkpoint_is_told_by_its_texts_or_its_name(
    name: str, texts: dict[str, str], family: str, side: int
) -> None:
    found = made(checkpoints=(name,), texts={("checkpoints", name): texts})
    (spec,) = found.registry.models.values()
    assert (spec.family, spec.defaults.width, str(spec.source)) == (family, side, name)
    assert found.warnings == ()


def test_what_cannot_be_told_is_said() -> None:
    found = made(loras=("ink.safetensors",))
    assert found.registry.models["anything"].defaults.width == 512
    assert found.registry.loras == {}
    assert [each.partition(":")[::2] for each in found.warnings] == [
        ("ink.safetensors", " left out, since it cannot be told which models these LoRAs are for: say their family"),
        ("anything.safetensors", f" {UNKNOWN}"),
    ]


def test_the_owner_has_the_last_word() -> None:
    entry = CheckpointEntry(
        key="best", title="Best", family="sdxl", default=True, defaults=Defaults(width=832, height=1216, steps=30)
    )
    lora = LoraFileEntry(key="ink", family="sdxl", weight=0.7, trigger_words=("ink",))
    hidden = CheckpointEntry(enabled=False)
    servers = Servers({}, {"anything.safetensors": entry, "old.ckpt": hidden}, {"ink_v2.safetensors": lora})
    found = made(servers=servers, checkpoints=("anything.safetensors", "old.ckpt"), loras=("ink_v2.safetensors",))
    assert list(found.registry.models) == ["best"]
    spec = found.registry.models["best"]
    assert (spec.defaults.height, spec.title, found.registry.default) == (1216, "Best", "best")
    assert [(each.key, each.weight, str(each.source)) for each in spec.loras] == [("ink", 0.7, "ink_v2.safetensors")]
    assert found.warnings == ()


def test_entries_for_files_that_are_not_there_are_told() -> None:
    servers = Servers({}, {"gone.ckpt": CheckpointEntry(family="sd15")}, {})
    assert "checkpoints: the server has no gone.ckpt" in made(servers=servers).warnings


def test_checkpoints_honour_what_the_workflows_that_can_run_take() -> None:
    spec = made().registry.models["anything"]
    info = spec.info(spec.samplers)
    assert {"prompt", "width", "loras", "init_image", "mask", "strength", "hires", "upscale", "count"} <= set(
        info.fields
    )
    assert "model" not in info.fields
    without = {name: each for name, each in CLASSES.items() if name != "LoadImageMask"}
    fields = made(classes=without).registry.models["anything"].honours
    assert "init_image" in fields
    assert "mask" not in fields
    assert made(classes={}).registry.models == {}


def test_samplers_are_those_that_the_server_knows() -> None:
    known = json.loads(json.dumps(CLASSES))
    known["KSampler"]["input"]["required"]["sampler_name"] = [["euler", "dpmpp_2m"]]
    known["KSampler"]["input"]["required"]["scheduler"] = ["COMBO", {"options": ["normal"]}]
    spec = made(classes=known).registry.models["anything"]
    assert spec.samplers == (Sampler.DPMPP_2M, Sampler.EULER)
    assert spec.defaults.sampler in spec.samplers


GRAPH: dict[str, Any] = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 12,
            "cfg": 5.5,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["1", 0],
            "negative": ["2", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15_random.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 384, "batch_size": 1}},
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
}
MANIFEST = """
title = "Foxes"
outputs = ["9"]
[fields]
prompt = "1.text"
negative_prompt = "2.text"
seed = "3.seed"
steps = "3.steps"
width = "5.width"
height = "5.height"
file_prefix = "9.filename_prefix"
"""


def test_a_workflow_of_ones_own_is_a_model_with_its_values_as_defaults(tmp_path: Path) -> None:
    found = made(servers=KNOWN, workflows=own(tmp_path, "foxes", GRAPH, MANIFEST))
    spec = found.registry.models["foxes"]
    info = spec.info(spec.samplers)
    assert (info.width, info.height, info.steps, info.sampler) == (640, 384, 12, Sampler.EULER_A)
    assert (info.negative_prompt, info.samplers, spec.workflow) == ("blurry", (Sampler.EULER_A,), "foxes")
    assert set(info.fields) == {"prompt", "negative_prompt", "seed", "steps", "width", "height", "count"}
    assert found.warnings == ()


def test_a_workflow_that_the_server_cannot_run_is_left_out_and_told(tmp_path: Path) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["4"]["inputs"]["ckpt_name"] = "gone.safetensors"
    found = made(servers=KNOWN, workflows=own(tmp_path, "foxes", graph, MANIFEST))
    assert "foxes" not in found.registry.models
    (warning,) = found.warnings
    assert warning.startswith("the workflow foxes is left out: node 4")
    assert "the server has no 'gone.safetensors'; it has" in warning


def test_names_that_models_cannot_have_are_told(tmp_path: Path) -> None:
    found = made(servers=KNOWN, workflows=own(tmp_path, "My Foxes", GRAPH, MANIFEST))
    assert found.warnings == ("the workflow My Foxes is left out: call it my-foxes, as models are called",)
    (tmp_path / "My Foxes.toml").unlink()
    found = made(servers=KNOWN, workflows=own(tmp_path, "anything", GRAPH, MANIFEST))
    assert "the workflow anything is left out: a checkpoint has this name" in found.warnings
