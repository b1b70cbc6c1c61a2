"""The product with ComfyUI servers beside it: jobs go there by the name of their model, and outlive both sides."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from anime_common.contracts.vocabulary import Sampler
from anime_generator.metadata import read_png
from tests.comfyui.painter import Manners, Painter
from tests.stacks import NOOP_MODELS, QUICK, Product, product
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

WORKER = "comfyui-attic"
SLOWER = {"ANIME_GENERATOR_FINISH_GRACE": "0.1", "ANIME_WORKER_LOST_AFTER": "20"}
"""What is left at once when a worker ends, and time for it to come back."""
DRAWING: dict[str, Any] = {"model": "anime", "width": 64, "height": 64, "sampler": Sampler.EULER_A}


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    with Painter(tmp_path_factory.mktemp("comfyui"), Manners(step=0.02)).serving() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attic(tmp_path_factory: pytest.TempPathFactory, painter: Painter) -> AsyncIterator[Product]:
    """The product with the no-op engine on this machine, and a ComfyUI server."""
    home = tmp_path_factory.mktemp("attic")
    models = home / "models.toml"
    models.write_text(NOOP_MODELS)
    (home / "comfyui.toml").write_text(f'[servers.attic]\nurl = "{painter.url}"\n')
    env = {"*": QUICK | SLOWER, "generator": {"ANIME_MODELS": str(models)}}
    async with product(home, env) as found:
        await eventually(lambda: has_model(found, "anime"))
        yield found


@pytest.fixture(autouse=True)
def released(painter: Painter) -> Iterator[None]:
    """Nothing that a test leaves held stands in the way of the next."""
    yield
    painter.manners.hold, painter.manners.held = None, True


async def has_model(found: Product, key: str) -> bool:
    answer = await found.http.get("/models")
    return key in {each["model"]["key"] for each in answer.json()["items"]}


async def worker(found: Product) -> dict[str, Any]:
    answer = await found.http.get("/generators")
    return next(each for each in answer.json()["items"] if each["worker"] == "attic")


def held(painter: Painter, step: int) -> None:
    painter.manners.hold, painter.manners.held = step, True


def drawing(painter: Painter, step: int) -> bool:
    return painter.running is not None and painter.running.step >= step


async def test_jobs_go_where_their_model_is(attic: Product, painter: Painter) -> None:
    mine, theirs = await attic.submit("noop"), await attic.submit("1girl, hat", steps=4, count=2, **DRAWING)
    assert (await attic.until(mine["id"], "completed"))["worker"] == "local"
    done = await attic.until(theirs["id"], "completed")
    assert done["worker"] == "attic"
    record = read_png(attic.picture(done, 1).read_bytes())
    assert record is not None
    assert (record["engine"], record["index"]) == ("comfyui", 1)
    said = json.loads((await attic.anime("generators", "--json")).out)
    assert {each["worker"] for each in said["items"]} == {"local", "attic"}


async def test_a_picture_is_uploaded_drawn_over_and_enlarged(attic: Product) -> None:
    out = io.BytesIO()
    Image.new("RGB", (80, 64), (230, 60, 60)).save(out, "PNG")
    made = await attic.http.post("/uploads", content=out.getvalue(), headers={"Content-Type": "image/png"})
    file = made.json()["id"]
    over = await attic.submit("a fox", init_image=file, strength=0.5, steps=8, **DRAWING)
    asked = {"model": "anime", "init_image": file, "strength": 0, "upscale": {"factor": 2.0}}
    larger = await attic.submit("as it is", **asked)
    done = await attic.until(over["id"], "completed")
    assert any("cut from 80 x 64" in each for each in done["warnings"])
    done = await attic.until(larger["id"], "completed")
    assert (done["outputs"][0]["width"], done["outputs"][0]["height"]) == (160, 128)
    assert done["settings"]["upscale"]["upscaler"] == "realesrgan_x4plus_anime_6b"


async def test_of_a_job_that_failed_it_is_told_too(attic: Product, painter: Painter) -> None:
    painter.manners.most_pixels = 16
    job = await attic.submit("too much", steps=5, **DRAWING)
    await attic.until(job["id"], "failed")
    painter.manners.most_pixels = None
    shown = json.loads((await attic.anime("profile", job["code"], "--json")).out)
    assert (shown["runs"], shown["workflow"]) == (1, "text-to-image")
    assert "Sampler" in {each["title"] for each in shown["nodes"]}


async def test_it_is_told_where_the_time_went(attic: Product) -> None:
    job = await attic.submit("1girl, profile", steps=5, count=2, **DRAWING)
    await attic.until(job["id"], "completed")
    shown = json.loads((await attic.anime("profile", job["code"], "--json")).out)
    assert (shown["runs"], shown["engine"], shown["workflow"]) == (1, "comfyui", "text-to-image")
    assert shown["nodes"][0]["title"] == "Sampler"
    assert shown["nodes"][0]["seconds"] >= 2 * 5 * 0.02
    assert {"loading", "sampling", "saving"} <= {each["phase"] for each in shown["phases"]}
    again = await attic.submit("1girl, profile again", steps=5, **DRAWING)
    await attic.until(again["id"], "completed")
    many = json.loads((await attic.anime("profile", "--workflow", "text-to-image", "--json")).out)
    assert many["runs"] >= 2
    said = await attic.anime("profile", "--model", "anime")
    assert (said.status, "medians of" in said.out, "Sampler" in said.out) == (0, True, True)
    noop = await attic.submit("noop")
    await attic.until(noop["id"], "completed")
    said = await attic.anime("profile", noop["id"])
    assert "sampling" in said.out
    assert (await attic.anime("profile", "--model", "nobody")).out.startswith("model nobody: nothing is recorded")
    assert (await attic.anime("profile")).status == 2
    refused = await attic.http.get("/profile", params={"job": job["code"], "model": "anime"})
    assert (refused.status_code, refused.json()["field"]) == (422, "model")
    assert (await attic.http.get("/profile", params={"job": "00000000"})).status_code == 404


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_takes_up_what_its_server_goes_on_with(
    attic: Product, painter: Painter, number: signal.Signals
) -> None:
    held(painter, 3)
    sent = len(painter.posts())
    job = await attic.submit(f"outlives {number.name}", steps=6, **DRAWING)
    await eventually(lambda: drawing(painter, 2))
    before = (await worker(attic))["heartbeat"]["incarnation"]
    attic.stack.kill(WORKER, number)
    await eventually(lambda: is_back(attic, job, before), within=60)
    painter.manners.held = False
    done = await attic.until(job["id"], "completed")
    assert (done["attempt"], done["failures"]) == (1, 0)
    assert len(painter.posts()) == sent + 1


async def is_back(found: Product, job: dict[str, Any], before: str) -> bool:
    """Whether another incarnation of the worker holds an attempt of the job."""
    beat = (await worker(found))["heartbeat"]
    return beat["incarnation"] != before and job["id"] in {each["job_id"] for each in beat["attempts"]}


async def test_a_cancel_stops_the_prompt(attic: Product, painter: Painter) -> None:
    held(painter, 2)
    job = await attic.submit("never mind", steps=4, **DRAWING)
    await eventually(lambda: drawing(painter, 1))
    assert (await attic.http.post(f"/jobs/{job['id']}/cancel", json={})).is_success
    await attic.until(job["id"], "cancelled")
    await eventually(lambda: painter.running is None)


async def test_a_server_that_is_away_is_shown_and_its_jobs_wait(attic: Product, painter: Painter) -> None:
    away = painter.url
    painter.stop()
    await eventually(lambda: is_away(attic))
    job = await attic.submit("wait for it", steps=4, **DRAWING)
    await asyncio.sleep(0.5)
    assert (await attic.job(job["id"]))["state"] == "queued"
    with Painter(painter.folder, port=int(away.rpartition(":")[2])).serving():
        done = await attic.until(job["id"], "completed")
    assert done["failures"] == 0


async def is_away(found: Product) -> bool:
    beat = (await worker(found))["heartbeat"]
    return not beat["models"] and any("does not answer" in each for each in beat["warnings"])
