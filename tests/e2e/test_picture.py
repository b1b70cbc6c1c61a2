"""A real picture, end to end, with the built-in model: over HTTP and straight from NATS."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anime_cli.errors import ExitStatus
from anime_common.contracts.generation import PICTURE_RECORD
from anime_common.messages import uuid7
from tests.stacks import ROOT, Product, data
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]


async def test_from_http_to_the_filed_picture(sprite: Product) -> None:
    made = await sprite.http.post("/projects", json={"name": "Moonlit Academy"})
    assert made.status_code == 201, made.text
    prompt = "1girl, blue hair, twintails, smile, classroom"
    # Frames of an attempt are shown once its dispatch is known: a model that must be loaded first leaves time for that.
    assert (await sprite.anime("unload"))[0] == ExitStatus.OK
    job, events = await sprite.submit_and_watch(prompt, project="moonlit-academy", seed=42)
    seen = [data(event)["phase"] for event in events if event.event == "progress"]
    phases = [phase for index, phase in enumerate(seen) if index == 0 or seen[index - 1] != phase]
    wanted = ["encoding", "sampling", "decoding", "saving"]
    assert [phase for phase in phases if phase in wanted] == wanted
    steps = [(d["step"], d["steps"]) for d in map(data, events) if d.get("phase") == "sampling" and d.get("step")]
    assert {total for _, total in steps} == {12}
    assert [step for step, _ in steps] == sorted({step for step, _ in steps})
    percents = [data(event)["percent"] for event in events if event.event == "progress"]
    assert percents == sorted(percents)
    assert max(percents[:-1], default=0) <= 99
    types = [data(event)["type"] for event in events if event.event == "job"]
    assert types[-3:] == ["started", "filing", "completed"]

    done = await sprite.job(job["code"])
    assert (done["state"], done["progress"]["percent"]) == ("completed", 100)
    path = sprite.picture(done)
    assert re.fullmatch(
        rf"moonlit-academy/\d{{4}}-\d\d-\d\d/image/{job['code']}_\d+\.png", str(path.relative_to(sprite.artifacts))
    )
    with Image.open(path) as image:
        assert image.size == (128, 128)
        assert "Seed: 42" in image.info["parameters"]
        full = next(json.loads(v) for k, v in image.info.items() if k != "parameters" and str(v).startswith("{"))
    assert str(job["id"]) in json.dumps(full)
    row = await sprite.row("SELECT * FROM anime_api.production_jobs WHERE job_id = $1", job["code"])
    assert row["status"] == "completed"
    assert row["output_path"] == done["outputs"][0]["key"]
    assert 0 < row["generation_time_seconds"] <= row["total_time_seconds"]
    assert set(done["timings"]) >= {"sampling", "decoding", "saving"}
    served = await sprite.http.get(f"/files/{done['outputs'][0]['file_id']}/content")
    assert served.content == path.read_bytes()
    assert served.headers["content-type"] == "image/png"


async def test_the_same_seed_is_the_same_picture(sprite: Product) -> None:
    jobs = [await sprite.submit("1boy, red hair, night sky", seed=9, steps=4) for _ in range(2)]
    pictures = []
    for job in jobs:
        done = await sprite.until(job["id"], "completed")
        with Image.open(sprite.picture(done)) as image:
            pictures.append(image.convert("RGB").tobytes())
    assert max(abs(one - two) for one, two in zip(*pictures, strict=True)) <= 2


async def test_an_outside_publisher_does_the_same_over_nats(sprite: Product) -> None:
    where = ["--url", sprite.nats.url, "--password-file", str(sprite.nats.password_file("tower"))]
    example = str(ROOT / "examples" / "publish_a_job.py")
    status, out, err = await sprite.run(sys.executable, example, "1girl, green hair, forest", *where)
    assert status == 0, err + out
    found = await sprite.http.get("/jobs", params={"client": "tower"})
    job = next(each for each in found.json()["items"] if each["request"]["prompt"] == "1girl, green hair, forest")
    done = await sprite.until(job["id"], "completed")
    assert sprite.picture(done).parent.parent.parent.name == "default"


async def test_echo_optimises_before_the_picture(sprite: Product) -> None:
    job = await sprite.submit("blue hair girl", optimize=True, steps=2)
    done = await sprite.until(job["id"], "completed")
    assert done["prompt_note"].startswith("builtin:")
    assert "blue hair" in done["settings"]["prompt"]
    assert done["request"]["prompt"] == "blue hair girl"


async def test_several_pictures_with_consecutive_seeds(sprite: Product) -> None:
    job = await sprite.submit("1girl, pink hair, smile", count=3, seed=100, steps=3)
    done = await sprite.until(job["id"], "completed")
    assert [(o["index"], o["seed"]) for o in done["outputs"]] == [(0, 100), (1, 101), (2, 102)]
    assert len({o["sha256"] for o in done["outputs"]}) == 3
    for index in range(3):
        sprite.picture(done, index)


async def test_nothing_is_left_over(sprite: Product) -> None:
    job = await sprite.submit("1girl, black hair", steps=1, project="default")
    await sprite.until(job["id"], "completed")
    staging = sprite.artifacts / "staging"
    await eventually(lambda: not [path for path in staging.rglob("*") if path.is_file()])
    await sprite.audit()
    assert (await sprite.http.get(f"/jobs/{uuid7()}")).status_code == 404


async def test_a_preview_is_seen_while_it_is_drawn(sprite: Product) -> None:
    job = await sprite.submit("1girl, orange hair, beach", steps=60)
    url = ""

    async def previewed() -> bool:
        nonlocal url
        url = (await sprite.job(job["id"]))["progress"].get("preview_url") or ""
        return bool(url)

    await eventually(previewed, within=30, every=0.05)
    seen = await sprite.http.get(f"/jobs/{job['id']}/preview")
    assert seen.status_code == 200, url
    assert seen.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(seen.content)) as image:
        assert image.format == "JPEG"
    await sprite.until(job["id"], "completed")


async def test_a_picture_is_made_again_from_its_own_metadata(sprite: Product, tmp_path: Path) -> None:
    """Drawn in a batch; made again alone, after the model was given up, and after the worker was started anew."""
    submitted = await sprite.submit("1girl, red hair, hat", count=3, seed=7, steps=6, sampler="euler a")
    done = await sprite.until(submitted["id"], "completed")
    path = sprite.picture(done, 2)
    for disturb in (sprite.anime("unload"), sprite.stack.restart("generator")):
        await disturb
        status, out, err = await sprite.anime("regenerate", str(path), "--json")
        assert status == ExitStatus.OK, out + err
        found = json.loads(out.splitlines()[-1])
        assert found["same"] is True
        assert found["difference"]["largest"] <= 1
        assert found["settings_changed"] == []
    with Image.open(path) as image:
        changed = image.convert("RGB")
        changed.putpixel((5, 5), (1, 2, 3))
        told = PngInfo()
        told.add_itxt(PICTURE_RECORD, image.text[PICTURE_RECORD])  # type: ignore[attr-defined]
        changed.save(tmp_path / "changed.png", pnginfo=told)
    status, out, _ = await sprite.anime("regenerate", str(tmp_path / "changed.png"))
    assert status == ExitStatus.FAILED
    assert "differs: 0." in out


async def test_the_shipped_character_in_few_steps_with_a_word_that_nobody_knows(sprite: Product) -> None:
    prompt = "hikari, 1girl, smile, forest, spaceship"
    job = await sprite.submit(prompt, preset="fast", loras=[{"key": "hikari"}], seed=3)
    done = await sprite.until(job["id"], "completed")
    assert (done["settings"]["steps"], done["settings"]["loras"]) == (4, [{"key": "hikari", "weight": 1.0}])
    (warning,) = done["warnings"]
    assert warning.startswith("prompt: left out 'spaceship'; sprite knows these tags: ")
    status, out, err = await sprite.anime("regenerate", str(sprite.picture(done)), "--json")
    assert status == ExitStatus.OK, out + err


@pytest.mark.parametrize("size", [{"width": 160}, {"height": 160}, {"width": 64, "height": 64}])
async def test_sizes_that_the_model_was_not_trained_on_are_refused(sprite: Product, size: dict[str, int]) -> None:
    refused = await sprite.http.post("/jobs", json={"prompt": "1girl", **size})
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (422, "invalid", next(iter(size)))
    assert "the model sprite draws sides of 128 pixels" in problem["detail"]
