"""How checkpoints become pipelines: families, precision, and what is refused. Random weights, never a download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase, Sampler
from anime_generator.device import Cpu
from anime_generator.engines import open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions
from anime_generator.registry import ModelSpec
from anime_generator.registry.files import look
from tests.generator.builders import Told, copy_of_sprite, offered, sprite_spec

pytestmark = [
    pytest.mark.slow,
    # diffusers converts tensors to arrays in a way that numpy 2 deprecates; nothing of ours does.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

SPRITE = sprite_spec()


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = open_engine("diffusers", Cpu("here"), EngineOptions(embedding_cache=200_000))
    yield found
    found.unload("model")


def spec_of(source: Path | None, **changes: Any) -> ModelSpec:
    return SPRITE.model_copy(update={"key": "model", "source": source, "samplers": ()} | changes)


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def job(**changes: Any) -> OfferedJob:
    known: dict[str, Any] = {"model": "model", "width": 128, "height": 128, "steps": 3}
    return offered(**known | changes)


def refusal(engine: Engine, spec: ModelSpec) -> str:
    with pytest.raises(EngineError) as caught:
        engine.load(spec)
    assert (caught.value.code, caught.value.retryable) == ("model_unusable", False)
    return caught.value.message


def test_a_folder_that_names_the_usual_safety_checker_is_taken(engine: Engine, tmp_path: Path) -> None:
    """Published folders of Stable Diffusion 1.5 do; it is of diffusers itself, and it is never loaded."""
    folder = copy_of_sprite(tmp_path)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit_index(folder, safety_checker=checker, feature_extractor=["transformers", "CLIPImageProcessor"])
    assert look(folder).problems == ()
    assert engine.load(spec_of(folder)) > 0


def test_an_sdxl_folder_draws_with_pooled_embeddings(engine: Engine, tmp_path: Path) -> None:
    from tests.generator.checkpoints import tiny_sdxl

    spec = spec_of(tiny_sdxl(tmp_path / "sdxl"), family="sdxl")
    engine.load(spec, warm_up=True)
    told = Told()
    jobs = [job(width=64, height=64, seed=1), job(width=64, height=64, seed=2, prompt="1boy")]
    engine.generate(spec, jobs, told, told)
    assert [drawn.image.size for drawn in told.drawn] == [(64, 64), (64, 64)]
    assert told.phases == [Phase.ENCODING, Phase.SAMPLING, Phase.DECODING]


def test_a_single_file_draws_exactly_as_its_folder_does(engine: Engine, tmp_path: Path) -> None:
    from tests.generator.checkpoints import single_file, tiny_sd

    folder = tiny_sd(tmp_path / "sd")
    file = single_file(folder, tmp_path / "model.safetensors")
    pictures = []
    for spec in (spec_of(folder), spec_of(file, config=folder)):
        engine.load(spec)
        # Mapped weights lie at other addresses in each file, and may round differently there; copies lie alike.
        assert engine.offload("model")
        engine.load(spec)
        told = Told()
        engine.generate(spec, [job(width=64, height=64, sampler=Sampler.EULER)], told, told)
        pictures.append(np.asarray(told.drawn[0].image))
        engine.unload("model")
    assert pictures[0].std() > 1
    assert np.array_equal(pictures[0], pictures[1])


def test_half_precision_draws_nearly_the_same(engine: Engine) -> None:
    pictures = []
    for precision in ("float32", "bfloat16"):
        spec = spec_of(SPRITE.source, precision=precision)
        engine.load(spec)
        told = Told()
        engine.generate(spec, [job(width=64, height=64)], told, told)
        pictures.append(np.asarray(told.drawn[0].image, dtype=float))
        engine.unload("model")
    assert np.abs(pictures[0] - pictures[1]).mean() < 16


@pytest.mark.parametrize("sampler", list(Sampler))
def test_every_sampler_draws_what_was_asked(engine: Engine, sampler: Sampler) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    told = Told()
    engine.generate(
        spec, [job(steps=20, guidance=2.0, sampler=sampler, prompt="1girl, blue hair, white background")], told, told
    )
    red, _, blue = np.moveaxis(np.asarray(told.drawn[0].image, dtype=int), -1, 0)
    assert (blue > red + 60).mean() > 0.15  # the hair


def test_guidance_of_one_needs_no_negative_prompt(engine: Engine) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    plain, other = Told(), Told()
    engine.generate(spec, [job(guidance=1.0, negative_prompt="1girl")], plain, plain)
    engine.generate(spec, [job(guidance=1.0, negative_prompt="")], other, other)
    assert np.array_equal(np.asarray(plain.drawn[0].image), np.asarray(other.drawn[0].image))


def test_a_prompt_beyond_the_window_counts_to_its_end(engine: Engine) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    long = ", ".join(["blue hair"] * 60)
    one, other = Told(), Told()
    engine.generate(spec, [job(prompt=long)], one, one)
    engine.generate(spec, [job(prompt=f"{long}, night sky")], other, other)
    assert not np.array_equal(np.asarray(one.drawn[0].image), np.asarray(other.drawn[0].image))


def test_prompts_of_unequal_length_in_a_batch_are_drawn_as_alone(engine: Engine) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    short, long = job(prompt="1girl"), job(prompt=", ".join(["blue hair"] * 60))
    together = Told()
    engine.generate(spec, [short, long], together, together)
    assert len(together.drawn) == 2
    for each in (short, long):
        alone = Told()
        engine.generate(spec, [each], alone, alone)
        (drawn,) = (found for found in together.drawn if found.picture.attempt_id == each.attempt_id)
        assert np.array_equal(np.asarray(alone.drawn[0].image), np.asarray(drawn.image))


def test_a_weight_counts_and_what_is_not_understood_is_said(engine: Engine) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    plain, weighted, edited = Told(), Told(), Told()
    engine.generate(spec, [job(prompt="1girl, blue hair")], plain, plain)
    engine.generate(spec, [job(prompt="1girl, (blue hair:1.6)")], weighted, weighted)
    assert not np.array_equal(np.asarray(plain.drawn[0].image), np.asarray(weighted.drawn[0].image))
    engine.generate(spec, [job(prompt="1girl, [cat:dog:0.5]", count=2)], edited, edited)
    (warned,) = edited.warnings
    assert "[cat:dog:0.5]" in warned.text


def test_a_model_that_leaves_its_precision_fails_clearly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(SPRITE.source)
    engine.load(spec)
    monkeypatch.setattr("torch.isfinite", lambda latent: latent != latent)  # noqa: PLR0124 - all false
    with pytest.raises(EngineError, match=r"models\.model\.precision") as caught:
        engine.generate(spec, [job()], Told(), Told())
    assert (caught.value.code, caught.value.retryable) == ("not_a_number", False)


class TestRefused:
    def test_pickled_weights(self, engine: Engine, tmp_path: Path) -> None:
        folder = copy_of_sprite(tmp_path)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
            folder / "unet" / "diffusion_pytorch_model.bin"
        )
        assert "safetensors" in refusal(engine, spec_of(folder))

    def test_code_that_lies_beside_the_weights(self, engine: Engine, tmp_path: Path) -> None:
        folder = copy_of_sprite(tmp_path)
        edit_index(folder, unet=["my_unet", "MyUNet"])
        assert "would run code that came with the checkpoint" in refusal(engine, spec_of(folder))

    def test_a_part_of_a_class_that_there_is_not(self, engine: Engine, tmp_path: Path) -> None:
        folder = copy_of_sprite(tmp_path)
        edit_index(folder, unet=["diffusers", "NoSuchModel"])
        assert "NoSuchModel" in refusal(engine, spec_of(folder))

    def test_another_family_than_the_registry_says(self, engine: Engine, tmp_path: Path) -> None:
        assert "is not of family 'sdxl'" in refusal(engine, spec_of(copy_of_sprite(tmp_path), family="sdxl"))

    def test_a_family_we_do_not_know(self, engine: Engine, tmp_path: Path) -> None:
        folder = copy_of_sprite(tmp_path)
        edit_index(folder, _class_name="FluxPipeline")
        assert "FluxPipeline is not of family" in refusal(engine, spec_of(folder))

    def test_a_folder_without_an_index(self, engine: Engine, tmp_path: Path) -> None:
        assert "model_index.json cannot be read" in refusal(engine, spec_of(tmp_path))

    def test_a_single_file_without_its_configuration(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").touch()
        assert "models.model.config is missing" in refusal(engine, spec_of(tmp_path / "model.safetensors"))

    def test_a_torn_file(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"torn")
        assert "cannot be loaded" in refusal(engine, spec_of(tmp_path / "model.safetensors", config=SPRITE.source))


def test_embeddings_are_remembered_within_their_bytes() -> None:
    import torch

    from anime_generator.engines.embeddings import Embedding, EmbeddingCache, EmbeddingKey

    def embedding(numbers: int) -> Embedding:
        return Embedding(torch.zeros(1, numbers, 1), None, 1)

    one, two, three, huge = (EmbeddingKey(*key) for key in (("a", "one"), ("a", "two"), ("b", "three"), ("b", "huge")))
    cache = EmbeddingCache(100)
    cache.put(one, embedding(10))
    cache.put(two, embedding(10))
    assert cache.get(one) is not None  # the most recent now
    cache.put(three, embedding(10))
    assert cache.get(two) is None
    assert cache.get(one) is not None
    cache.put(huge, embedding(50))
    assert cache.get(huge) is None
    assert cache.get(EmbeddingKey("a", "one", adapters="a LoRA at half strength")) is None
    cache.forget("a")
    assert (cache.get(one), cache.size) == (None, 40)
