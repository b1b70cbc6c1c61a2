from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from anime_common.contracts.generation import PICTURE_RECORD, HiresPass, Upscaling
from anime_common.contracts.vocabulary import LoraUse, Sampler
from anime_common.messages import uuid7
from anime_generator.engines.protocol import Picture
from anime_generator.metadata import SAMPLER_NAMES, encode_png, read_png
from tests.generator.builders import offered


def texts(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImageFile)
        return dict(image.text)


def test_other_tools_find_their_parameters() -> None:
    job = offered(prompt="1girl, pink hair", negative_prompt="blurry", sampler=Sampler.DPMPP_2M_KARRAS, steps=25)
    data = encode_png(Image.new("RGB", (64, 96)), job, Picture(job.attempt_id, 1, 8), engine="noop")
    assert texts(data)["parameters"].splitlines() == [
        "1girl, pink hair",
        "Negative prompt: blurry",
        (
            "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 8, Size: 64x96, Model: noop, "
            "Version: tower-anime 0.1.0"
        ),
    ]


@pytest.mark.parametrize(
    ("changes", "drawn", "entries"),
    [
        ({"init_image": uuid7(), "strength": 0.45}, (64, 96), "Size: 64x96, Model: noop, Denoising strength: 0.45"),
        ({"clip_skip": 2}, (64, 96), "Size: 64x96, Model: noop, Clip skip: 2"),
        (
            {"hires": HiresPass(width=96, height=96, steps=9, strength=0.5, upscaler="lanczos")},
            (96, 96),
            (
                "Size: 64x64, Model: noop, Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 9, "
                "Hires upscaler: lanczos"
            ),
        ),
        (
            {"upscale": Upscaling(factor=2.0, upscaler="lanczos")},
            (128, 128),
            "Size: 64x64, Model: noop, Postprocess upscale by: 2, Postprocess upscaler: lanczos",
        ),
    ],
)
def test_other_tools_find_how_a_picture_was_begun_and_enlarged(
    changes: dict[str, Any], drawn: tuple[int, int], entries: str
) -> None:
    job = offered(**changes)
    inputs = {each: "0" * 64 for each in (job.settings.init_image,) if each is not None}
    data = encode_png(Image.new("RGB", drawn), job, Picture(job.attempt_id, 0, 8), engine="noop", inputs=inputs)
    assert f", Seed: 8, {entries}, Version" in texts(data)["parameters"]


def test_other_tools_find_the_loras_behind_the_prompt() -> None:
    loras = (LoraUse(key="glow", weight=0.75), LoraUse(key="ink", weight=1.0))
    job = offered(prompt="1girl", loras=loras)
    data = encode_png(Image.new("RGB", (8, 8)), job, Picture(job.attempt_id, 0, 1), engine="noop")
    assert texts(data)["parameters"].splitlines()[0] == "1girl <lora:glow:0.75> <lora:ink:1>"
    record = read_png(data)
    assert record is not None
    assert record["settings"]["prompt"] == "1girl"


def test_our_record_tells_what_a_picture_began_with() -> None:
    ground, mask, other = uuid7(), uuid7(), uuid7()
    job = offered(init_image=ground, mask=mask, strength=0.5)
    inputs = {ground: "a" * 64, mask: "b" * 64, other: "c" * 64}
    record = read_png(
        encode_png(Image.new("RGB", (8, 8)), job, Picture(job.attempt_id, 0, 1), engine="noop", inputs=inputs)
    )
    assert record is not None
    assert record["inputs"] == {str(ground): "a" * 64, str(mask): "b" * 64}


def test_without_a_negative_prompt_there_is_no_line_for_it() -> None:
    job = offered(negative_prompt="")
    data = encode_png(Image.new("RGB", (8, 8)), job, Picture(job.attempt_id, 0, 1), engine="noop")
    assert "Negative prompt" not in texts(data)["parameters"]


def test_our_record_is_enough_to_make_the_picture_again_and_to_find_its_job() -> None:
    job = offered(prompt="夜空, 1girl – été")
    data = encode_png(
        Image.new("RGB", (8, 8)), job, Picture(job.attempt_id, 2, 9), engine="noop", warnings=("cut short",)
    )
    record = read_png(data)
    assert record is not None
    assert record["settings"] == job.settings.model_dump(mode="json")
    assert (record["job_id"], record["attempt_id"]) == (str(job.job_id), str(job.attempt_id))
    assert (record["index"], record["seed"], record["engine"], record["warnings"]) == (2, 9, "noop", ["cut short"])
    assert "夜空" in texts(data)["parameters"]
    assert "夜空" in texts(data)[PICTURE_RECORD]


def test_a_picture_of_others_has_no_record() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert read_png(buffer.getvalue()) is None


def test_what_is_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        read_png(b"GIF89a")


def test_every_sampler_has_a_name_that_other_tools_know() -> None:
    assert set(SAMPLER_NAMES) == set(Sampler)
