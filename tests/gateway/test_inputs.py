"""Jobs that begin with pictures: the gateway looks for them in the library first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from anime_common import rpc, topology
from anime_common.contracts.files import GET_FILE
from anime_common.messages import uuid7
from tests.gateway.conftest import Connect, Door
from tests.gateway.ledger import Ledger
from tests.gateway.test_library_http import Library

PROMPT = {"prompt": "1girl, blue hair"}


@pytest_asyncio.fixture
async def library(connect: Connect) -> AsyncIterator[Library]:
    found = Library()
    await rpc.serve(await connect(topology.FILES), {GET_FILE: found.get})
    yield found


async def test_pictures_of_the_library_are_taken(door: Door, ledger: Ledger, library: Library) -> None:
    picture, mask = library.add(type="upload"), library.add(media_type="image/webp")
    response = await door.client.post(
        "/jobs", json=PROMPT | {"init_image": str(picture.id), "mask": str(mask.id), "strength": 0.3}
    )
    assert response.status_code == 201, response.text
    (job,) = ledger.jobs.values()
    assert (job.request.init_image, job.request.mask, job.request.strength) == (picture.id, mask.id, 0.3)


@pytest.mark.parametrize("field", ["init_image", "mask"])
@pytest.mark.parametrize(
    ("file", "code"), [(None, "unknown_file"), ({"type": "video", "media_type": "video/mp4"}, "not_a_picture")]
)
async def test_everything_else_is_refused_by_its_field(
    door: Door, ledger: Ledger, library: Library, field: str, file: dict[str, Any] | None, code: str
) -> None:
    wrong = uuid7() if file is None else library.add(**file).id
    wanted = {"init_image": str(library.add().id)} | {field: str(wrong)}
    response = await door.client.post("/jobs", json=PROMPT | wanted)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, code, field)
    assert ledger.jobs == {}


async def test_of_two_that_are_missing_the_first_is_named(door: Door, ledger: Ledger, library: Library) -> None:
    wanted = {"mask": str(uuid7()), "init_image": str(uuid7())}
    assert (await door.client.post("/jobs", json=PROMPT | wanted)).json()["field"] == "init_image"


async def test_without_the_library_only_plain_jobs_are_taken(door: Door, ledger: Ledger) -> None:
    away = await door.client.post("/jobs", json=PROMPT | {"init_image": str(uuid7())})
    assert (away.status_code, away.json()["code"]) == (503, "unavailable")
    assert away.headers["retry-after"]
    assert (await door.client.post("/jobs", json=PROMPT)).status_code == 201
    assert len(ledger.jobs) == 1
