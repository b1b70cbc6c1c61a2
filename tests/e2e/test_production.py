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
    assert "anime, 1girl, short hair, smile, green eyes" in Image.open(picture).info["parameters"]

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
