"""A generator that drives a ComfyUI server, on a real NATS server: what it announces, draws, survives and takes up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from anime_cli.nats_server import NatsServer
from anime_common.artifacts import Artifacts, staging_key
from anime_common.contracts.generation import workflow_text
from anime_common.contracts.generator import (
    AbandonAttempt,
    AttemptFailed,
    AttemptFinished,
    CancelAttempt,
    HeldAttempt,
    OfferedJob,
    UnloadModel,
)
from anime_common.contracts.vocabulary import Phase, Sampler
from anime_common.messages import uuid7
from anime_common.service import Runtime
from anime_generator.metadata import read_png
from tests.comfyui.painter import Manners, Painter
from tests.generator.builders import offered
from tests.generator.conftest import Ledger, working
from tests.waiting import eventually

pytestmark = pytest.mark.slow

KEY = "anime"


def drawn(**changes: Any) -> OfferedJob:
    usual: dict[str, Any] = {"model": KEY, "width": 64, "height": 96, "steps": 4, "sampler": Sampler.EULER_A}
    return offered(**usual | changes)


@pytest.fixture
def painter(tmp_path: Path) -> Iterator[Painter]:
    with Painter(tmp_path / "comfyui", Manners(step=0.02)).serving() as found:
        yield found


class Place:
    """Where a worker finds its server, and how it is started."""

    def __init__(self, nats: NatsServer, ledger: Ledger, folder: Path, url: str) -> None:
        self._of = (nats, ledger, folder)
        self.file = folder / "comfyui.toml"
        self.write(url)

    def write(self, url: str, more: str = "") -> None:
        text = f'[servers.tower]\nurl = "{url}"\ndevice = "the-card"\nunreachable = 20\n{more}'
        self.file.write_text(text, encoding="utf-8")

    def worker(self, **changes: Any) -> AbstractAsyncContextManager[Runtime[Any]]:
        usual: dict[str, Any] = {"comfyui": self.file, "models_poll": 0.1, "generator_look_every": 0.2}
        return working(*self._of, **usual | changes)


@pytest.fixture
def place(nats: NatsServer, ledger: Ledger, tmp_path: Path, painter: Painter) -> Place:
    return Place(nats, ledger, tmp_path, painter.url)


@pytest.fixture
async def worker(place: Place) -> AsyncIterator[Runtime[Any]]:
    async with place.worker() as runtime:
        yield runtime


async def pictures(runtime: Runtime[Any], fact: AttemptFinished) -> list[bytes]:
    artifacts = Artifacts(runtime.settings.artifacts_url)
    keys = [staging_key(fact.job_id, fact.attempt_id, each.index, each.media_type) for each in fact.outputs]
    return [await artifacts.get(key) for key in keys]


def running(painter: Painter, step: int = 1) -> Callable[[], bool]:
    return lambda: painter.running is not None and painter.running.step >= step


async def test_its_server_is_announced_as_a_generator(worker: Runtime[Any], ledger: Ledger, painter: Painter) -> None:
    beat = ledger.last
    assert {model.key for model in beat.models} == {"anime", "pony-xl"}
    assert beat.engines == ("comfyui",)
    assert {lora.key: lora.family for each in ledger.beats for lora in each.loras} == {"ink-xl": "sdxl", "soft": "sd15"}
    assert beat.models[0].upscalers[0] == "realesrgan_x4plus_anime_6b"
    assert (beat.device.id, beat.device.kind, beat.device.name) == (
        "the-card",
        "cuda",
        "ComfyUI: NVIDIA GeForce RTX 3060",
    )
    assert (beat.device.memory_total, beat.device.memory_free) == (12 << 30, 10 << 30)
    assert (beat.backlog, beat.warnings) == (0, ())
    painter.memory["vram_free"] = 3 << 30
    await eventually(lambda: ledger.last.device.memory_free == 3 << 30)
    painter.models["checkpoints"].append("new_sd15.safetensors")
    await eventually(lambda: "new_sd15" in {model.key for model in ledger.last.models})


async def test_an_offer_becomes_pictures_like_with_any_other_engine(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    painter.manners.step = 0.15
    job = drawn(count=2, seed=40)
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    finished = (await ledger.facts(job))[-1]
    assert isinstance(finished, AttemptFinished)
    assert (finished.engine, finished.device) == ("comfyui", "ComfyUI: NVIDIA GeForce RTX 3060")
    assert [(each.index, each.seed, each.width, each.height) for each in finished.outputs] == [
        (0, 40, 64, 96),
        (1, 41, 64, 96),
    ]
    assert {Phase.ENCODING, Phase.SAMPLING, Phase.DECODING} <= finished.timings.keys()
    first, second = await pictures(worker, finished)
    record = read_png(first)
    assert record is not None
    assert (record["engine"], record["seed"]) == ("comfyui", 40)
    assert first != second
    assert painter.posts()[0]["prompt_id"] == str(job.attempt_id)
    percents = [each.percent for each in ledger.of(job)]
    assert percents == sorted(percents)
    steps = [each.step for each in ledger.of(job) if each.step and each.image == 0]
    assert list(dict.fromkeys(steps)) == [1, 2, 3, 4]
    assert ledger.previews


async def test_the_same_job_again_gets_files_of_its_own(worker: Runtime[Any], ledger: Ledger, painter: Painter) -> None:
    first, second = drawn(seed=7), drawn(seed=7)
    for job in (first, second):
        await ledger.offer(job)
        await ledger.sees(job, "started", "finished")
    written = sorted(str(path.relative_to(painter.folder)) for path in painter.folder.glob("output/**/*.png"))
    assert written == sorted(f"output/tower/{job.attempt_id}/00_00001_.png" for job in (first, second))


async def test_a_cancel_stops_ours_and_nobody_elses(worker: Runtime[Any], ledger: Ledger, painter: Painter) -> None:
    painter.manners.hold = 2
    theirs = painter.foreign()
    await eventually(running(painter))
    job = drawn()
    await ledger.offer(job)
    await eventually(lambda: bool(painter.pending))
    await eventually(lambda: ledger.last.backlog == 1)
    await ledger.order(CancelAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
    await ledger.sees(job, "started", "cancelled")
    assert painter.running is not None
    assert painter.running.prompt_id == theirs
    painter.manners.held = False
    await eventually(lambda: theirs in painter.history)
    assert painter.history[theirs]["status"]["status_str"] == "success"
    painter.manners.held = True
    other = drawn()
    await ledger.offer(other)
    await eventually(running(painter))
    await ledger.order(CancelAttempt(job_id=other.job_id, attempt_id=other.attempt_id))
    await ledger.sees(other, "started", "cancelled")
    assert painter.asked("/interrupt")[-1] == {"prompt_id": str(other.attempt_id)}


async def test_a_server_that_is_away_is_told_and_comes_back(
    place: Place, ledger: Ledger, tmp_path: Path, nats: NatsServer
) -> None:
    with Painter(tmp_path / "one").serving() as first:
        port = int(first.url.rpartition(":")[2])
        place.write(first.url)
        async with place.worker():
            first.stop()
            await eventually(lambda: not ledger.last.models)
            assert any("does not answer" in each for each in ledger.last.warnings)
            assert ledger.last.backlog is None
            with Painter(tmp_path / "two", port=port).serving():
                await eventually(lambda: bool(ledger.last.models))
                assert ledger.last.warnings == ()
                job = drawn()
                await ledger.offer(job)
                await ledger.sees(job, "started", "finished")


async def test_it_starts_while_its_server_is_away(place: Place, ledger: Ledger, tmp_path: Path) -> None:
    with Painter(tmp_path / "one").serving() as first:
        port, url = int(first.url.rpartition(":")[2]), first.url
    place.write(url)

    async with place.worker(wait=False):
        await eventually(lambda: bool(ledger.beats) and bool(ledger.last.warnings))
        assert ledger.last.models == ()
        with Painter(tmp_path / "late", port=port).serving():
            await eventually(lambda: bool(ledger.last.models))


async def test_a_server_started_anew_mid_run_loses_no_job(place: Place, ledger: Ledger, tmp_path: Path) -> None:
    with Painter(tmp_path / "one", Manners(hold=2)).serving() as first:
        port = int(first.url.rpartition(":")[2])
        place.write(first.url)
        async with place.worker():
            job = drawn()
            await ledger.offer(job)
            await eventually(running(first))
            first.stop()
            with Painter(tmp_path / "two", port=port).serving():
                await ledger.sees(job, "started", "failed")
                failed = (await ledger.facts(job))[-1]
                assert isinstance(failed, AttemptFailed)
                assert (failed.code, failed.retryable) == ("comfyui_lost", True)


async def test_a_wrong_header_is_told_at_once(place: Place, ledger: Ledger, painter: Painter) -> None:
    painter.manners.header = ("x-key", "right")
    place.write(painter.url, 'headers = { X-Key = "right" }\n')
    async with place.worker():
        assert ledger.last.models
        painter.manners.header = ("x-key", "other")
        await eventually(lambda: not ledger.last.models)
        assert "answers with HTTP 401: are its headers right?" in " ".join(ledger.last.warnings)


async def test_memory_that_is_short_is_made_room_for_and_tried_in_tiles(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    painter.manners.short_times = 1
    job = drawn()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    kinds = [{node["class_type"] for node in body["prompt"].values()} for body in painter.posts()]
    assert ["VAEDecodeTiled" in each for each in kinds] == [False, True]
    finished = (await ledger.facts(job))[-1]
    assert isinstance(finished, AttemptFinished)
    assert finished.warnings


async def test_a_picture_that_is_too_large_fails_with_advice(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    painter.manners.most_pixels = 64 * 64
    job = drawn()
    await ledger.offer(job)
    await ledger.sees(job, "started", "failed")
    failed = (await ledger.facts(job))[-1]
    assert isinstance(failed, AttemptFailed)
    assert (failed.code, failed.retryable) == ("out_of_memory", False)
    assert "Ask for a smaller picture" in failed.message
    assert (failed.engine, failed.workflow) == ("comfyui", "text-to-image")
    assert {"Checkpoint", "Sampler"} <= {cost.title for cost in failed.costs}


async def test_models_are_freed_on_order_but_not_while_anything_runs(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    job = drawn()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    await eventually(lambda: ledger.last.resident == (KEY,))
    painter.manners.hold = 1
    painter.foreign()
    await eventually(running(painter, 0))
    await ledger.order(UnloadModel())
    await eventually(lambda: ledger.last.resident == ())
    assert painter.frees == 0
    painter.manners.held = False
    await eventually(lambda: painter.running is None)
    again = drawn(seed=99)
    await ledger.offer(again)
    await ledger.sees(again, "started", "finished")
    await ledger.order(UnloadModel())
    await eventually(lambda: painter.frees == 1)


async def test_another_program_that_needs_the_card_gets_it(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    job = drawn()
    await ledger.offer(job)
    await ledger.sees(job, "started", "finished")
    await eventually(lambda: ledger.last.resident == (KEY,))
    assert painter.frees == 0
    painter.memory["vram_free"] = 100 << 20
    await eventually(lambda: painter.frees == 1)
    await eventually(lambda: ledger.last.resident == ())
    assert "another program took" in ledger.last.residency[-1].reason


async def test_a_job_may_bring_its_workflow_where_that_is_switched_on(
    place: Place, ledger: Ledger, painter: Painter
) -> None:
    place.write(painter.url, "inline = true\n")
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "theirs"}},
    }
    job = offered(
        model="workflow", workflow=workflow_text(graph), width=512, height=512, sampler=Sampler.EULER, steps=1
    )
    bad = offered(
        model="workflow", workflow=workflow_text({**graph, "3": {"class_type": "LoadImage", "inputs": {}}}),
        width=512, height=512, sampler=Sampler.EULER, steps=1,
    )  # fmt: skip
    async with place.worker() as runtime:
        await ledger.offer(job)
        await ledger.sees(job, "started", "finished")
        finished = (await ledger.facts(job))[-1]
        assert isinstance(finished, AttemptFinished)
        assert [(each.width, each.height) for each in finished.outputs] == [(48, 32)]
        (picture,) = await pictures(runtime, finished)
        assert read_png(picture) is not None
        await ledger.offer(bad)
        await ledger.sees(bad, "started", "failed")
        failed = (await ledger.facts(bad))[-1]
        assert isinstance(failed, AttemptFailed)
        assert (failed.code, failed.retryable) == ("node_not_allowed", False)
    assert len(painter.posts()) == 1


class TestResuming:
    """The worker is stopped while the server draws, and comes back."""

    async def left(self, place: Place, ledger: Ledger, painter: Painter, **changes: Any) -> OfferedJob:
        """A job that the worker was drawing when it was stopped in order."""
        painter.manners.hold, painter.manners.held = 3, True
        job = drawn(**changes)
        async with place.worker(generator_finish_grace=0.1):
            await ledger.offer(job)
            await eventually(running(painter, 2))
            await eventually(lambda: any(each.step == 2 for each in ledger.of(job)))
        assert not ledger.last.goodbye
        assert await ledger.kinds(job) == ["started"]
        return job

    async def test_the_prompt_goes_on_and_is_taken_up(self, place: Place, ledger: Ledger, painter: Painter) -> None:
        job = await self.left(place, ledger, painter)
        before = len(ledger.beats)
        async with place.worker() as runtime:
            first = ledger.beats[before]
            (held,) = first.attempts
            assert isinstance(held, HeldAttempt)
            assert (held.attempt_id, held.started) == (job.attempt_id, True)
            # It is heard again, under the id that it was sent with.
            await eventually(lambda: painter.sockets() == (painter.posts()[0]["client_id"],))
            painter.manners.step, told = 0.15, len(ledger.of(job))
            painter.manners.held = False
            await ledger.sees(job, "started", "finished")
            finished = (await ledger.facts(job))[-1]
            assert isinstance(finished, AttemptFinished)
            assert finished.incarnation == first.incarnation
            assert 3 in {each.step for each in ledger.of(job)[told:]}
            (picture,) = await pictures(runtime, finished)
            assert read_png(picture) is not None
        assert len(painter.posts()) == 1

    async def test_one_that_ended_meanwhile_is_fetched(self, place: Place, ledger: Ledger, painter: Painter) -> None:
        job = await self.left(place, ledger, painter, count=2)
        painter.manners.held = False
        await eventually(lambda: str(job.attempt_id) in painter.history)
        async with place.worker():
            await ledger.sees(job, "started", "finished")
        assert len(painter.posts()) == 2

    async def test_one_that_is_nobodys_any_more_is_stopped(
        self, place: Place, ledger: Ledger, painter: Painter
    ) -> None:
        job = await self.left(place, ledger, painter)
        async with place.worker():
            await eventually(lambda: job.attempt_id in ledger.held())
            await ledger.order(AbandonAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
            await eventually(lambda: str(job.attempt_id) in painter.history)
        assert await ledger.kinds(job) == ["started"]
        messages = painter.history[str(job.attempt_id)]["status"]["messages"]
        assert messages[-1][0] == "execution_interrupted"

    async def test_what_another_worker_left_is_not_ours(self, place: Place, ledger: Ledger, painter: Painter) -> None:
        painter.manners.hold = 2
        painter.foreign()
        async with place.worker():
            assert ledger.last.attempts == ()
            await eventually(running(painter))


async def test_a_prompt_of_ours_that_nobody_holds_is_stopped(
    worker: Runtime[Any], ledger: Ledger, painter: Painter
) -> None:
    painter.manners.hold = 2
    job = drawn()
    await ledger.offer(job)
    await eventually(running(painter))
    assert painter.running is not None
    orphan = painter.running
    # As if another attempt's prompt had been left by a crash: the mark is ours, the attempt is not held.
    stray = drawn()
    marked = {**orphan.extra["tower_anime"], "job": stray.model_dump(mode="json")}
    painter.take(
        {"prompt": orphan.graph, "prompt_id": str(uuid7()), "extra_data": {"tower_anime": marked}}, orphan.outputs
    )
    await eventually(lambda: not painter.pending)
    painter.manners.held = False
    await ledger.sees(job, "started", "finished")
