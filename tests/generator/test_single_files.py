"""Single-file checkpoints of the published layouts: configurations, tokenizers, autoencoders, embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anime_common.contracts.vocabulary import Sampler
from anime_generator.device import Cpu
from anime_generator.engines import ENGINES, open_engine
from anime_generator.engines.protocol import Engine, EngineError, EngineOptions
from anime_generator.registry import CONFIGURATIONS, ModelSpec, load_registry
from tests.generator import published
from tests.generator.builders import Told, offered
from tests.generator.published import SD2, SD15, SDXL, TINY_SD, TINY_XL, Architecture, Shape, layout

pytestmark = [
    pytest.mark.slow,
    # diffusers converts tensors to arrays in a way that numpy 2 deprecates; nothing of ours does.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

TABLES = """
default = "model"
[models.sprite]
enabled = false
[models.model]
source = "model.safetensors"
config = "config"
family = "{family}"
{more}
[models.model.defaults]
width = 64
height = 64
steps = 2
guidance = 5.0
sampler = "euler"
"""


def weights(architecture: Architecture, scale: float = 1.0) -> dict[str, Any]:
    """Random weights of a size at which signals neither die nor explode."""
    import torch

    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    for name, shape in layout(architecture).items():
        if name.endswith("position_ids"):
            found[name] = torch.arange(shape[1])[None]
        elif name.endswith("bias"):
            found[name] = torch.zeros(shape)
        elif len(shape) < 2:
            found[name] = torch.ones(shape)
        else:
            spread = scale / math.sqrt(math.prod(shape[1:]))
            found[name] = torch.randn(shape, generator=generator) * spread
    return found


def model(folder: Path, architecture: Architecture, more: str = "", tables: str = "", **extra: Any) -> ModelSpec:
    """A registry of one tiny single file, read as a service reads it; `extra` are further tensors of the file."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file(weights(architecture) | extra, folder / "model.safetensors")
    published.configuration(architecture, folder / "config")
    family = "sdxl" if architecture.open_clip else "sd"
    (folder / "models.toml").write_text(TABLES.format(family=family, more=more) + tables)
    return load_registry(folder / "models.toml", frozenset(ENGINES)).models["model"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = open_engine("diffusers", Cpu("here"), EngineOptions())
    yield found
    found.unload("model")


def drawn(engine: Engine, spec: ModelSpec, **changes: Any) -> np.ndarray[Any, Any]:
    engine.load(spec)
    told = Told()
    known: dict[str, Any] = {"model": "model", "width": 64, "height": 64, "steps": 2, "sampler": Sampler.EULER}
    engine.generate(spec, [offered(**known | changes)], told, told)
    engine.unload("model")
    return np.asarray(told.drawn[0].image, dtype=float)


@pytest.mark.parametrize("architecture", [TINY_SD, TINY_XL], ids=["sd", "sdxl"])
def test_a_single_file_of_the_published_layout_draws(
    engine: Engine, tmp_path: Path, architecture: Architecture
) -> None:
    spec = model(tmp_path / "one", architecture)
    picture = drawn(engine, spec)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 1
    assert not np.array_equal(picture, drawn(engine, spec, prompt="1boy, red hair"))  # the text reaches the picture


def test_what_a_file_was_trained_for_is_told_by_its_markers_or_by_the_registry(engine: Engine, tmp_path: Path) -> None:
    import torch

    marked = model(tmp_path / "marked", TINY_XL, v_pred=torch.tensor([]), ztsnr=torch.tensor([]))
    plain = model(tmp_path / "plain", TINY_XL)
    said = model(tmp_path / "said", TINY_XL, 'prediction = "v_prediction"\nzero_terminal_snr = true')
    assert (marked.prediction, marked.zero_terminal_snr) == ("v_prediction", True)
    assert (plain.prediction, plain.zero_terminal_snr) == (None, None)
    pictures = [drawn(engine, spec) for spec in (marked, plain, said)]
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_the_registry_decides_how_samplers_are_built(tmp_path: Path) -> None:
    from anime_generator.engines.pipelines import load_pipeline

    spec = model(tmp_path / "said", TINY_SD, 'prediction = "v_prediction"\nzero_terminal_snr = true')
    trained = load_pipeline(spec, Cpu("here")).trained
    assert (trained["prediction_type"], trained["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert trained["timestep_spacing"] == "trailing"


def test_another_autoencoder_changes_the_colours_alone(engine: Engine, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with_own = model(tmp_path / "own", TINY_SD)
    folder = tmp_path / "other"
    folder.mkdir()
    prefix = "first_stage_model."
    other = {name: each for name, each in weights(TINY_SD, scale=1.5).items() if name.startswith(prefix)}
    save_file({name.removeprefix(prefix): each for name, each in other.items()}, folder / "vae.safetensors")
    with_other = model(folder, TINY_SD, 'vae = "vae.safetensors"')
    assert with_other.vae == folder / "vae.safetensors"
    assert with_other.size > with_own.size
    assert not np.array_equal(drawn(engine, with_own), drawn(engine, with_other))


@pytest.mark.parametrize("architecture", [TINY_SD, TINY_XL], ids=["sd", "sdxl"])
def test_clip_skip_takes_an_earlier_layer(engine: Engine, tmp_path: Path, architecture: Architecture) -> None:
    spec = model(tmp_path / "one", architecture, "clip_skip = 2")
    assert spec.info(()).clip_skip == 2
    assert not np.array_equal(drawn(engine, spec, clip_skip=2), drawn(engine, spec, clip_skip=1))


@pytest.mark.parametrize("architecture", [TINY_SD, TINY_XL], ids=["sd", "sdxl"])
def test_a_layer_that_the_encoder_does_not_have_is_refused(
    engine: Engine, tmp_path: Path, architecture: Architecture
) -> None:
    spec = model(tmp_path / "one", architecture)
    with pytest.raises(
        EngineError, match=r"clip_skip: the text encoder has \d+ layers to choose from, not 11"
    ) as raised:
        drawn(engine, spec, clip_skip=11)
    assert (raised.value.code, raised.value.retryable) == ("bad_settings", False)


EMBEDDINGS = """
[embeddings.easy-negative]
source = "embedding.safetensors"
family = "{family}"
"""


class TestEmbeddings:
    @pytest.mark.parametrize("architecture", [TINY_SD, TINY_XL], ids=["sd", "sdxl"])
    def test_their_word_stands_for_their_vectors(
        self, engine: Engine, tmp_path: Path, architecture: Architecture
    ) -> None:
        spec = with_embedding(tmp_path, architecture, vectors=3)
        plain = spec.model_copy(update={"embeddings": ()})
        first, second = (drawn(engine, each, prompt="1girl") for each in (spec, plain))
        assert np.array_equal(first, second)
        called, loudly = (drawn(engine, spec, prompt=f"1girl, {word}") for word in ("easy-negative", "Easy-Negative"))
        assert np.array_equal(called, loudly)
        assert not np.array_equal(called, drawn(engine, plain, prompt="1girl, easy-negative"))

    def test_each_vector_is_a_token_and_other_words_stay(self, tmp_path: Path) -> None:
        import torch

        from anime_generator.engines.pipelines import load_pipeline

        pipe = load_pipeline(with_embedding(tmp_path, TINY_SD, vectors=2), Cpu("here")).pipe
        prompt = pipe.maybe_convert_prompt("a (Easy-Negative:1.2), uneasy-negatives", pipe.tokenizer)
        assert prompt == "a (easy-negative easy-negative_1:1.2), uneasy-negatives"
        ids = pipe.tokenizer("easy-negative easy-negative_1").input_ids[1:-1]
        assert ids == [49408, 49409]
        assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[49409], torch.full((32,), 2.0))

    def test_one_of_another_width_is_refused_by_its_key(self, engine: Engine, tmp_path: Path) -> None:
        spec = with_embedding(tmp_path, TINY_SD, width=48)
        with pytest.raises(
            EngineError, match=r"embeddings\.easy-negative: .* vectors of width 48, the model's have 32"
        ):
            engine.load(spec)


def with_embedding(folder: Path, architecture: Architecture, vectors: int = 1, width: int = 32) -> ModelSpec:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    rows = torch.arange(1.0, vectors + 1)[:, None]
    wide = architecture.open_clip is not None
    tensors = (
        {"clip_l": rows.repeat(1, 32), "clip_g": rows.repeat(1, 64)} if wide else {"emb_params": rows.repeat(1, width)}
    )
    save_file(tensors, folder / "embedding.safetensors")
    family = "sdxl" if wide else "sd"
    return model(folder, architecture, tables=EMBEDDINGS.format(family=family))


def test_the_tokenizer_gives_the_ids_that_clip_was_trained_with() -> None:
    from anime_generator.engines.tokenizers import tokenizers_for

    first, second = tokenizers_for(CONFIGURATIONS / "sdxl").values()
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(first), first.model_max_length) == (49408, 77)
    assert first("a", padding="max_length").input_ids[:4] == [49406, 320, 49407, 49407]
    assert second("a", padding="max_length").input_ids[:4] == [49406, 320, 49407, 0]


def test_a_vocabulary_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from anime_generator import clip_vocabulary

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="pip install --no-deps open_clip_torch"):
        clip_vocabulary._file()


PARAMETERS = {
    # As published: https://huggingface.co/docs/diffusers and the papers' model cards.
    "unet": {"sd15": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684},
    "vae": {"sd15": 83_653_863, "sd2": 83_653_863, "sdxl": 83_653_863},
    "text_encoder": {"sd15": 123_060_480, "sd2": 340_387_840, "sdxl": 123_060_480},
    "text_encoder_2": {"sdxl": 694_659_840},
}


@pytest.mark.parametrize("architecture", [SD15, SD2, SDXL], ids=["sd15", "sd2", "sdxl"])
class TestShippedConfigurations:
    """At full size, without memory: every tensor on torch's `meta` device."""

    def test_every_part_takes_exactly_what_the_published_file_holds(self, architecture: Architecture) -> None:
        built = parts(architecture.family)
        converted = convert(architecture, built)
        for name, part in built.items():
            expected = shapes(part.state_dict())
            assert converted[name] == expected, name
            assert sum(math.prod(shape) for shape in expected.values()) == PARAMETERS[name][architecture.family]

    def test_it_stands_where_the_registry_looks(self, architecture: Architecture) -> None:
        assert (CONFIGURATIONS / architecture.family / "model_index.json").is_file()


OPEN_CLIP = {
    "sd2": ("text_encoder", "cond_stage_model.model."),
    "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
}


def parts(family: str) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = CONFIGURATIONS / family
    with torch.device("meta"):
        built = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")),
        }
        if (folder / "text_encoder_2").is_dir():
            config = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder_2")
            built["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return built


def convert(architecture: Architecture, built: dict[str, Any]) -> dict[str, dict[str, Shape]]:
    """The published names as diffusers' own loader renames them, by part."""
    import torch
    from diffusers.loaders import single_file_utils as utils

    checkpoint = {name: torch.empty(shape, device="meta") for name, shape in layout(architecture).items()}
    found = {
        "unet": utils.convert_ldm_unet_checkpoint(dict(checkpoint), built["unet"].config),
        "vae": utils.convert_ldm_vae_checkpoint(dict(checkpoint), built["vae"].config),
    }
    if architecture.clip is not None:
        found["text_encoder"] = utils.convert_ldm_clip_checkpoint(checkpoint)
    if architecture.open_clip is not None:
        name, prefix = OPEN_CLIP[architecture.family]
        found[name] = utils.convert_open_clip_checkpoint(built[name], checkpoint, prefix=prefix)
    # Transformers' plain text model has no wrapper of that name around it, and counts positions by itself.
    found["text_encoder"] = {
        name.removeprefix("text_model."): each
        for name, each in found["text_encoder"].items()
        if not name.endswith(("position_ids", "text_projection.weight"))
    }
    return {name: shapes(tensors) for name, tensors in found.items()}


def shapes(tensors: dict[str, Any]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
