"""Pictures that begin with pictures, on the whole stack with the built-in model: uploaded, drawn over, enlarged."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anime_common.contracts.generation import GenerationRequest
from anime_common.contracts.jobs import SubmitJob
from anime_common.messages import Outgoing, uuid7
from anime_common.topology import TOWER
from anime_generator.metadata import read_png
from tests.stacks import Product

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PROMPT = "1girl, blue hair, twintails, smile, classroom"
SIDE = 128


def sketch() -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", (SIDE, SIDE), (230, 60, 60))
    ImageDraw.Draw(image).ellipse((32, 32, 96, 96), fill=(250, 220, 180))
    image.save(out, "PNG")
    return out.getvalue()


def right_half() -> bytes:
    """White on the right."""
    out = io.BytesIO()
    image = Image.new("L", (SIDE, SIDE), 0)
    image.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    image.save(out, "PNG")
    return out.getvalue()


async def upload(product: Product, data: bytes) -> str:
    made = await product.http.post("/uploads", content=data, headers={"Content-Type": "image/png"})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def pixels(data: bytes) -> NDArray[np.int64]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


async def test_from_an_upload_to_a_picture_that_knows_it(sprite: Product) -> None:
    sent = sketch()
    file = await upload(sprite, sent)
    near, far = [
        await sprite.submit(PROMPT, init_image=file, strength=strength, seed=5, steps=8) for strength in (0.15, 0.9)
    ]
    found = []
    for job in (near, far):
        done = await sprite.until(job["id"], "completed")
        assert done["settings"]["init_image"] == file
        found.append(sprite.picture(done).read_bytes())
    distance = [np.abs(pixels(each) - pixels(sent)).mean() for each in found]
    assert distance[0] < distance[1]
    record = read_png(found[0])
    assert record is not None
    assert record["inputs"] == {file: hashlib.sha256(sent).hexdigest()}
    with Image.open(io.BytesIO(found[0])) as image:
        assert "Denoising strength: 0.15" in image.info["parameters"]


async def test_outside_of_a_mask_everything_stays(sprite: Product) -> None:
    sent = sketch()
    file, mask = await upload(sprite, sent), await upload(sprite, right_half())
    job = await sprite.submit(PROMPT, init_image=file, mask=mask, strength=0.8, steps=8)
    drawn = pixels(sprite.picture(await sprite.until(job["id"], "completed")).read_bytes())
    changed = np.abs(drawn - pixels(sent)).mean(axis=(0, 2))
    assert changed[: SIDE // 2].max() == 0
    assert changed[SIDE // 2 :].mean() > 1


async def test_from_the_command_line(sprite: Product) -> None:
    path = sprite.home / "sketch.png"
    with Image.open(io.BytesIO(sketch())) as image:
        image.resize((400, 300)).save(path)
    options = ["--from", str(path), "--strength", "0.5", "--steps", "6", "--watch", "--json"]
    status, out, err = await sprite.anime("generate", PROMPT, *options)
    assert status == 0, err
    job = json.loads(out.splitlines()[-1])["job"]
    assert (job["settings"]["width"], job["settings"]["height"]) == (128, 128)
    status, out, err = await sprite.anime("upscale", job["code"], "--factor", "1.5", "--watch", "--json")
    assert status == 0, err
    larger = json.loads(out.splitlines()[-1])["job"]
    with Image.open(sprite.picture(larger)) as image:
        assert image.size == (192, 192)
    status, _, err = await sprite.anime("generate", PROMPT, "--from", str(uuid7()))
    assert status == 4, err


async def test_what_is_missing_is_refused_at_the_door_and_fails_a_job_of_the_bus(sprite: Product) -> None:
    gone = uuid7()
    refused = await sprite.http.post("/jobs", json={"prompt": PROMPT, "init_image": str(gone)})
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (422, "unknown_file", "init_image")
    command = SubmitJob(job_id=uuid7(), request=GenerationRequest(prompt=PROMPT, init_image=gone))
    async with sprite.bus(TOWER) as bus:
        await bus.publish(Outgoing(command, str(uuid7()), (("client", "tower"),)))
    failed = await sprite.until(str(command.job_id), "failed")
    assert failed["error"]["code"] == "input_missing"
    assert failed["error"]["message"] == f"init_image: there is no file {gone} in the library"
