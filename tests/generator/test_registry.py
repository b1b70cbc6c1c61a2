from __future__ import annotations

from pathlib import Path

import pytest

from anime_common.contracts.vocabulary import Sampler
from anime_generator.engines import ENGINES
from anime_generator.registry import Registry, RegistryError, load_registry, settings_problem
from tests.generator.builders import settings

NAMES = frozenset(ENGINES)

COUNTERFEIT = """
[models.counterfeit]
engine = "diffusers"
source = "{source}"
family = "sd"
[models.counterfeit.defaults]
width = 512
height = 768
steps = 25
sampler = "dpm++ 2m karras"
"""


def overlay(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    path = overlay(folder, text)
    with pytest.raises(RegistryError) as caught:
        load_registry(path, NAMES)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def load(folder: Path, text: str) -> Registry:
    return load_registry(overlay(folder, text), NAMES)


def test_sprite_is_shipped_and_the_default() -> None:
    registry = load_registry(None, NAMES)
    sprite = registry.models["sprite"]
    assert (registry.default, sprite.default, sprite.preload) == ("sprite", True, True)
    assert sprite.source is not None
    assert (sprite.source / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert [spec.key for spec in registry.preloaded()] == ["sprite"]


def test_the_owners_file_adds_models_and_chooses_the_default(tmp_path: Path) -> None:
    (tmp_path / "counterfeit").mkdir()
    registry = load(tmp_path, 'default = "counterfeit"\n' + COUNTERFEIT.format(source="counterfeit"))
    assert set(registry.models) == {"sprite", "counterfeit"}
    assert registry.models["counterfeit"].source == tmp_path / "counterfeit"
    assert (registry.models["counterfeit"].default, registry.models["sprite"].default) == (True, False)


def test_the_owners_file_changes_single_keys_of_a_shipped_model(tmp_path: Path) -> None:
    registry = load(tmp_path, "[models.sprite.defaults]\nsteps = 20\n")
    assert (registry.models["sprite"].defaults.steps, registry.models["sprite"].defaults.width) == (20, 128)


def test_a_model_can_be_hidden(tmp_path: Path) -> None:
    found = problems(tmp_path, "[models.sprite]\nenabled = false\n")
    assert found == ["default: there is no enabled model 'sprite'; known: none"]


def test_every_mistake_is_told_at_once_by_its_key(tmp_path: Path) -> None:
    text = """
    default = "three"
    speed = 3
    [models.one]
    engine = "warp"
    precisoin = "float16"
    [models.one.defaults]
    width = "wide"
    height = 512
    steps = 25
    [models.two]
    engine = "warp"
    source = "/nowhere"
    defaults = { width = 512, height = 512, steps = 25 }
    """
    found = problems(tmp_path, text)
    assert found[0] == "speed: unknown key; default and models are allowed"
    assert any(line.startswith("models.one.precisoin: ") for line in found)
    assert any(line.startswith("models.one.defaults.width: ") for line in found)
    assert "models.two.engine: there is no engine 'warp'; known: diffusers, noop" in found
    assert "default: there is no enabled model 'three'; known: one, sprite, two" in found
    assert "models.two.source: /nowhere does not exist" in found


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").touch()
    found = problems(tmp_path, COUNTERFEIT.format(source="model.ckpt"))
    assert found == [
        "models.counterfeit.source: model.ckpt is refused: only diffusers folders and .safetensors files load"
    ]


def test_defaults_that_the_model_itself_cannot_do_are_refused(tmp_path: Path) -> None:
    (tmp_path / "counterfeit").mkdir()
    text = COUNTERFEIT.format(source="counterfeit") + "[models.counterfeit.sizes]\nmultiple = 64\nmaximum = 640\n"
    found = problems(tmp_path, text)
    assert found == ["models.counterfeit.defaults.height: counterfeit draws 64 to 640 pixels, not 768"]


def test_a_fallback_must_exist(tmp_path: Path) -> None:
    found = problems(tmp_path, '[models.sprite]\nfallback = "tiny"\n')
    assert found == ["models.sprite.fallback: there is no model 'tiny'"]


@pytest.mark.parametrize(
    ("text", "says"), [("models = [", "not a TOML file"), ("models = 3", "models: must be tables")]
)
def test_what_is_no_registry_is_said_to_be_none(tmp_path: Path, text: str, says: str) -> None:
    assert says in problems(tmp_path, text)[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        load_registry(tmp_path / "absent.toml", NAMES)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"width": 2048}, "width: sprite draws 64 to 256 pixels, not 2048"),
        ({"height": 120}, "height: sprite needs a multiple of 16 pixels, not 120"),
        ({"steps": 101}, "steps: sprite takes 1 to 100, not 101"),
        (
            {"sampler": Sampler.LCM},
            "sampler: sprite has dpm++ 2m, dpm++ 2m karras, euler, euler a, ddim, unipc, not lcm",
        ),
        ({}, None),
    ],
)
def test_settings_beyond_the_model_name_their_field(changes: dict[str, object], problem: str | None) -> None:
    info = load_registry(None, NAMES).models["sprite"].info(tuple(Sampler))
    usual: dict[str, object] = {"model": "sprite", "width": 128, "height": 128}
    assert settings_problem(info, settings(**usual | changes)) == problem
