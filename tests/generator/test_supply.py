"""The way of the pictures that jobs begin with: from the library, over a real bus and a real store, to the worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from anime_cli.nats_server import NatsServer
from anime_common import rpc
from anime_common.artifacts import Artifacts
from anime_common.contracts.files import GET_FILE, FileRef, FileView
from anime_common.contracts.generation import Upscaling
from anime_common.contracts.generator import AttemptFailed, CancelAttempt, OfferedJob
from anime_common.messages import uuid7
from anime_common.outcomes import not_found
from anime_common.topology import FILES, GENERATOR
from anime_generator.model import Failure
from anime_generator.supply import Supply
from tests import builders
from tests.buses import connected
from tests.generator.builders import offered
from tests.generator.conftest import Ledger, working
from tests.waiting import eventually

NO_FILES: dict[str, Any] = {"generator_input_patience": 0.2}


@dataclass
class Library:
    """The files service, played by the test; `asked` are the files that it was asked for."""

    artifacts: Artifacts
    files: dict[UUID, FileView] = field(default_factory=dict)
    asked: list[UUID] = field(default_factory=list)

    async def add(self, data: bytes, *, stored: bytes | None = None, **fields: Any) -> UUID:
        """A file of these bytes, of which the store has others if `stored`."""
        file_id = uuid7()
        usual: dict[str, Any] = {
            "id": file_id,
            "key": f"default/2026-06-01/upload/{file_id.hex[-8:]}_00.png",
            "project_id": builders.DEFAULT_PROJECT,
            "project": "default",
            "date": "2026-06-01",
            "index": 0,
            "type": "upload",
            "media_type": "image/png",
            "size": len(data),
            "width": 64,
            "height": 64,
            "sha256": hashlib.sha256(data).hexdigest(),
            "created_at": datetime.now(UTC),
            "updated_at": datetime.now(UTC),
        }
        view = FileView.model_validate(usual | fields)
        self.files[file_id] = view
        await self.artifacts.put(view.key, data if stored is None else stored)
        return file_id

    async def get(self, question: FileRef) -> FileView:
        self.asked.append(question.id)
        if question.id not in self.files:
            raise not_found("file", question.id, "id")
        return self.files[question.id]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Artifacts((tmp_path / "artifacts").as_uri()))


@asynccontextmanager
async def answering(nats: NatsServer, library: Library) -> AsyncIterator[None]:
    """The library answers while the block runs."""
    async with connected(nats, FILES) as bus:
        await rpc.serve(bus, {GET_FILE: library.get})
        yield


@asynccontextmanager
async def supplying(nats: NatsServer, library: Library, **how: Any) -> AsyncIterator[Supply]:
    """A worker's supply, with its own connection and permissions."""
    async with connected(nats, GENERATOR) as bus:
        yield Supply(bus, library.artifacts, **{"patience": 10.0} | how)


def always() -> bool:
    return True


async def failure_of(ledger: Ledger, job: OfferedJob) -> AttemptFailed:
    await ledger.sees(job, "started", "failed")
    failed = (await ledger.facts(job))[1]
    assert isinstance(failed, AttemptFailed)
    return failed


