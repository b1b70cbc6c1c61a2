"""Pictures that jobs begin with, in the engine process: what is decoded, how, and what becomes of the rest."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anime_common.messages import uuid7
from anime_generator import inputs, wire
from anime_generator.engines.protocol import EngineError
from anime_generator.inputs import RunInputs, decode
from anime_generator.metadata import read_png
from anime_generator.supply import Supplies
from tests.generator.builders import offered, settings, sprite_spec
from tests.generator.test_engine_host import ends, hosted
from tests.waiting import eventually

TURNED_LEFT = 6
"""An EXIF orientation: to be shown, the picture is turned by a quarter, clockwise."""


def picture(size: tuple[int, int] = (48, 32), kind: str = "PNG", mode: str = "RGB", **how: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, "teal" if mode == "RGB" else 0).save(out, kind, **how)
    return out.getvalue()


def told(data: bytes) -> wire.Input:
    return wire.Input(file_id=uuid7(), sha256=hashlib.sha256(data).hexdigest(), media_type="image/png", size=len(data))


class TestDecoding:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_what_the_library_takes(self, kind: str) -> None:
        assert decode(picture(kind=kind)).size == (48, 32)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_is_turned_upright(self, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = TURNED_LEFT
        assert decode(picture(kind=kind, exif=exif)).size == (32, 48)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
    def test_exif_that_nobody_can_read_turns_nothing(self) -> None:
        assert decode(picture(kind="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")).size == (48, 32)

    def test_is_the_first_of_many(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        out = io.BytesIO()
        frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        assert decode(out.getvalue()).convert("RGB").getpixel((0, 0)) == (255, 0, 0)

    def test_shades_of_16_bits_stay_shades(self) -> None:
        ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
        out = io.BytesIO()
        Image.fromarray(ramp).save(out, "PNG")
        found = np.asarray(decode(out.getvalue()).convert("L"), dtype=int)
        assert np.abs(found - ramp / 257).max() <= 1

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "no PNG, JPEG or WebP"),
            (b"<svg/>", "no PNG, JPEG or WebP"),
            (picture(kind="GIF"), "no PNG, JPEG or WebP"),
            (picture((300, 300))[:200], "damaged"),
            (picture((12_000, 8_000), mode="1"), "pixels"),
        ],
        ids=["empty", "svg", "gif", "torn", "bomb"],
    )
    def test_what_is_no_picture(self, data: bytes, reason: str) -> None:
        with pytest.raises(EngineError, match=reason) as raised:
            decode(data)
        assert (raised.value.code, raised.value.retryable) == ("input_unusable", False)


class TestOfOneRun:
    def test_each_is_cut_from_the_blob_and_decoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = [picture((8, 8)), b"no picture", picture((16, 8))]
        given = [told(part) for part in parts]
        found = RunInputs(given, b"".join(parts))
        assert [each.file_id for each in given] == list(found)
        assert [found[given[index].file_id].size for index in (0, 2)] == [(8, 8), (16, 8)]
        assert found.sha256[given[2].file_id] == given[2].sha256
        monkeypatch.setattr(inputs, "decode", None)
        assert found[given[0].file_id] is found[given[0].file_id]

    def test_a_problem_names_its_field(self) -> None:
        good, bad = picture(), b"no picture"
        given = [told(good), told(bad)]
        found = RunInputs(given, good + bad)
        ground, mask = (each.file_id for each in given)
        assert found.problem(settings()) is None
        assert found.problem(settings(init_image=ground)) is None
        problem = found.problem(settings(init_image=ground, mask=mask))
        assert problem is not None
        assert (problem.code, problem.retryable) == ("input_unusable", False)
        assert problem.message == "mask: it is no PNG, JPEG or WebP picture"
        absent = found.problem(settings(init_image=uuid7()))
        assert absent is not None
        assert (absent.code, absent.retryable) == ("input_unavailable", True)


@pytest.mark.slow
async def test_an_engine_process_draws_from_what_came_with_its_order() -> None:
    parts = [picture((128, 128)), b"no picture"]
    good, bad = (told(part) for part in parts)
    supplies = Supplies((good, bad), b"".join(parts))
    usual: dict[str, Any] = {"model": "sprite", "width": 128, "height": 128, "steps": 4, "strength": 0.5}
    fine, broken = offered(init_image=good.file_id, **usual), offered(init_image=bad.file_id, **usual)
    async with hosted(sprite_spec()) as host:
        await eventually(lambda: host.resident == ("sprite",), within=90)
        heard = [each async for each in host.draw((fine, broken), supplies)]
        lost = [each async for each in host.draw((fine.model_copy(update={"attempt_id": uuid7()}),))]
    assert ends(heard)[fine.attempt_id].outcome == "painted"
    end = ends(heard)[broken.attempt_id]
    assert (end.outcome, end.code, end.retryable, end.lone) == ("failed", "input_unusable", False, True)
    assert end.message == "init_image: it is no PNG, JPEG or WebP picture"
    (painted,) = [each.blob for each in heard if isinstance(each.report, wire.Painted)]
    record = read_png(painted)
    assert record is not None
    assert record["inputs"] == {str(good.file_id): good.sha256}
    assert [end.code for end in ends(lost).values()] == ["input_unavailable"]
