"""Finished files on their way out of the engine process: what other programs made stays as they made it."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from anime_common.artifacts import Artifacts, staging_key
from anime_common.contracts.generation import PICTURE_RECORD
from anime_common.contracts.vocabulary import MediaType, Sampler
from anime_common.media_layout import png_chunks
from anime_common.messages import Model
from anime_generator import wire
from anime_generator.engines.protocol import Drawn, EngineError, Picture, Rendered
from anime_generator.finishing import Making, rendered
from anime_generator.line import Cancellations, Line
from anime_generator.metadata import PARAMETERS, read_png
from anime_generator.run import Run
from anime_generator.staging import Staging
from tests.clips import animation, clip, sound, still
from tests.generator.builders import noop_spec, offered

GRAPH = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 7, "text": "夜空"}}})


def painted_elsewhere(**texts: str) -> bytes:
    """A PNG as ComfyUI writes it, with chunks of other kinds, and bytes behind its end."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    info.add_itxt("comment", "夜空", lang="ja")
    info.add(b"tIME", b"\x07\xea\x0b\x17\x0c\x00\x00")
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGBA").resize((96, 64)).save(out, "PNG", pnginfo=info, dpi=(72, 72))
    return out.getvalue() + b"behind"


def making() -> Making:
    job = offered(prompt="1girl", width=96, height=64)
    return Making(job, Picture(job.attempt_id, 1, 8), "comfyui", ("slow",), {})


def texts(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImageFile)
        return dict(image.text)


def chunks(data: bytes) -> list[bytes]:
    return [data[chunk.start : chunk.end] for chunk in png_chunks(data)]


class TestPng:
    def test_every_byte_of_it_is_kept_and_our_texts_are_put_behind_its_head(self) -> None:
        data = painted_elsewhere(prompt=GRAPH, workflow='{"nodes": []}')
        found, media = rendered(data, making())
        assert (media.media_type, media.width, media.height, media.frames) == ("image/png", 96, 64, None)
        before, after = chunks(data), chunks(found)
        assert (after[0], after[3:]) == (before[0], before[1:])
        assert found.endswith(b"behind")
        assert [chunk[4:8] for chunk in after[1:3]] == [b"tEXt", b"iTXt"]
        assert all(zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]) for chunk in after)

    def test_other_tools_read_all_of_it(self) -> None:
        data = painted_elsewhere(prompt=GRAPH, workflow='{"nodes": []}')
        found, _ = rendered(data, making())
        told = texts(found)
        assert (told["prompt"], told["workflow"], told["comment"]) == (GRAPH, '{"nodes": []}', "夜空")
        assert told[PARAMETERS].startswith("1girl\n")
        assert "Size: 96x64" in told[PARAMETERS]
        record = read_png(found)
        assert record is not None
        assert (record["engine"], record["index"], record["seed"], record["warnings"]) == ("comfyui", 1, 8, ["slow"])
        with Image.open(io.BytesIO(data)) as theirs, Image.open(io.BytesIO(found)) as ours:
            assert theirs.tobytes() == ours.tobytes()

    def test_parameters_of_its_maker_stay_the_only_ones(self) -> None:
        found, _ = rendered(painted_elsewhere(parameters="theirs"), making())
        assert texts(found)[PARAMETERS] == "theirs"
        assert sum(chunk[8:].startswith(PARAMETERS.encode()) for chunk in chunks(found)) == 1
        assert read_png(found) is not None

    def test_a_record_under_our_name_is_replaced(self) -> None:
        once, _ = rendered(painted_elsewhere(), making())
        now = making()
        again, _ = rendered(once, now)
        record = read_png(again)
        assert record is not None
        assert record["job_id"] == str(now.job.job_id)
        assert sum(chunk[8:].startswith(PICTURE_RECORD.encode()) for chunk in chunks(again)) == 1

    def test_an_animated_one_goes_on_moving(self) -> None:
        found, media = rendered(animation("PNG"), making())
        assert (media.frames, media.duration) == (5, 0.4)
        with Image.open(io.BytesIO(found)) as image:
            assert getattr(image, "n_frames", 1) == 5
        assert read_png(found) is not None


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (clip(), "video/mp4"),
        (sound(0.2), "audio/wav"),
        (animation("WEBP"), "image/webp"),
        (still("JPEG"), "image/jpeg"),
    ],
    ids=str,
)
def test_what_is_no_png_stays_as_it_is(data: bytes, media_type: MediaType) -> None:
    found, media = rendered(data, making())
    assert (found, media.media_type) == (data, media_type)


