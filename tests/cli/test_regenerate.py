"""Making a picture again: what is read from it, what is asked for, and how two pictures are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anime_cli.errors import CliError, ExitStatus
from anime_cli.regenerate import Difference, Record, body_of, difference, read_picture
from anime_common.contracts.generation import PICTURE_RECORD, HiresPass, Settings, Upscaling
from anime_common.contracts.vocabulary import LoraUse, Sampler
from anime_common.messages import uuid7

SETTINGS = Settings(
    prompt="1girl",
    negative_prompt="blurry",
    model="sprite",
    width=128,
    height=192,
    steps=8,
    guidance=4.0,
    sampler=Sampler.EULER,
    seed=40,
    count=4,
    preset="fast",
    loras=(LoraUse(key="ink", weight=0.5),),
    hires=HiresPass(width=256, height=384, steps=6, strength=0.5, upscaler="lanczos"),
    upscale=Upscaling(factor=2.0, upscaler="lanczos"),
)
RECORD = Record(project="sunrise", seed=42, settings=SETTINGS)


def picture(folder: Path, record: str | None) -> Path:
    info = PngInfo()
    if record is not None:
        info.add_itxt(PICTURE_RECORD, record)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(folder / "picture.png", pnginfo=info)
    return folder / "picture.png"


def test_what_a_picture_tells_is_read(tmp_path: Path) -> None:
    told = RECORD.model_dump(mode="json") | {"version": 1, "code": "k3v9x2ab", "new_field": 1}
    found, pixels = read_picture(picture(tmp_path, json.dumps(told)))
    assert found == RECORD
    assert pixels.size == (8, 8)


def test_what_this_system_did_not_make_is_refused(tmp_path: Path) -> None:
    for record in (None, "{", "[]", '{"seed": 1}'):
        with pytest.raises(CliError) as raised:
            read_picture(picture(tmp_path, record))
        assert raised.value.status == ExitStatus.USAGE
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(CliError, match="no PNG"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(CliError) as raised:
        read_picture(tmp_path / "absent.png")
    assert raised.value.status == ExitStatus.NOT_FOUND


def test_everything_that_makes_the_picture_is_asked_for_again() -> None:
    assert body_of(RECORD, ()) == {
        "prompt": "1girl",
        "negative_prompt": "blurry",
        "project": "sunrise",
        "model": "sprite",
        "width": 128,
        "height": 192,
        "steps": 8,
        "guidance": 4.0,
        "guidance_rescale": 0.0,
        "clip_skip": 1,
        "sampler": "euler",
        "seed": 42,
        "count": 1,
        "loras": [{"key": "ink", "weight": 0.5}],
        "hires": {"scale": 2.0, "steps": 6, "strength": 0.5, "upscaler": "lanczos"},
        "upscale": {"factor": 2.0, "upscaler": "lanczos"},
    }


def test_a_picture_that_began_with_another_begins_with_it_again() -> None:
    began = SETTINGS.model_copy(update={"init_image": uuid7(), "strength": 0.4, "hires": None})
    body = body_of(Record(project="default", seed=1, settings=began), ())
    assert (body["init_image"], body["strength"]) == (str(began.init_image), 0.4)
    assert "hires" not in body
    assert "mask" not in body


def test_what_its_model_does_not_take_is_not_asked_for() -> None:
    assert set(body_of(RECORD, ("prompt", "seed", "steps"))) == {"prompt", "model", "project", "seed", "steps"}


def test_pictures_are_compared_by_their_pixels() -> None:
    one = Image.new("RGB", (10, 10), (100, 100, 100))
    other = one.copy()
    assert difference(one, other) == Difference(0, 0.0)
    other.putpixel((3, 3), (100, 97, 100))
    other.putpixel((4, 4), (101, 100, 100))
    assert difference(one, other) == Difference(3, 0.02)
    assert difference(one, Image.new("RGB", (10, 11))) is None
