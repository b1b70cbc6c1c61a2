"""Projects and characters through the whole product: what is set over HTTP is what is drawn, filed and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anime_cli.errors import ExitStatus
from tests.stacks import Product
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

YUKI = {
    "name": "Yuki",
    "canon": {"figure": "girl", "hair": "long hair, silver hair", "eyes": "red eyes", "never": "glasses"},
    "seed": {"mode": "scene"},
}


async def post(product: Product, path: str, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
    answer = await product.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_picture_of_a_character_in_a_project(noop: Product) -> None:
    project = await post(
        noop,
        "/projects",
        {
            "name": "Moonlit",
            "style": {"prompt_prefix": "anime", "negative_prompt": "blurry", "width": 128, "height": 64},
        },
    )
    yuki = await post(noop, "/characters", YUKI | {"project": "moonlit", "note": "pilot"})
    changed = await noop.http.patch(
        f"/characters/{yuki['id']}", json={"canon": {"hair": "short hair"}}, headers={"If-Match": '"1"'}
    )
    assert (changed.json()["version"], changed.headers["etag"]) == (2, '"2"')
    request = {"prompt": "smile, green eyes", "project": "moonlit", "characters": ["yuki"], "scene": "roof"}
    shown = await post(noop, "/prompts/preview", request, 200)
    assert shown["composition"]["prompt"] == "anime, 1girl, short hair, smile, green eyes"
    job = await noop.until((await noop.submit(request.pop("prompt"), **request))["id"], "completed")  # type: ignore[arg-type]
    assert job["composition"] == shown["composition"]
    assert job["settings"] == shown["settings"], "a scene has one seed, so a preview names the very picture"
    assert (job["settings"]["width"], job["settings"]["negative_prompt"]) == (128, "blurry, glasses")
    assert [(each["slug"], each["version"]) for each in job["composition"]["characters"]] == [("yuki", 2)]
    assert any("eye colour is green" in warning for warning in job["warnings"])
    (picture,) = [noop.artifacts / output["key"] for output in job["outputs"]]
    with Image.open(picture) as image:
        assert "anime, 1girl, short hair, smile, green eyes" in image.info["parameters"]

    by_character = (await noop.http.get("/jobs", params={"character": "yuki", "project": "moonlit"})).json()
    assert [each["id"] for each in by_character["items"]] == [job["id"]]
    kept = await noop.http.delete(f"/characters/{yuki['id']}")
    assert (kept.json()["deleted"], kept.json()["jobs"]) == (False, 1)
    assert kept.json()["character"]["state"] == "archived"
    refused = await noop.http.post("/jobs", json={"prompt": "x", "project": "moonlit", "characters": ["yuki"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "character_archived")
    assert refused.json()["field"] == "characters.0"

    full = (await noop.http.get(f"/projects/{project['id']}")).json()
    assert (full["counts"], full["files"]) == ({"completed": 1}, 1)
    archived = (await noop.http.delete("/projects/moonlit")).json()
    assert (archived["deleted"], archived["project"]["state"]) == (False, "archived")
    gone = (await noop.http.delete("/projects/moonlit", params={"force": True})).json()
    assert (gone["deleted"], gone["jobs"], gone["trashed"]) == (True, 1, 1)

    async def trashed() -> bool:
        return bool((await noop.http.get("/files", params=trash)).json()["items"])

    trash: dict[str, str | bool] = {"trashed": True, "project": "moonlit"}
    await eventually(trashed)
    (file,) = (await noop.http.get("/files", params=trash)).json()["items"]
    assert (await noop.http.get(f"/files/{file['id']}/content")).status_code == 404
    status, out, err = await noop.anime("files", "restore", file["id"])
    assert (status, file["key"] in out) == (ExitStatus.OK, True), err
    assert (await noop.http.get(f"/files/{file['id']}/content")).content == Path(picture).read_bytes()
    # Its job went with the project: a file that no job names is nothing that others shall find on this stack.
    assert (await noop.http.delete(f"/files/{file['id']}")).status_code == 200


async def test_two_characters_have_a_window_each_and_a_seed_of_their_scene(noop: Product) -> None:
    await post(noop, "/projects", {"name": "Duet"})
    await post(noop, "/characters", YUKI | {"project": "duet"})
    mio = {"name": "Mio", "canon": {"figure": "girl", "hair": "blonde hair"}, "project": "duet"}
    await post(noop, "/characters", mio)
    request: dict[str, Any] = {
        "project": "duet",
        "characters": ["yuki", {"character": "mio", "words": "waving"}],
        "scene": "park",
    }
    first = await noop.submit("park", **request)
    second = await noop.submit("park, night", **request)
    assert (
        first["settings"]["prompt"]
        == "2girls BREAK long hair, silver hair, red eyes BREAK blonde hair, waving BREAK park"
    )
    assert first["settings"]["seed"] == second["settings"]["seed"]
    elsewhere = await noop.submit("hall", **(request | {"scene": "hall"}))
    assert elsewhere["settings"]["seed"] != first["settings"]["seed"]


async def test_versions_from_the_command_line(noop: Product) -> None:
    made = ["--figure", "girl", "--hair", "blonde", "--note", "pilot"]
    status, _, err = await noop.anime("characters", "create", "Ren Ito", *made)
    assert status == ExitStatus.OK, err
    assert (await noop.anime("characters", "create", "Ren Ito"))[0] == ExitStatus.CONFLICT
    file = noop.home / "ren.yaml"
    file.write_text("canon:\n  eyes: [blue eyes]\n  outfit: white coat, gloves\nlora:\n  key: ren-v2\n")
    status, out, err = await noop.anime("characters", "update", "ren-ito", "--from", str(file), "--hair", "black hair")
    assert (status, "white coat, gloves" in out, "2 of 2" in out) == (ExitStatus.OK, True, True), err
    assert "pilot" in (await noop.anime("characters", "versions", "ren-ito"))[1]
    status, out, _ = await noop.anime("characters", "compare", "ren-ito", "1", "2", "--json")
    assert [each["field"] for each in json.loads(out)["differences"]] == [
        *("lora", "canon.hair", "canon.eyes", "canon.outfit")
    ]
    stale = await noop.anime("characters", "use", "ren-ito", "1", "--if-revision", "1")
    assert stale[0] == ExitStatus.CONFLICT
    status, out, _ = await noop.anime("characters", "use", "ren-ito", "1", "--if-revision", "2", "--json")
    assert (status, json.loads(out)["version"], json.loads(out)["versions"]) == (ExitStatus.OK, 1, 2)
    status, out, err = await noop.anime("compose", "smile", "--character", "ren-ito@2")
    assert (status, "black hair, blue eyes, white coat, gloves, smile" in out) == (ExitStatus.OK, True), err
    assert "the LoRA ren-v2 is left out" in out
    status, _, err = await noop.anime("generate", "smile", "-c", "ren-ito@two")
    assert (status, "is no number" in err) == (ExitStatus.USAGE, True)
    status, out, _ = await noop.anime("characters", "delete", "ren-ito")
    assert (status, out) == (ExitStatus.OK, "character ren-ito is deleted\n")


BATCH = """
# yaml-language-server: $schema=batch.schema.json
name: Hair and scenes
request:
  prompt: "1girl, {hair}, {scene}"
  project: night