class TestBringing:
    async def test_each_file_comes_once_in_the_order_in_which_it_is_named(
        self, nats: NatsServer, ledger: Ledger, library: Library
    ) -> None:
        ground, mask = await library.add(b"ground"), await library.add(b"the mask")
        jobs = [offered(init_image=ground, mask=mask), offered(init_image=mask), offered()]
        async with answering(nats, library), supplying(nats, library) as supply:
            found = await supply.bring(jobs, always)
        assert found.blob == b"groundthe mask"
        assert [(each.file_id, each.size) for each in found.inputs] == [(ground, 6), (mask, 8)]
        assert found.inputs[0].sha256 == hashlib.sha256(b"ground").hexdigest()
        assert found.failures == {}
        assert sorted(library.asked) == sorted([ground, mask])

    async def test_what_one_job_lacks_is_no_harm_to_another(
        self, nats: NatsServer, ledger: Ledger, library: Library
    ) -> None:
        there, gone = await library.add(b"there"), uuid7()
        fine, broken, plain = offered(init_image=there), offered(init_image=there, mask=gone), offered()
        async with answering(nats, library), supplying(nats, library) as supply:
            found = await supply.bring([fine, broken, plain], always)
        text = f"mask: there is no file {gone} in the library"
        assert found.failures == {broken.attempt_id: Failure("input_missing", text)}
        assert found.blob == b"there"

    @pytest.mark.parametrize(
        ("change", "code", "reason"),
        [
            ({"media_type": "video/mp4", "type": "video"}, "input_unusable", "is video/mp4, not a picture"),
            ({"stored": b"others"}, "input_unusable", "is damaged"),
            ({"stored": b"byte"}, "input_unusable", "is damaged"),
            ({"size": 1000}, "input_unusable", "too large with its 1000 bytes: at most 100 bytes"),
            ({"width": 1025}, "input_unusable", "of 1025 x 64 pixels would be enlarged beyond 4096 a side"),
        ],
        ids=["video", "changed", "cut", "large", "enlarged"],
    )
    async def test_what_cannot_be_drawn_from(
        self, nats: NatsServer, ledger: Ledger, library: Library, change: dict[str, Any], code: str, reason: str
    ) -> None:
        file_id = await library.add(b"bytes!", **change)
        job = offered(init_image=file_id, strength=0.0, upscale=Upscaling(factor=4.0, upscaler="lanczos"))
        async with answering(nats, library), supplying(nats, library, limit=100) as supply:
            found = await supply.bring([job], always)
        failure = found.failures[job.attempt_id]
        assert failure.code == code
        assert failure.message.startswith("init_image: ")
        assert reason in failure.message
        assert found.inputs == ()

    async def test_a_file_whose_bytes_have_just_been_deleted_is_missing(
        self, nats: NatsServer, ledger: Ledger, library: Library
    ) -> None:
        file_id = await library.add(b"bytes")
        job = offered(init_image=file_id)
        await library.artifacts.delete(library.files[file_id].key)
        async with answering(nats, library), supplying(nats, library) as supply:
            found = await supply.bring([job], always)
        assert found.failures[job.attempt_id].code == "input_missing"

    async def test_the_inputs_of_a_run_share_one_limit(
        self, nats: NatsServer, ledger: Ledger, library: Library
    ) -> None:
        job = offered(init_image=await library.add(b"x" * 60), mask=await library.add(b"y" * 60))
        async with answering(nats, library), supplying(nats, library, limit=100) as supply:
            found = await supply.bring([job], always)
        assert found.failures[job.attempt_id].message.startswith("mask: ")

    async def test_a_library_that_comes_back_in_time_is_waited_for(
        self, nats: NatsServer, ledger: Ledger, library: Library
    ) -> None:
        job = offered(init_image=await library.add(b"bytes"))
        async with supplying(nats, library) as supply:
            tries: list[bool] = []

            def wanted() -> bool:
                tries.append(True)
                return True

            bringing = asyncio.create_task(supply.bring([job], wanted))
            await eventually(lambda: len(tries) > 1)
            async with answering(nats, library):
                assert (await bringing).blob == b"bytes"

    async def test_nobody_waits_for_what_nobody_wants(self, nats: NatsServer, ledger: Ledger, library: Library) -> None:
        job = offered(init_image=uuid7())
        async with supplying(nats, library, patience=60.0) as supply:
            found = await asyncio.wait_for(supply.bring([job], lambda: False), 10)
        assert found.failures[job.attempt_id].code == "input_unavailable"


class TestAtWork:
    async def test_a_missing_file_fails_its_attempt_for_good(
        self, nats: NatsServer, ledger: Ledger, library: Library, tmp_path: Path
    ) -> None:
        job, plain = offered(init_image=uuid7()), offered()
        async with answering(nats, library), working(nats, ledger, tmp_path):
            await ledger.offer(job, plain)
            failed = await failure_of(ledger, job)
            await ledger.sees(plain, "started", "finished")
        assert (failed.code, failed.retryable, failed.counts) == ("input_missing", False, True)
        assert failed.message == f"init_image: there is no file {job.settings.init_image} in the library"

    async def test_without_a_library_it_may_be_tried_again(
        self, nats: NatsServer, ledger: Ledger, tmp_path: Path
    ) -> None:
        job, plain = offered(init_image=uuid7()), offered()
        async with working(nats, ledger, tmp_path, **NO_FILES):
            await ledger.offer(job)
            failed = await failure_of(ledger, job)
            await ledger.offer(plain)
            await ledger.sees(plain, "started", "finished")
        assert (failed.code, failed.retryable) == ("input_unavailable", True)
        assert "init_image: " in failed.message

    async def test_cancelling_while_it_is_brought(self, nats: NatsServer, ledger: Ledger, tmp_path: Path) -> None:
        job, plain = offered(init_image=uuid7()), offered()
        async with working(nats, ledger, tmp_path, generator_input_patience=60.0):
            await ledger.offer(job)
            await eventually(lambda: job.attempt_id in ledger.held())
            await ledger.order(CancelAttempt(job_id=job.job_id, attempt_id=job.attempt_id))
            await ledger.sees(job, "cancelled")
            await ledger.offer(plain)
            await ledger.sees(plain, "started", "finished")

    async def test_stopping_while_it_is_brought_gives_it_back(
        self, nats: NatsServer, ledger: Ledger, tmp_path: Path
    ) -> None:
        job = offered(init_image=uuid7())
        async with working(nats, ledger, tmp_path, generator_input_patience=60.0) as runtime:
            await ledger.offer(job)
            await eventually(lambda: job.attempt_id in ledger.held())
            runtime.stop.set()
            await ledger.sees(job, "released")
