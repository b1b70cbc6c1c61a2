"""Pipelines that are run as a whole: what the registry tells of their folders, and how the engine draws with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase, Sampler
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions
from anime_generator.registry import ModelSpec, RegistryError
from anime_generator.registry.check import inspect
from anime_generator.registry.family import WHOLE
from anime_generator.simulated import Simulated
from tests.generator.builders import Told, copy_of_sprite, offered
from tests.generator.whole_pipelines import FAMILIES, only_sentencepiece, registered, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),  # Chroma's own import
]


@pytest.fixture(scope="module", params=list(FAMILIES))
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("whole")
    tiny(request.param, folder / "model")
    found = registered(folder)
    assert found.family == request.param
    return found


@pytest.fixture(scope="module")
def engine(spec: ModelSpec) -> Engine:
    engine = open_engine(spec.engine, Simulated("card", 4 << 30), EngineOptions())
    engine.load(spec, warm_up=True)
    return engine


def told(engine: Engine, spec: ModelSpec, *jobs: OfferedJob) -> Told:
    heard = Told()
    engine.generate(spec, jobs, heard, heard)
    return heard


def job(**changes: Any) -> OfferedJob:
    usual: dict[str, Any] = {"model": "big", "width": 64, "height": 64, "steps": 4, "negative_prompt": ""}
    return offered(**usual | changes)


def pixels(heard: Told, which: int = 0) -> NDArray[np.int64]:
    return np.asarray(heard.drawn[which].image, dtype=np.int64)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # Kolors' own import
def test_every_pipeline_that_is_known_is_one_of_the_library_and_is_drawn_with_here() -> None:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING  # imports all there are

    assert WHOLE.keys() <= {each.__name__ for each in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    assert set(WHOLE.values()) == FAMILIES.keys()


def test_its_folder_tells_engine_sampler_and_size(spec: ModelSpec, engine: Engine) -> None:
    sampler = Sampler.DPMPP_2M if spec.family.startswith("pixart") else Sampler.EULER
    assert (spec.engine, spec.samplers, spec.sizes.multiple) == ("auto", (sampler,), 16)
    assert spec.size > 1 << 17
    info = engine.describe(spec)
    assert info.samplers == (info.sampler,) == spec.samplers
    assert not {"loras", "init_image", "hires", "clip_skip"} & set(info.fields)


def test_it_draws_what_was_asked_for_and_tells_of_it_in_order(spec: ModelSpec, engine: Engine) -> None:
    heard = told(engine, spec, job(height=96, count=2, seed=40))
    assert heard.phases == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]
    assert heard.steps == [1, 2, 3, 4]
    assert [(each.picture.index, each.picture.seed) for each in heard.drawn] == [(0, 40), (1, 41)]
    assert {each.image.size for each in heard.drawn} == {(64, 96)}
    assert heard.warnings == []


def test_prompt_guidance_and_seed_count(spec: ModelSpec, engine: Engine) -> None:
    usual = told(engine, spec, job(prompt="a b", seed=5))
    assert np.array_equal(pixels(usual), pixels(told(engine, spec, job(prompt="a b", seed=5))))
    for changes in ({"prompt": "c d"}, {"guidance": 9.0}, {"seed": 6}):
        other = told(engine, spec, job(**{"prompt": "a b", "seed": 5} | changes))
        assert not np.array_equal(pixels(usual), pixels(other)), changes


def test_a_negative_prompt_counts_or_is_said_to_have_no_effect(spec: ModelSpec, engine: Engine) -> None:
    plain, without = told(engine, spec, job(prompt="a")), told(engine, spec, job(prompt="a", negative_prompt="z y"))
    if spec.family == "flux":
        (warning,) = without.warnings
        assert warning.text == "negative_prompt: has no effect with big"
        assert np.array_equal(pixels(plain), pixels(without))
    else:
        assert without.warnings == []
        assert not np.array_equal(pixels(plain), pixels(without))


def test_the_scheduler_is_as_it_was_after_a_cancel(spec: ModelSpec, engine: Engine) -> None:
    before = told(engine, spec, job(seed=2))
    victim = job(seed=2)
    heard = Told(cancel_on=(2,), victims=(victim.attempt_id,))
    engine.generate(spec, [victim], heard, heard)
    assert (heard.steps, heard.drawn) == ([1, 2], [])
    again = told(engine, spec, job(seed=2))
    assert np.array_equal(pixels(before), pixels(again))
    assert again.phases == before.phases


def test_what_a_folder_tells_to_people(tmp_path: Path) -> None:
    report = inspect(tiny("sd3", tmp_path / "model"))
    assert (report["family"], report["problems"]) == ("sd3", [])
    assert report["entry"]["defaults"] == {
        "width": 1024,
        "height": 1024,
        "steps": 28,
        "guidance": 4.5,
        "sampler": "euler",
    }


@pytest.mark.parametrize(
    ("more", "defaults", "problem"),
    [
        ("", 'sampler = "ddim"', "defaults.sampler: the model comes with euler, and takes no other"),
        ('prediction = "epsilon"', "", "prediction: models of the family sd3 do not take it"),
        (
            "sizes = { multiple = 8 }",
            "",
            "sizes.multiple: models of the family sd3 draw multiples of 16 pixels, not of 8",
        ),
        ("options = { compile = true }", "", "options: models of the family sd3 do not take it"),
        ('family = "sdxl"', "", "family: the file is of the family sd3, not sdxl"),
    ],
)
def test_settings_that_it_would_not_heed_are_mistakes(tmp_path: Path, more: str, defaults: str, problem: str) -> None:
    tiny("sd3", tmp_path / "model")
    with pytest.raises(RegistryError) as caught:
        registered(tmp_path, more, defaults)
    assert caught.value.problems == [f"{tmp_path / 'models.toml'}: models.big.{problem}"]


def test_code_that_came_with_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = tiny("sd3", tmp_path / "model")
    spec = registered(tmp_path)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["transformer"] = ["strange_code", "SD3Transformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(RegistryError, match=r"models\.big\.source: transformer would run code that came with the"):
        registered(tmp_path)
    with pytest.raises(EngineError, match="transformer would run code that came with the checkpoint: refused"):
        open_engine("auto", Simulated("card", 4 << 30), EngineOptions()).load(spec)


def test_a_part_of_a_class_that_there_is_not_is_no_crash(tmp_path: Path) -> None:
    folder = tiny("sd3", tmp_path / "model")
    spec = registered(tmp_path)
    file = folder / "model_index.json"
    file.write_text(file.read_text(encoding="utf-8").replace("SD3Transformer2DModel", "NoSuchModel"), encoding="utf-8")
    with pytest.raises(EngineError, match="NoSuchModel") as caught:
        open_engine("auto", Simulated("card", 4 << 30), EngineOptions()).load(spec)
    assert caught.value.code == "model_unusable"


def test_a_scheduler_without_a_name_here_is_refused(tmp_path: Path) -> None:
    folder = tiny("sd3", tmp_path / "model")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("FlowMatchEuler", "FlowMatchHeun"), encoding="utf-8")
    with pytest.raises(RegistryError, match=r"big\.source: .*scheduler_config\.json names no solver that"):
        registered(tmp_path)


def test_weights_in_several_files_and_of_a_variant_are_found(tmp_path: Path) -> None:
    folder = tiny("sd3", tmp_path / "model", shard="60KB")
    whole = registered(tmp_path)
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 1
    engine = open_engine("auto", Simulated("card", 4 << 30), EngineOptions())
    engine.load(whole)
    assert len(told(engine, whole, job()).drawn) == 1


def test_what_will_have_no_effect_is_said(spec: ModelSpec, engine: Engine) -> None:
    (warning,) = told(engine, spec, job(prompt="(a:1.4) b")).warnings
    assert warning.text == "prompt: big does not weigh words: brackets have no effect"
    (warning,) = told(engine, spec, job(prompt="a " * 600)).warnings
    assert warning.text.startswith("prompt: its last ")
    assert warning.text.endswith(" tokens are more than big reads")


def test_the_engine_is_for_folders_that_say_so(tmp_path: Path) -> None:
    copy_of_sprite(tmp_path, "model")
    with pytest.raises(RegistryError) as caught:
        registered(tmp_path, 'engine = "auto"')
    problem = "is for models that are run as a whole; those of family sd are not"
    assert caught.value.problems == [f"{tmp_path / 'models.toml'}: models.big.engine: {problem}"]


def test_it_draws_in_the_precision_of_a_card(spec: ModelSpec) -> None:
    whole = spec.model_copy(update={"precision": "bfloat16"})
    engine = open_engine("auto", Simulated("card", 4 << 30), EngineOptions())
    assert engine.load(whole, warm_up=True) < spec.size * 0.75
    heard = told(engine, whole, job(guidance=3.0))
    assert pixels(heard).std() > 1


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # its own bindings
def test_a_vocabulary_of_sentencepiece_alone_is_read(tmp_path: Path) -> None:
    """Published folders of PixArt have no `tokenizer.json`."""
    folder = tiny("pixart-sigma", tmp_path / "model") / "tokenizer"
    whole, heard = registered(tmp_path), []
    for _ in range(2):
        engine = open_engine("auto", Simulated("card", 4 << 30), EngineOptions())
        engine.load(whole)
        heard.append(pixels(told(engine, whole, job(prompt="a cat"))))
        only_sentencepiece(folder)
    assert np.abs(heard[0] - heard[1]).max() <= 1
