"""The engine on a real ComfyUI server: skipped unless ANIME_TEST_COMFYUI_URL names one.

    ANIME_TEST_COMFYUI_URL=http://127.0.0.1:8188 make test-live

What needs a checkpoint takes the first one that the server has, at 64 x 64 pixels and few steps, so that a CPU will do;
without one those tests are skipped. Files go to the folder `tower` of the server's output. Run it on a server that
nobody else uses: one test interrupts its own prompt while others wait.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from anime_common.contracts.generation import HiresPass, Upscaling
from anime_common.contracts.generator import OfferedJob
from anime_common.contracts.vocabulary import Phase, Sampler
from anime_common.media import probe
from anime_common.messages import uuid7
from anime_generator.comfyui import faults
from anime_generator.comfyui.card import RemoteCard
from anime_generator.comfyui.checking import check
from anime_generator.comfyui.choosing import ROLES
from anime_generator.comfyui.conversation import Conversation, Done, Order, Patience
from anime_generator.comfyui.manifest import load_workflows
from anime_generator.comfyui.marks import Mark, extra_of, ours, resumable
from anime_generator.comfyui.outputs import files_of, prefix_of
from anime_generator.comfyui.records import Where
from anime_generator.comfyui.server import Refused, Server
from anime_generator.comfyui.servers import Remote, Servers
from anime_generator.comfyui.shelf import CHECKPOINTS, LORAS, UPSCALE_MODELS, Found, stock
from anime_generator.engines.comfyui import ComfyuiEngine
from anime_generator.engines.protocol import Cancelled, EngineError, EngineOptions, Stepped
from anime_generator.registry import ModelSpec
from tests.generator.builders import Told, offered

URL = os.environ.get("ANIME_TEST_COMFYUI_URL", "")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not URL, reason="ANIME_TEST_COMFYUI_URL names no server"),
    pytest.mark.timeout(900),
]
GROUND, MASK = uuid7(), uuid7()
SIDE = 64


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server(URL, {}, timeout=30)
    yield found
    found.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[ComfyuiEngine]:
    remote = Remote(name="live", url=URL)
    found = ComfyuiEngine(RemoteCard(remote, None), EngineOptions(remote=remote, preview_every=1))
    yield found
    found.close()


@pytest.fixture(scope="module")
def spec(server: Server) -> ModelSpec:
    checkpoints, loras, upscalers = (server.models(folder) for folder in (CHECKPOINTS, LORAS, UPSCALE_MODELS))
    there = Found(checkpoints, loras, upscalers, classes=server.object_info())
    found = stock(Servers({}, {}, {}), there, load_workflows()[0])
    if not found.registry.models:
        pytest.skip("the server has no checkpoint")
    return next(iter(found.registry.models.values()))


def plain(width: int = 16, prefix: str = "tower/live") -> dict[str, Any]:
    """A workflow without a checkpoint."""
    inputs = {"width": width, "height": 16, "batch_size": 1, "color": 0x336699}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs, "_meta": {"title": "Nothing"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def converse(server: Server, graph: dict[str, Any], wanted: Callable[[], bool] = lambda: True, **more: Any) -> Done:
    order = Order(more.get("prompt_id") or str(uuid4()), graph, more.get("extra") or {})
    tell = more.get("tell") or (lambda told: None)
    return Conversation(server, order, Patience(), tell, wanted, lambda ahead: None).run()


def drawn(engine: ComfyuiEngine, spec: ModelSpec, **changes: Any) -> tuple[Told, Image.Image]:
    ground = Image.new("RGB", (SIDE, SIDE), (40, 90, 200))
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    told = Told()
    engine.generate(spec, [job(spec, **changes)], told, told, inputs={GROUND: ground, MASK: mask})
    (picture,) = told.drawn
    return told, picture.image


def job(spec: ModelSpec, **changes: Any) -> OfferedJob:
    usual: dict[str, Any] = {"model": spec.key, "width": SIDE, "height": SIDE, "steps": 3, "sampler": Sampler.EULER}
    return offered(**usual | changes)


def test_a_workflow_without_a_checkpoint_runs_and_its_file_is_fetched(server: Server) -> None:
    attempt = uuid7()
    prefix = prefix_of(attempt, 0)
    done = converse(server, plain(prefix=prefix), prompt_id=str(attempt))
    (file,) = files_of(done.prompt, frozenset({"2"}), prefix)
    with Image.open(io.BytesIO(server.view(file, 1 << 20))) as image:
        assert (image.format, image.size, image.convert("RGB").getpixel((0, 0))) == (
            "PNG",
            (16, 16),
            (0x33, 0x66, 0x99),
        )


def test_a_clip_is_fetched_and_is_one(server: Server) -> None:
    attempt = uuid7()
    prefix = prefix_of(attempt, 0)
    graph = plain(64) | {
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }
    graph["1"]["inputs"] |= {"height": 64, "batch_size": 8}
    done = converse(server, graph, prompt_id=str(attempt))
    (file,) = files_of(done.prompt, frozenset({"3"}), prefix)
    found = probe(server.view(file, 1 << 24))
    assert (found.media_type, found.width, found.height, found.frames) == ("video/mp4", 64, 64, 8)
    assert found.duration == pytest.approx(1.0, abs=0.2)


def test_the_same_again_writes_a_file_of_its_own(server: Server) -> None:
    names = []
    for attempt in (uuid7(), uuid7()):
        done = converse(server, plain(prefix=prefix_of(attempt, 0)), prompt_id=str(attempt))
        names += [file.subfolder for file in done.prompt.files]
    assert len(set(names)) == 2


def test_what_was_cached_and_is_anothers_is_not_taken(server: Server) -> None:
    prefix = prefix_of(uuid7(), 0)
    converse(server, plain(prefix=prefix))
    again = converse(server, plain(prefix=prefix))
    with pytest.raises(EngineError) as caught:
        files_of(again.prompt, frozenset({"2"}), prefix_of(uuid7(), 0))
    assert caught.value.code in {faults.FOREIGN_OUTPUT, faults.NO_OUTPUT}


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ({"class_type": "NoSuchNode", "inputs": {}}, faults.NODE_MISSING),
        (
            {"class_type": "EmptyImage", "inputs": {"width": -5, "height": 16, "batch_size": 1, "color": 0}},
            faults.BAD_VALUE,
        ),
        ({"class_type": "LoadImage", "inputs": {"image": "not-there.png"}}, faults.BAD_VALUE),
        ({"class_type": "EmptyImage", "inputs": {}}, faults.BAD_VALUE),
    ],
)
def test_refusals_are_coded(server: Server, node: dict[str, Any], code: str) -> None:
    with pytest.raises(EngineError) as caught:
        converse(server, {**plain(), "1": node})
    assert (caught.value.code, caught.value.retryable) == (code, False)


def test_a_missing_checkpoint_is_called_one(server: Server) -> None:
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "not-there.safetensors"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "tower/live"}},
    }
    with pytest.raises(EngineError) as caught:
        converse(server, graph)
    assert caught.value.code == faults.MODEL_MISSING
    assert "not-there.safetensors" in caught.value.message


def test_what_is_not_known_is_nowhere(server: Server) -> None:
    assert server.find(str(uuid4())).where is Where.NOWHERE
    server.delete(str(uuid4()))
    server.interrupt(str(uuid4()))


def test_a_prompt_that_waits_is_deleted_and_leaves_nothing(server: Server) -> None:
    """Many small ones before it: it waits for a while."""
    for number in range(20):
        server.submit(str(uuid4()), plain(512 + number, f"tower/live{uuid4().hex}"), "nobody", {})
    with pytest.raises(Cancelled):
        converse(server, plain(prefix=prefix_of(uuid7(), 0)), wanted=lambda: False)


def test_what_is_kept_with_a_prompt_comes_back(server: Server) -> None:
    mark = Mark(worker="live", offer_id=uuid7(), epoch=3, index=0, job=offered())
    prompt_id = str(mark.job.attempt_id)
    converse(server, plain(prefix=prefix_of(mark.job.attempt_id, 0)), prompt_id=prompt_id, extra=extra_of(mark))
    found = ours("live", server.queue(), server.history())
    assert prompt_id in {each.prompt_id for each in found}
    assert mark in resumable(found, time.time())
    assert ours("another", server.queue(), server.history()) == ()


def test_a_file_that_is_not_there_is_refused(server: Server) -> None:
    done = converse(server, plain(prefix=prefix_of(uuid7(), 0)))
    (file,) = done.prompt.files
    gone = type(file)(node=file.node, kind=file.kind, name="gone.png", subfolder=file.subfolder, place=file.place)
    with pytest.raises(Refused):
        server.view(gone, 1 << 20)


def test_it_tells_of_its_card() -> None:
    card = RemoteCard(Remote(name="live", url=URL), None)
    memory = card.memory()
    card.close()
    assert memory.total >= memory.free > 0
    assert card.name.startswith("ComfyUI: ")


def test_it_can_run_every_workflow_for_checkpoints(server: Server) -> None:
    classes = server.object_info()
    problems = {name: check(each, classes) for name, each in load_workflows()[0].items() if name in ROLES}
    assert problems == {name: [] for name in ROLES}


def test_it_has_every_node_of_the_animation(server: Server) -> None:
    """Its models are another matter."""
    problems = check(load_workflows()[0]["animation"], server.object_info())
    assert [each for each in problems if "the server has no" not in each or "node class" in each] == []


def test_text_becomes_a_picture_with_steps_and_previews(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    told, image = drawn(engine, spec, seed=int(time.time()))
    assert image.size == (SIDE, SIDE)
    assert told.steps == [1, 2, 3]
    assert told.previews
    assert told.working[-2:] == [Phase.SAMPLING, Phase.DECODING]


def test_the_same_seed_gives_the_same_picture_and_another_one_another(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    one, same, other = (np.asarray(drawn(engine, spec, seed=seed)[1], dtype=int) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_outside_of_a_mask_nothing_changes(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    told, image = drawn(engine, spec, init_image=GROUND, mask=MASK, strength=0.7, steps=4)
    pixels = np.asarray(image, dtype=int)
    assert np.abs(pixels[:, : SIDE // 2] - (40, 90, 200)).max() <= 1
    assert told.steps == [1, 2]


def test_a_picture_is_drawn_over_by_its_share_of_the_steps(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    told, image = drawn(engine, spec, init_image=GROUND, strength=0.5, steps=4)
    assert (told.steps, image.size) == ([1, 2], (SIDE, SIDE))


def test_a_second_pass_counts_on(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    again = HiresPass(width=2 * SIDE, height=2 * SIDE, steps=4, strength=0.5, upscaler="lanczos")
    told, image = drawn(engine, spec, hires=again)
    assert (told.steps, image.size) == ([1, 2, 3, 4, 5], (2 * SIDE, 2 * SIDE))


def test_pictures_are_enlarged(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    _, image = drawn(engine, spec, upscale=Upscaling(factor=1.5, upscaler="bicubic"))
    assert image.size == (SIDE * 3 // 2,) * 2
    _, image = drawn(engine, spec, init_image=GROUND, strength=0.0, upscale=Upscaling(factor=2.0, upscaler="lanczos"))
    assert image.size == (2 * SIDE,) * 2
    assert np.abs(np.asarray(image, dtype=int) - (40, 90, 200)).max() <= 1


def test_options_of_model_and_clip_are_taken(engine: ComfyuiEngine, spec: ModelSpec) -> None:
    plain_one, skipped, rescaled = (
        np.asarray(drawn(engine, spec, seed=9, **more)[1], dtype=int)
        for more in ({}, {"clip_skip": 2}, {"guidance_rescale": 0.7})
    )
    assert not np.array_equal(plain_one, skipped)
    assert not np.array_equal(plain_one, rescaled)


def test_a_running_prompt_is_stopped(engine: ComfyuiEngine, spec: ModelSpec, server: Server) -> None:
    wanted = job(spec, steps=40)
    told = Told(cancel_on=(2,), victims=(wanted.attempt_id,))
    engine.generate(spec, [wanted], told, told)
    assert told.drawn == []
    assert max(told.steps) < 40
    assert server.find(str(wanted.attempt_id)).where is Where.ENDED


def test_another_life_of_ours_takes_a_running_prompt_up(spec: ModelSpec, engine: ComfyuiEngine) -> None:
    """Both hear the same prompt; it is sent once."""
    remote = Remote(name="live", url=URL)
    second = ComfyuiEngine(RemoteCard(remote, None), EngineOptions(remote=remote))
    wanted = job(spec, steps=12, seed=int(time.time()))
    first_told, second_told = Told(), Told()
    first = threading.Thread(target=engine.generate, args=(spec, [wanted], first_told, first_told))
    first.start()
    while not any(isinstance(event, Stepped) for event in first_told.events) and first.is_alive():
        time.sleep(0.05)
    second.generate(spec, [wanted], second_told, second_told)
    first.join(600)
    second.close()
    (one,), (other,) = first_told.drawn, second_told.drawn
    assert np.array_equal(np.asarray(one.image), np.asarray(other.image))


def test_memory_is_given_back_on_request(engine: ComfyuiEngine, spec: ModelSpec, server: Server) -> None:
    engine.load(spec)
    engine.unload(spec.key)
    assert server.stats()["devices"]