variables:
  hair: silver hair
  scene: [rooftop, classroom]
"""


async def test_a_batch_from_a_file_to_its_end(noop: Product) -> None:
    await post(noop, "/projects", {"name": "Night"})
    file = noop.home / "batch.yaml"
    file.write_text(BATCH)
    status, _, err = await noop.anime("batch", str(file), "--dry-run")
    assert (status, "variables.hair" in err) == (ExitStatus.USAGE, True), "a list is needed"
    file.write_text(BATCH.replace("silver hair", "[silver hair, black hair]"))
    status, out, err = await noop.anime("batch", str(file), "--dry-run")
    assert (status, out.splitlines()[-1]) == (ExitStatus.OK, "4 jobs"), err
    assert "1girl, black hair, rooftop" in out
    assert (await noop.http.get("/jobs", params={"project": "night"})).json()["items"] == []
    status, _, err = await noop.anime("batch", str(file))
    assert (status, "make these 4 jobs?" in err) == (ExitStatus.USAGE, True), "nobody is there to answer"
    status, out, err = await noop.anime("batch", str(file), "--yes", "--watch")
    assert status == ExitStatus.OK, err
    assert "100 %  4 completed" in out
    code = next(line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("batch "))
    jobs = (await noop.http.get("/jobs", params={"batch": code})).json()["items"]
    assert sorted(tuple(job["labels"].values()) for job in jobs) == [
        (hair, scene) for hair in ("black hair", "silver hair") for scene in ("classroom", "rooftop")
    ]
    assert {len(job["outputs"]) for job in jobs} == {1}
    found = (await noop.http.get(f"/batches/{code}")).json()
    assert (found["percent"], found["counts"], found["project"]) == (100.0, {"completed": 4}, "night")
    assert found["ended_at"]

    async def shown() -> bool:
        return bool((await noop.http.get(f"/batches/{code}")).json()["sheet"])

    await eventually(shown, within=20)
    sheet = (await noop.http.get(f"/batches/{code}")).json()["sheet_url"]
    answer = await noop.http.get(sheet.removeprefix("/api/anime"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    (grid,) = (await noop.http.get("/files", params={"type": "grid", "project": "night"})).json()["items"]
    assert grid["name"] == "Hair and scenes"
    status, out, _ = await noop.anime("batches", "list", "--project", "night")
    assert (status, code in out) == (ExitStatus.OK, True)
    assert (await noop.anime("batches", "show", "zzzzzzzz"))[0] == ExitStatus.NOT_FOUND


async def test_a_batch_waits_for_the_night_and_can_be_called_off(noop: Product) -> None:
    file = noop.home / "night.yaml"
    file.write_text("request: {prompt: 'noop: step_ms=1'}\nseeds: [1, 2, 3]\n")
    status, out, err = await noop.anime("batch", str(file), "--night", "23:59", "--yes", "--json")
    assert status == ExitStatus.OK, err
    code = json.loads(out)["batch"]["code"]
    jobs = (await noop.http.get("/jobs", params={"batch": code})).json()["items"]
    assert {job["state"] for job in jobs} == {"queued"}
    assert all(job["progress"]["message"].startswith("not before ") for job in jobs)
    for order, said in (("pause", "3 jobs held back"), ("resume", "3 jobs go on")):
        status, out, err = await noop.anime("batches", order, code)
        assert (status, said in out) == (ExitStatus.OK, True), err
    status, out, err = await noop.anime("batches", "cancel", code, "--yes")
    assert (status, "3 jobs are being stopped" in out) == (ExitStatus.OK, True), err
    found = (await noop.http.get(f"/batches/{code}")).json()
    assert (found["counts"], bool(found["ended_at"])) == ({"cancelled": 3}, True)
    status, _, err = await noop.anime("batch", str(file), "--night", "noon")
    assert (status, "23:30" in err) == (ExitStatus.USAGE, True)


async def test_wildcards_lie_in_the_home(noop: Product) -> None:
    (folder := noop.home / "wildcards").mkdir(exist_ok=True)
    (folder / "colours.txt").write_text("red\nblue\n")
    body = {"request": {"prompt": "__colours__ {hair|eyes}"}, "dynamic": {"choose": "all"}}
    offer = await post(noop, "/batches?dry_run=true", body, 200)
    assert {sample["prompt"] for sample in offer["samples"]} == {"red hair", "red eyes", "blue hair", "blue eyes"}
    refused = await noop.http.post("/batches", json=body | {"request": {"prompt": "__shapes__"}})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_wildcard")
    taken = await noop.http.post("/batches", json={"request": {"prompt": "a"}, "count": 2000})
    assert (taken.status_code, taken.json()["field"]) == (422, "count")
