"""What is told of a model file by its header alone: names and shapes of real layouts, and any bytes whatever."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_generator.registry import BUILT_IN
from anime_generator.registry.family import Found, Kind, recognise
from anime_generator.registry.files import look, stamp
from anime_generator.registry.header import Header, HeaderError, Tensor, parse_header, read_header
from tests.generator.published import SD15, SDXL, TINY_SD, TINY_XL, layout

Shape = tuple[int, ...]


def header(shapes: Mapping[str, Shape], **metadata: str) -> Header:
    return Header({name: Tensor("F16", shape, 2) for name, shape in shapes.items()}, metadata, 0)


def file_of(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def parsed(content: bytes, size: int | None = None) -> Header:
    return parse_header(io.BytesIO(content), len(content) if size is None else size)


def tensor(begin: int = 0, end: int = 8, shape: list[int] | None = None, dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2, 2] if shape is None else shape, "data_offsets": [begin, end]}


def without(shapes: Mapping[str, Shape], *prefixes: str) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}


UNET = "model.diffusion_model."
TEXT = "cond_stage_model."
VAE = {name.removeprefix("first_stage_model."): shape for name, shape in layout(SD15).items() if "first_stage" in name}
SD2 = layout(SD15) | {
    name: (*shape[:-1], 1024) for name, shape in layout(SD15).items() if "attn2.to_k" in name or "attn2.to_v" in name
}
INPAINTING = layout(SD15) | {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}
REFINER = without(layout(SDXL), "conditioner.") | {"conditioner.embedders.0.model.ln_final.weight": (1280,)}
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
OLD = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight"


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        (layout(SD15), Found(Kind.CHECKPOINT, "sd15")),
        (layout(SDXL), Found(Kind.CHECKPOINT, "sdxl")),
        (layout(TINY_SD), Found(Kind.CHECKPOINT, "sd")),
        (layout(TINY_XL), Found(Kind.CHECKPOINT, "sdxl")),
        (SD2, Found(Kind.CHECKPOINT, "sd2")),
        (INPAINTING, Found(Kind.CHECKPOINT, "inpainting")),
        (REFINER, Found(Kind.CHECKPOINT, "sdxl-refiner")),
        (without(layout(SD15), TEXT), Found(Kind.CHECKPOINT, "sd15", lacks=("text encoder",))),
        (without(layout(SD15), "first_stage"), Found(Kind.CHECKPOINT, "sd15", lacks=("autoencoder",))),
        (layout(SDXL) | {"v_pred": (0,)}, Found(Kind.CHECKPOINT, "sdxl", "v_prediction")),
        (layout(SDXL) | {"v_pred": (0,), "ztsnr": (0,)}, Found(Kind.CHECKPOINT, "sdxl", "v_prediction", True)),
        (
            {f"{UNET}double_blocks.0.img_attn.norm.weight": (1,)},
            Found(Kind.CHECKPOINT, "flux", lacks=("autoencoder", "text encoder")),
        ),
        ({f"{UNET}something.else": (1,)}, Found(Kind.CHECKPOINT, "", lacks=("autoencoder", "text encoder"))),
        (VAE, Found(Kind.VAE)),
        ({KOHYA: (8, 768)}, Found(Kind.LORA, "sd15")),
        ({KOHYA: (8, 1024)}, Found(Kind.LORA, "sd2")),
        ({PEFT: (8, 2048)}, Found(Kind.LORA, "sdxl")),
        ({OLD: (8, 768)}, Found(Kind.LORA, "sd15")),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)}, Found(Kind.LORA, "sdxl")),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (8, 1280, 1, 1)}, Found(Kind.LORA)),
        ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (8, 3072)}, Found(Kind.LORA, "flux")),
        ({KOHYA.replace("lora_down.weight", "hada_w1_b"): (8, 768), "a.hada_w1_a": (1, 8)}, Found(Kind.LORA, "sd15")),
        ({"emb_params": (4, 768)}, Found(Kind.EMBEDDING, "sd15")),
        ({"<girl>": (768,)}, Found(Kind.EMBEDDING, "sd15")),
        ({"emb_params": (2, 1024)}, Found(Kind.EMBEDDING, "sd2")),
        ({"clip_l": (4, 768), "clip_g": (4, 1280)}, Found(Kind.EMBEDDING, "sdxl")),
        ({"control_model.input_blocks.0.0.weight": (1,)}, Found(Kind.CONTROLNET)),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, Found(Kind.COMPONENT)),
        ({"weight": (3, 3)}, Found(Kind.UNKNOWN)),
        ({}, Found(Kind.UNKNOWN)),
    ],
)
def test_names_and_shapes_tell_what_a_file_is(shapes: Mapping[str, Shape], found: Found) -> None:
    assert recognise(header(shapes)) == found


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd15"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({}, ""),
    ],
)
def test_metadata_tell_the_family_of_a_lora_whose_shapes_do_not(metadata: dict[str, str], family: str) -> None:
    shapes = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (8, 1280, 1, 1)}
    assert recognise(header(shapes, **metadata)).family == family


@pytest.mark.parametrize(("said", "prediction"), [("v", "v_prediction"), ("epsilon", "epsilon"), ("?", None)])
def test_metadata_tell_what_was_predicted(said: str, prediction: str | None) -> None:
    assert recognise(header(layout(TINY_XL), **{"modelspec.prediction_type": said})).prediction == prediction


class TestHeaders:
    def test_of_a_whole_file(self) -> None:
        found = parsed(file_of({"a": tensor(), "__metadata__": {"format": "pt"}}, b"x" * 8))
        assert found.tensors == {"a": Tensor("F16", (2, 2), 8)}
        assert (found.metadata, found.dtype, found.parameters) == ({"format": "pt"}, "float16", 4)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "it has 0 bytes only"),
            (struct.pack("<Q", 1 << 60), "its header would be too long"),
            (struct.pack("<Q", 100) + b"{}", "is cut off: its header alone has 100 bytes"),
            (struct.pack("<Q", 2) + b"[]", "is not a table"),
            (struct.pack("<Q", 2) + b"{a", "is not JSON"),
            (struct.pack("<Q", 19) + b'{"a":{},"a":{"b":1}', "is not JSON"),
            (file_of({"a": tensor()}, b"x" * 5), "is cut off: 3 of the 8 bytes"),
            (file_of({"a": tensor()}, b"x" * 9), "1 bytes follow its last tensor"),
            (file_of({"a": tensor(4, 12)}, b"x" * 12), "do not lie one after another"),
            (file_of({"a": tensor(shape=[3])}, b"x" * 8), "has not the bytes that its shape needs"),
            (file_of({"a": tensor(shape=[-2, -2])}, b"x" * 8), "the entry of the tensor 'a' is not one"),
            (file_of({"a": tensor(8, 0)}, b"x" * 8), "the entry of the tensor 'a' is not one"),
            (file_of({"a": 3}), "the entry of the tensor 'a' is not one"),
            (file_of({"__metadata__": {"a": 1}}), "not a table of texts"),
            (struct.pack("<Q", 200_000) + b"[" * 200_000, "is not JSON"),
        ],
    )
    def test_of_what_is_none(self, content: bytes, says: str) -> None:
        with pytest.raises(HeaderError, match=says):
            parsed(content)

    def test_of_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(HeaderError, match="cannot be read: No such file"):
            read_header(tmp_path / "absent")

    def test_agree_with_the_library(self) -> None:
        from safetensors import safe_open

        path = BUILT_IN / "sprite" / "vae" / "diffusion_pytorch_model.safetensors"
        found = read_header(path)
        with safe_open(path, "numpy") as theirs:
            assert set(theirs.keys()) == set(found.tensors)
            assert all(tuple(theirs.get_slice(name).get_shape()) == found.shape(name) for name in found.tensors)


class Watched(io.BytesIO):
    """Remembers how far it was read."""

    reached = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reached = max(self.reached, self.tell())
        return data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "I64", "F4", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
    }
)
HEADERS = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), ENTRY | JSON, max_size=4)


class TestAnyBytes:
    @given(content=st.binary(max_size=200), size=st.integers(0, 400))
    def test_garbage_is_a_header_or_an_error(self, content: bytes, size: int) -> None:
        self.never_further_than_the_header(content, size)

    @given(entries=HEADERS, data=st.binary(max_size=64))
    def test_nearly_right_headers_are_one_or_an_error(self, entries: dict[str, Any], data: bytes) -> None:
        content = file_of(entries, data)
        self.never_further_than_the_header(content, len(content))

    @given(
        sizes=st.lists(st.integers(0, 9), max_size=5),
        cut=st.integers(0, 50),
    )
    def test_a_whole_file_is_read_and_a_cut_one_is_not(self, sizes: list[int], cut: int) -> None:
        entries, end = {}, 0
        for number, size in enumerate(sizes):
            entries[str(number)] = tensor(end, end + 4 * size, [size], "F32")
            end += 4 * size
        content = file_of(entries, b"x" * end)
        assert {name: each.shape for name, each in parsed(content).tensors.items()} == {
            str(number): (size,) for number, size in enumerate(sizes)
        }
        if 0 < cut <= len(content):
            with pytest.raises(HeaderError):
                parsed(content[:-cut])

    @given(
        shapes=st.dictionaries(
            st.sampled_from([*layout(TINY_SD)][::9]) | st.text(max_size=20),
            st.lists(st.integers(0, 5000), max_size=5).map(tuple),
            max_size=8,
        )
    )
    def test_no_names_and_shapes_confuse_the_recognition(self, shapes: dict[str, Shape]) -> None:
        assert recognise(header(shapes)).kind in Kind

    def never_further_than_the_header(self, content: bytes, size: int) -> None:
        file = Watched(content)
        with contextlib.suppress(HeaderError):
            assert recognise(parse_header(file, size)).kind in Kind
        length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
        assert file.reached <= 8 + length


class TestLooking:
    def test_at_the_built_in_folder(self) -> None:
        seen = look(BUILT_IN / "sprite")
        assert (seen.found, seen.problems) == (Found(Kind.CHECKPOINT, "sd", "v_prediction", True), ())
        assert seen.size > 1_000_000

    @pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.BIN"])
    def test_pickles_are_refused_with_a_way_out(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x80\x04.")
        (problem,) = look(tmp_path / name).problems
        assert problem.startswith(f"{name} is refused: pickles can run code")
        assert "docs/models.md" in problem

    def test_a_folder_of_pickles_is_refused_part_by_part(self, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text(
            json.dumps(
                {
                    "_class_name": "StableDiffusionPipeline",
                    "unet": ["diffusers", "UNet2DConditionModel"],
                    "vae": ["diffusers", "AutoencoderKL"],
                    "safety_checker": [None, None],
                }
            )
        )
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
        first, second = look(tmp_path).problems
        assert first.startswith("unet has pickled weights only (diffusion_pytorch_model.bin): pickles can run code")
        assert second == "vae has no .safetensors weights"

    def test_a_torn_part_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "model.safetensors").write_bytes(file_of({"a": tensor()}, b"x"))
        assert look(tmp_path).problems == (
            "unet/model.safetensors is cut off: 7 of the 8 bytes of its tensors are missing",
        )

    def test_a_folder_without_an_index(self, tmp_path: Path) -> None:
        assert "is no diffusers folder" in look(tmp_path).problems[0]

    def test_stamps_change_with_the_files(self, tmp_path: Path) -> None:
        file = tmp_path / "a" / "b"
        file.parent.mkdir()
        file.write_bytes(b"1")
        before = stamp(tmp_path / "a"), stamp(file)
        file.write_bytes(b"12")
        assert stamp(tmp_path / "a") != before[0]
        assert stamp(file) != before[1]
        assert stamp(tmp_path / "absent") == ""