@pytest.mark.parametrize(
    ("data", "code", "retryable"),
    [
        (b"", "output_damaged", True),
        (painted_elsewhere()[:-100], "output_damaged", True),
        (clip()[:-40], "output_damaged", True),
        (b"<html>an error page</html>", "output_unusable", False),
        (clip(container="matroska", codec="libvpx"), "output_unusable", False),
    ],
    ids=["empty", "half a picture", "half a clip", "a page", "matroska"],
)
def test_what_cannot_be_used_fails_with_a_code(data: bytes, code: str, retryable: bool) -> None:
    with pytest.raises(EngineError, match="the file that was made") as raised:
        rendered(data, making())
    assert (raised.value.code, raised.value.retryable) == (code, retryable)


@dataclass
class Ear(Line):
    """What a run tells."""

    heard: list[tuple[Model, bytes]] = field(default_factory=list)

    def send(self, message: Model, blob: bytes = b"") -> None:
        self.heard.append((message, blob))


def test_a_run_tells_what_each_file_is_and_the_service_stages_it_so() -> None:
    job = offered(count=3)
    ear, spec = Ear(), noop_spec()
    run = Run(ear, wire.Draw(run=1, model="noop", jobs=(job,)), {"noop": "noop"}, Cancellations())
    files = (clip(), sound(0.5, container="flac", codec="flac"))

    def draw(jobs: object) -> None:
        del jobs
        for index, data in enumerate(files):
            run.on_event(Rendered(Picture(job.attempt_id, index, index), data))
        run.on_event(Drawn(Picture(job.attempt_id, 2, 2), Image.new("RGB", (64, 64))))

    assert run.guarded(draw, spec.info(tuple(Sampler))) is False
    painted = [(each, blob) for each, blob in ear.heard if isinstance(each, wire.Painted)]
    assert [(each.media_type, each.width, each.height, each.duration, each.frames) for each, _ in painted] == [
        ("video/mp4", 64, 48, 1.0, 8),
        ("audio/flac", 0, 0, 0.5, None),
        ("image/png", 64, 64, None, None),
    ]
    assert [blob for _, blob in painted[:2]] == list(files)
    assert [each.outcome for each, _ in ear.heard if isinstance(each, wire.Ended)] == ["painted"]


@pytest.mark.parametrize(
    ("media_type", "extension", "measures"),
    [
        ("video/webm", "webm", {"width": 64, "height": 48, "duration": 1.5, "frames": 12}),
        ("audio/mpeg", "mp3", {"width": 0, "height": 0, "duration": 2.25}),
        ("image/png", "png", {"width": 64, "height": 48}),
    ],
)
async def test_a_file_is_staged_under_the_extension_of_its_type(
    tmp_path: Path, media_type: MediaType, extension: str, measures: dict[str, float]
) -> None:
    artifacts, job = Artifacts(tmp_path.as_uri()), offered()
    painted = wire.Painted.model_validate(
        {"run": 1, "attempt_id": job.attempt_id, "index": 3, "seed": 9, "media_type": media_type, **measures}
    )
    output = await Staging(artifacts, patience=1).store(job, painted, b"bytes", lambda: True)
    key = staging_key(job.job_id, job.attempt_id, 3, media_type)
    assert key.endswith(f"/3.{extension}")
    assert await artifacts.get(key) == b"bytes"
    told = {"duration": None, "frames": None} | measures
    assert {name: getattr(output, name) for name in told} == told
    assert (output.media_type, output.size, output.sha256) == (media_type, 5, hashlib.sha256(b"bytes").hexdigest())
