from __future__ import annotations

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from anime_common.contracts.vocabulary import Sampler
from anime_generator.engines.protocol import Picture
from anime_generator.metadata import KEY, SAMPLER_NAMES, encode_png, read_png
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
    assert "夜空" in texts(data)[KEY]


def test_a_picture_of_others_has_no_record() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert read_png(buffer.getvalue()) is None


def test_what_is_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        read_png(b"GIF89a")


def test_every_sampler_has_a_name_that_other_tools_know() -> None:
    assert set(SAMPLER_NAMES) == set(Sampler)
