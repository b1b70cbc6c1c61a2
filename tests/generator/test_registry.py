from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from anime_common.contracts.vocabulary import Sampler
from anime_generator import metrics
from anime_generator.engines import LOCAL
from anime_generator.registry import CONFIGURATIONS, Registry, RegistryError, load_registry, settings_problem
from anime_generator.registry.live import LiveRegistry
from tests.generator.builders import copy_of_sprite, settings, sprite_spec
from tests.generator.published import SD15, SDXL, Architecture, layout

NAMES = LOCAL

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


CHECKPOINT = """
[models.counterfeit]
source = "counterfeit.safetensors"
{more}
[models.counterfeit.defaults]
width = 512
height = 768
steps = 25
sampler = "dpm++ 2m karras"
{tables}
"""
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


def write_header(path: Path, shapes: Mapping[str, tuple[int, ...]], **metadata: str) -> Path:
    """A whole safetensors file of zeros, which take no room on the disk."""
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def checkpoint(folder: Path, architecture: Architecture = SD15, name: str = "counterfeit.safetensors") -> Path:
    return write_header(folder / name, layout(architecture))


def lora(folder: Path, name: str = "style.safetensors", context: int = 768) -> Path:
    return write_header(folder / name, {KOHYA: (8, context)})


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
    copy_of_sprite(tmp_path, "counterfeit")
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
    stepps = 3
    height = 512
    steps = 25
    [models.two]
    engine = "warp"
    source = "/nowhere"
    defaults = { width = 512, height = 512, steps = 25 }
    """
    found = problems(tmp_path, text)
    assert found[0] == "speed: unknown key; default, models, loras and embeddings are allowed"
    assert any(line.startswith("models.one.precisoin: unknown key; allowed are title, ") for line in found)
    assert any(line.startswith("models.one.defaults.stepps: unknown key; allowed are width, ") for line in found)
    assert any(line.startswith("models.one.defaults.width: ") for line in found)
    assert "models.two.engine: there is no engine 'warp'; known: auto, diffusers, noop" in found
    assert "default: there is no enabled model 'three'; known: one, sprite, two" in found
    assert "models.two.source: /nowhere does not exist" in found


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").touch()
    (found,) = problems(tmp_path, COUNTERFEIT.format(source="model.ckpt"))
    assert found.startswith("models.counterfeit.source: model.ckpt is refused: pickles can run code")
    assert found.endswith("convert it to .safetensors as docs/models.md shows")


def test_defaults_that_the_model_itself_cannot_do_are_refused(tmp_path: Path) -> None:
    copy_of_sprite(tmp_path, "counterfeit")
    text = COUNTERFEIT.format(source="counterfeit") + "[models.counterfeit.sizes]\nmultiple = 64\nmaximum = 640\n"
    found = problems(tmp_path, text)
    said = "counterfeit draws sides of 64 to 640 pixels in steps of 64, not 768"
    assert found == [f"models.counterfeit.defaults.height: {said}"]


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
        ({"width": 2048}, "width: sprite draws sides of 64 to 256 pixels in steps of 16, not 2048"),
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
    info = sprite_spec().info(tuple(Sampler))
    usual: dict[str, object] = {"model": "sprite", "width": 128, "height": 128}
    assert settings_problem(info, settings(**usual | changes)) == problem


class TestFiles:
    @pytest.mark.parametrize(("architecture", "family"), [(SD15, "sd15"), (SDXL, "sdxl")])
    def test_a_single_file_tells_its_family_and_gets_the_configuration_that_is_shipped(
        self, tmp_path: Path, architecture: Architecture, family: str
    ) -> None:
        file = checkpoint(tmp_path, architecture)
        spec = load(tmp_path, CHECKPOINT.format(more="", tables="")).models["counterfeit"]
        assert (spec.source, spec.family, spec.config) == (file, family, CONFIGURATIONS / family)
        assert spec.size == file.stat().st_size > 1 << 30

    def test_a_family_that_contradicts_the_file_is_refused(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        found = problems(tmp_path, CHECKPOINT.format(more='family = "sdxl"', tables=""))
        assert found == ["models.counterfeit.family: the file is of the family sd15, not sdxl"]

    def test_a_family_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        (found,) = problems(tmp_path, CHECKPOINT.format(more='family = "sd9"', tables=""))
        assert found == "models.counterfeit.family: there is no family 'sd9'; known: sd15, sd2, sdxl, sd"

    def test_sd_is_a_wider_name(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        registry = load(tmp_path, CHECKPOINT.format(more='family = "sd"', tables=""))
        assert registry.models["counterfeit"].family == "sd15"

    def test_what_cannot_be_drawn_with_is_named(self, tmp_path: Path) -> None:
        shapes = {
            "model.diffusion_model.double_blocks.0.img_attn.norm.weight": (1,),
            "vae.a": (1,),
            "text_encoders.a": (1,),
        }
        write_header(tmp_path / "counterfeit.safetensors", shapes)
        (found,) = problems(tmp_path, CHECKPOINT.format(more="", tables=""))
        problem = "the file is of Flux, which can be drawn with as a diffusers folder only"
        assert found == f"models.counterfeit.source: {problem}"

    def test_a_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        lora(tmp_path, "counterfeit.safetensors")
        (found,) = problems(tmp_path, CHECKPOINT.format(more="", tables=""))
        assert found.endswith("counterfeit.safetensors is not of the kind checkpoint, but of the kind lora")

    def test_a_file_that_was_cut_off_is_found(self, tmp_path: Path) -> None:
        file = checkpoint(tmp_path)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 100)
        (found,) = problems(tmp_path, CHECKPOINT.format(more="", tables=""))
        assert found.startswith("models.counterfeit.source: counterfeit.safetensors is cut off: 100 of the")

    def test_a_file_that_does_not_tell_is_of_the_family_of_its_configuration(self, tmp_path: Path) -> None:
        shapes = {"model.diffusion_model.x": (1,), "first_stage_model.x": (1,), "cond_stage_model.x": (1,)}
        write_header(tmp_path / "counterfeit.safetensors", shapes)
        (found,) = problems(tmp_path, CHECKPOINT.format(more="", tables=""))
        assert found.startswith("models.counterfeit.family: is needed: counterfeit.safetensors does not tell")
        copy_of_sprite(tmp_path, "config")
        spec = load(tmp_path, CHECKPOINT.format(more='config = "config"', tables="")).models["counterfeit"]
        assert spec.family == "sd"

    @pytest.mark.parametrize(
        ("index", "says"),
        [
            (None, "is no diffusers folder"),
            ("FluxPipeline", "is for a FluxPipeline, which cannot be drawn with"),
            ("StableDiffusionXLPipeline", "is of the family sdxl, the file is of the family sd15"),
        ],
    )
    def test_a_configuration_that_does_not_fit_is_refused(self, tmp_path: Path, index: str | None, says: str) -> None:
        checkpoint(tmp_path)
        (tmp_path / "config").mkdir()
        if index is not None:
            (tmp_path / "config" / "model_index.json").write_text(json.dumps({"_class_name": index}))
        (found,) = problems(tmp_path, CHECKPOINT.format(more='config = "config"', tables=""))
        assert found.startswith("models.counterfeit.config: ")
        assert says in found

    def test_a_missing_autoencoder_is_asked_for(self, tmp_path: Path) -> None:
        shapes = {name: shape for name, shape in layout(SD15).items() if not name.startswith("first_stage")}
        write_header(tmp_path / "counterfeit.safetensors", shapes)
        found = problems(tmp_path, CHECKPOINT.format(more="", tables=""))
        assert found == ["models.counterfeit.vae: is needed: counterfeit.safetensors has no autoencoder"]
        vae = {
            name.removeprefix("first_stage_model."): shape for name, shape in layout(SD15).items() if "first" in name
        }
        file = write_header(tmp_path / "vae.safetensors", vae)
        assert (
            load(tmp_path, CHECKPOINT.format(more='vae = "vae.safetensors"', tables="")).models["counterfeit"].vae
            == file
        )

    def test_an_autoencoder_that_is_none_is_refused(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        lora(tmp_path)
        (found,) = problems(tmp_path, CHECKPOINT.format(more='vae = "style.safetensors"', tables=""))
        assert found.startswith("models.counterfeit.vae: style.safetensors is not of the kind vae")


LORAS = """
[loras.style]
source = "style.safetensors"
trigger_words = ["ink style", "hatching"]
weight = 0.7
licence = "CC BY 4.0"
"""


class TestAdapters:
    def test_loras_go_to_the_models_of_their_family(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        lora(tmp_path)
        registry = load(tmp_path, CHECKPOINT.format(more="", tables=LORAS))
        style = registry.lora("style")
        assert style is not None
        assert (style.family, style.weight, style.trigger_words) == ("sd15", 0.7, ("ink style", "hatching"))
        assert registry.loras_for("counterfeit") == (style,)
        assert [lora.key for lora in registry.loras_for("sprite")] == ["hikari"]
        assert registry.lora("other") is None
        ((_, info), ()) = registry.announced()
        assert (info.key, info.licence, info.size) == ("style", "CC BY 4.0", style.size)

    def test_embeddings_too(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        write_header(tmp_path / "easy.safetensors", {"emb_params": (4, 768)})
        tables = '[embeddings.easy-negative]\nsource = "easy.safetensors"\n'
        spec = load(tmp_path, CHECKPOINT.format(more="", tables=tables)).models["counterfeit"]
        assert [each.key for each in spec.embeddings] == ["easy-negative"]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('source = "none.safetensors"', "loras.style.source: {folder}/none.safetensors does not exist"),
            ('source = "pickle.pt"', "loras.style.source: pickle.pt is refused: pickles can run code"),
            ('source = "model.safetensors"', "loras.style.source: model.safetensors is not of the kind lora"),
            (
                'source = "style.safetensors"\nfamily = "sdxl"',
                "loras.style.family: the file is of the family sd15, not",
            ),
            ('source = "plain.safetensors"', "loras.style.family: is needed: the file does not tell"),
            ('source = "style.safetensors"\nweight = 9', "loras.style.weight: Input should be less than or equal to 4"),
            (
                'source = "style.safetensors"\nwieght = 1',
                "loras.style.wieght: unknown key; allowed are title, licence, source, family, models, trigger_words",
            ),
            ('source = "."', "loras.style.source: {folder} is a folder"),
        ],
    )
    def test_mistakes_are_told_by_their_key(self, tmp_path: Path, text: str, found: str) -> None:
        checkpoint(tmp_path, name="model.safetensors")
        lora(tmp_path)
        (tmp_path / "pickle.pt").touch()
        plain = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
        write_header(tmp_path / "plain.safetensors", {plain: (8, 1280, 1, 1)})
        (first, *_) = problems(tmp_path, f"[loras.style]\n{text}\n")
        assert first.startswith(found.format(folder=tmp_path))

    def test_a_key_that_no_request_could_name_is_refused(self, tmp_path: Path) -> None:
        lora(tmp_path)
        (found,) = problems(tmp_path, '[loras."My Style"]\nsource = "style.safetensors"\n')
        assert found.startswith("loras.My Style: keys are made of small letters")


class TestPresets:
    def test_are_found_by_model_and_name(self, tmp_path: Path) -> None:
        checkpoint(tmp_path)
        lora(tmp_path)
        tables = LORAS + "[models.counterfeit.presets.fast]\nsteps = 6\nguidance = 1.5\nloras = { style = 0.5 }\n"
        registry = load(tmp_path, CHECKPOINT.format(more="", tables=tables))
        fast = registry.preset("counterfeit", "fast")
        assert fast is not None
        assert (fast.steps, fast.guidance, fast.sampler) == (6, 1.5, None)
        assert [(use.key, use.weight) for use in fast.loras] == [("style", 0.5)]
        assert registry.preset("counterfeit", "slow") is None
        assert registry.models["counterfeit"].info(tuple(Sampler)).presets == (fast,)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("loras = { other = 1.0 }", "loras.other: there is no LoRA 'other'; known: big, hikari, narrow, style"),
            ("loras = { big = 1.0 }", "loras.big: it does not fit counterfeit, which is of the family sd15"),
            ("loras = { narrow = 1.0 }", "loras.narrow: it is for another only"),
            ("steps = 151", "steps: Input should be less than or equal to 150"),
            ('sampler = "lcm"', "sampler: counterfeit has euler, dpm++ 2m karras, not lcm"),
            (
                "speed = 3",
                "speed: unknown key; allowed are title, steps, guidance, sampler, guidance_rescale, clip_skip, loras",
            ),
        ],
    )
    def test_mistakes_are_told_by_their_key(self, tmp_path: Path, text: str, found: str) -> None:
        checkpoint(tmp_path)
        lora(tmp_path)
        lora(tmp_path, "big.safetensors", 2048)
        others = '[loras.big]\nsource = "big.safetensors"\n'
        others += '[loras.narrow]\nsource = "style.safetensors"\nmodels = ["another"]\n'
        tables = f"{LORAS}{others}[models.counterfeit.presets.fast]\n{text}\n"
        more = 'samplers = ["euler", "dpm++ 2m karras"]'
        assert problems(tmp_path, CHECKPOINT.format(more=more, tables=tables)) == [
            f"models.counterfeit.presets.fast.{found}"
        ]


def test_what_is_announced_of_a_model(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    more = 'licence = "CreativeML Open RAIL-M"\nmemory_mb = 2600\nfallback = "sprite"\nclip_skip = 2'
    spec = load(tmp_path, CHECKPOINT.format(more=more, tables="")).models["counterfeit"]
    info = spec.info(tuple(Sampler))
    assert (info.licence, info.memory, info.fallback) == ("CreativeML Open RAIL-M", 2600 << 20, "sprite")
    assert (info.size, spec.clip_skip) == (spec.size, 2)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("steps = 30", True),
        ("batch_limit = 2", True),
        ("precision = 'float16'", False),
        ("zero_terminal_snr = true", False),
    ],
)
def test_what_lies_in_memory_serves_on_when_only_settings_change(tmp_path: Path, change: str, same: bool) -> None:
    copy_of_sprite(tmp_path, "counterfeit")
    text = COUNTERFEIT.format(source="counterfeit")
    before = load(tmp_path, text).models["counterfeit"]
    changed = text.replace("steps = 25", change) if "steps" in change else text.replace("family", f"{change}\nfamily")
    after = load(tmp_path, changed).models["counterfeit"]
    assert before != after
    assert after.loads_like(before) is same


class TestLive:
    def test_a_good_change_is_taken(self, tmp_path: Path) -> None:
        live = LiveRegistry(overlay(tmp_path, ""), NAMES)
        assert live.look() is False
        overlay(tmp_path, "[models.sprite.defaults]\nsteps = 20\n")
        assert live.look() is True
        assert live.current.models["sprite"].defaults.steps == 20
        assert live.look() is False

    def test_a_bad_change_keeps_what_was_and_says_so_until_it_is_mended(self, tmp_path: Path) -> None:
        live = LiveRegistry(overlay(tmp_path, ""), NAMES)
        before = live.current
        overlay(tmp_path, "[models.sprite.defaults]\nsteps = 0\n")
        assert live.look() is True
        assert live.current is before
        (warning,) = live.warnings()
        assert "models.sprite.defaults.steps: Input should be greater than or equal to 1" in warning
        assert metrics.REGISTRY_PROBLEMS._value.get() == 1
        assert live.look() is False  # said once
        overlay(tmp_path, "")
        assert live.look() is True
        assert (live.warnings(), metrics.REGISTRY_PROBLEMS._value.get()) == ((), 0)

    def test_a_file_that_is_taken_away_keeps_what_was(self, tmp_path: Path) -> None:
        path = overlay(tmp_path, "[models.sprite.defaults]\nsteps = 20\n")
        live = LiveRegistry(path, NAMES)
        path.unlink()
        assert live.look() is True
        assert "cannot be read" in live.warnings()[0]
        assert live.current.models["sprite"].defaults.steps == 20

    def test_a_file_still_on_its_way_is_taken_once_it_is_whole(self, tmp_path: Path) -> None:
        live = LiveRegistry(overlay(tmp_path, ""), NAMES)
        file = lora(tmp_path)
        content = file.read_bytes()
        file.write_bytes(content[:-10])
        overlay(tmp_path, LORAS)
        assert live.look() is True
        assert "is cut off" in live.warnings()[0]
        file.write_bytes(content)
        assert live.look() is True
        assert (live.warnings(), [*live.current.loras]) == ((), ["hikari", "style"])

    def test_a_file_that_is_being_written_is_left_for_the_next_look(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = LiveRegistry(overlay(tmp_path, "[models.sprite.defaults]\nsteps = 20\n"), NAMES)
        overlay(tmp_path, "")
        with monkeypatch.context() as patched:
            rest = "[models.sprite.defaults]\nsteps = 21\n"
            patched.setattr("time.sleep", lambda _: overlay(tmp_path, rest))
            assert live.look() is False
        assert live.current.models["sprite"].defaults.steps == 20
        assert live.look() is True
        assert live.current.models["sprite"].defaults.steps == 21

    def test_other_weights_under_the_same_name_are_noticed(self, tmp_path: Path) -> None:
        folder = copy_of_sprite(tmp_path, "counterfeit")
        live = LiveRegistry(overlay(tmp_path, COUNTERFEIT.format(source="counterfeit")), NAMES)
        before = live.current.models["counterfeit"]
        os.utime(folder / "vae" / "diffusion_pytorch_model.safetensors", (1, 2**31))
        assert live.look() is True
        assert not live.current.models["counterfeit"].loads_like(before)


def test_a_folder_that_lists_its_tags_announces_them(tmp_path: Path) -> None:
    folder = copy_of_sprite(tmp_path)
    table = f'[models.small]\nsource = "{folder}"\n[models.small.defaults]\nwidth = 128\nheight = 128\nsteps = 4\n'
    file = tmp_path / "models.toml"
    file.write_text(table)
    (folder / "tags.json").write_text('{"tags": ["1girl", "blue hair"]}')
    assert load_registry(file, LOCAL).models["small"].info(()).tags == ("1girl", "blue hair")
    for wrong in ('["1girl"]', '{"tags": ["Girl"]}', "{"):
        (folder / "tags.json").write_text(wrong)
        with pytest.raises(RegistryError, match=r"models\.small\.source: tags\.json must be"):
            load_registry(file, LOCAL)
