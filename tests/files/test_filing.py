"""Filing on a real database and folder: exactly once, whatever happens in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from anime_common import failpoints
from anime_common.artifacts import Artifacts, staging_key, staging_prefix
from anime_common.contracts.files import Filed, FileDeleted, FileQuery, FileRef, FilingFailed
from anime_common.contracts.jobs import JobCancelled, JobCompleted, JobEvent, JobFailed
from anime_common.contracts.vocabulary import JobState
from anime_common.failpoints import FailpointError
from anime_common.messages import uuid7
from anime_common.outcomes import Unavailable
from tests.clips import animation, clip, sound
from tests.files.conftest import NOW, Desk, delivery, filing_of, job, picture, staged
from tests.waiting import eventually

POINTS = ("files.after_reserve", "files.after_copy", "files.before_commit", "files.after_commit")


async def test_files_every_output(desk: Desk) -> None:
    filing = await desk.filed(count=2)
    (filed,) = await desk.said()
    assert isinstance(filed, Filed)
    code = filing.job.code
    assert [output.key for output in filed.outputs] == [f"sky/2026-03-14/image/{code}_{i:02d}.png" for i in (0, 1)]
    assert [(output.index, output.seed, output.sha256) for output in filed.outputs] == [
        (each.index, each.seed, each.sha256) for each in filing.staged
    ]
    assert desk.lying() == [output.key for output in filed.outputs]
    assert await desk.said_ids() == [f"1:files:filed:{filing.job.id}:{filing.attempt_id}"]
    assert desk.committed == 1


async def test_a_large_picture_has_a_thumbnail_of_its_own(desk: Desk) -> None:
    data = picture((800, 600))
    filing = filing_of(job(), [staged(data, size=(800, 600))])
    await desk.stage(filing, data)
    await desk.ledger.handle([delivery(filing)])
    (row,) = await desk.rows("filed")
    assert row["thumbnail_key"] == f"thumbnails/{row['id'].hex[-2:]}/{row['id']}.webp"
    assert desk.lying() == sorted([row["key"], row["thumbnail_key"]])


@pytest.mark.parametrize("point", POINTS)
async def test_dying_at_any_point_files_once(desk: Desk, point: str) -> None:
    data = picture()
    filing = filing_of(job(), [staged(data)])
    await desk.stage(filing, data)
    failpoints.configure(f"{point}=error")
    with pytest.raises(FailpointError):
        await desk.ledger.handle([delivery(filing)])
    await desk.ledger.handle([delivery(filing)])
    (filed,) = await desk.said()
    assert isinstance(filed, Filed)
    (row,) = await desk.rows()
    assert (row["state"], row["id"], row["key"]) == ("filed", filed.outputs[0].file_id, filed.outputs[0].key)
    assert desk.lying() == [row["key"]]
    assert await desk.artifacts.get(row["key"]) == data


@pytest.mark.parametrize("point", POINTS)
async def test_dying_at_any_point_fails_once(desk: Desk, point: str) -> None:
    good, torn = picture(), picture(colour="red")
    filing = filing_of(job(), [staged(good, 0), staged(torn, 1)])
    await desk.stage(filing, good, torn[:-1])
    failpoints.configure(f"{point}=error")
    with pytest.raises(FailpointError):
        await desk.ledger.handle([delivery(filing)])
    await desk.ledger.handle([delivery(filing)])
    (refused,) = await desk.said()
    assert isinstance(refused, FilingFailed)
    assert [row["state"] for row in await desk.rows()] == ["withdrawn", "withdrawn"]
    await desk.sweeper.sweep()
    assert desk.lying() == []


async def test_a_nudge_is_answered_again_with_the_same_outputs(desk: Desk) -> None:
    filing = await desk.filed()
    nudge = filing.model_copy(update={"repeat": 1})
    await desk.ledger.handle([delivery(nudge)])
    await desk.ledger.handle([delivery(nudge)])
    first, second = await desk.said()
    assert isinstance(first, Filed)
    assert isinstance(second, Filed)
    assert (first.outputs, second.repeat) == (second.outputs, 1)
    ident = f"1:files:filed:{filing.job.id}:{filing.attempt_id}"
    assert await desk.said_ids() == [ident, f"{ident}:1"]


async def test_repeats_in_one_batch_are_one_filing_with_two_answers(desk: Desk) -> None:
    data = picture()
    filing = filing_of(job(), [staged(data)])
    nudge = filing.model_copy(update={"repeat": 1})
    await desk.stage(filing, data)
    await desk.ledger.handle([delivery(filing), delivery(nudge), delivery(filing)])
    first, second = await desk.said()
    assert isinstance(first, Filed)
    assert isinstance(second, Filed)
    assert first.outputs == second.outputs
    assert len(await desk.rows()) == 1


async def test_a_nudge_after_a_failure_gets_the_same_verdict(desk: Desk) -> None:
    data = picture()
    filing = filing_of(job(), [staged(data)])
    await desk.ledger.handle([delivery(filing)])
    await desk.stage(filing, data)  # too late: the ledger has given the job to another attempt
    await desk.ledger.handle([delivery(filing.model_copy(update={"repeat": 1}))])
    first, second = await desk.said()
    assert isinstance(first, FilingFailed)
    assert isinstance(second, FilingFailed)
    assert (first.code, second.code) == ("staging_missing", "staging_missing")
    assert await desk.rows("filed") == []


@pytest.mark.parametrize(
    ("content", "code", "retryable"),
    [
        (None, "staging_missing", True),
        (picture(colour="red"), "staging_corrupt", True),
        (picture()[:-4], "staging_corrupt", True),
    ],
)
async def test_bad_staging_fails_the_filing(desk: Desk, content: bytes | None, code: str, retryable: bool) -> None:
    filing = filing_of(job(), [staged(picture())])
    if content is not None:
        await desk.stage(filing, content)
    await desk.ledger.handle([delivery(filing)])
    (refused,) = await desk.said()
    assert isinstance(refused, FilingFailed)
    assert (refused.code, refused.retryable) == (code, retryable)
    assert desk.lying() == []


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (b"<html>no picture</html>", {}),
        (picture((32, 32)), {}),
        (b"x" * 40, {"media_type": "video/mp4"}),
        (clip(), {"media_type": "video/webm"}),
        (clip()[:-40], {"media_type": "video/mp4"}),
        (sound(0.1), {"media_type": "audio/flac", "width": 0, "height": 0}),
        (picture(kind="WEBP"), {"media_type": "image/gif"}),
    ],
)
async def test_what_is_no_picture_is_withdrawn_again(desk: Desk, data: bytes, changes: dict[str, Any]) -> None:
    filing = filing_of(job(), [staged(data, **changes)])
    await desk.stage(filing, data)
    await desk.ledger.handle([delivery(filing)])
    (refused,) = await desk.said()
    assert isinstance(refused, FilingFailed)
    assert (refused.code, refused.retryable) == ("not_a_picture", False)
    await desk.sweeper.sweep()
    assert desk.lying() == []


async def test_clips_animations_and_sounds_are_filed_by_their_type(desk: Desk) -> None:
    contents = {
        "video/webm": clip(container="webm", codec="libvpx"),
        "image/gif": animation("GIF"),
        "audio/flac": sound(0.5, container="flac", codec="flac"),
        "image/png": picture(),
    }
    outputs = [
        staged(data, index, (0, 0) if media_type.startswith("audio/") else (64, 48), media_type=media_type)
        for index, (media_type, data) in enumerate(contents.items())
    ]
    filing = filing_of(job(), outputs)
    await desk.stage(filing, *contents.values())
    await desk.ledger.handle([delivery(filing)])
    (filed,) = await desk.said()
    assert isinstance(filed, Filed)
    code = filing.job.code
    assert [(output.key, output.type, output.duration, output.frames) for output in filed.outputs] == [
        (f"sky/2026-03-14/video/{code}_00.webm", "video", 1.0, 8),
        (f"sky/2026-03-14/image/{code}_01.gif", "image", 0.4, 5),
        (f"sky/2026-03-14/audio/{code}_02.flac", "audio", 0.5, None),
        (f"sky/2026-03-14/image/{code}_03.png", "image", None, None),
    ]
    for output, data in zip(filed.outputs, contents.values(), strict=True):
        assert await desk.artifacts.get(output.key) == data
    moving, animated, heard, still = [await desk.library.get(FileRef(id=output.file_id)) for output in filed.outputs]
    for view in (moving, animated):
        assert view.thumbnail_key == f"thumbnails/{view.id.hex[-2:]}/{view.id}.webp"
        assert (await desk.artifacts.get(view.thumbnail_key))[8:12] == b"WEBP"
    assert (heard.thumbnail_key, still.thumbnail_key) == (None, still.key)
    assert (heard.width, heard.height, heard.duration) == (0, 0, 0.5)
    assert [view.id for view in (await desk.library.list(FileQuery(type="audio"))).items] == [heard.id]


async def test_a_clip_that_dies_half_way_has_one_poster(desk: Desk) -> None:
    data = clip()
    filing = filing_of(job(), [staged(data, media_type="video/mp4")])
    await desk.stage(filing, data)
    failpoints.configure("files.after_copy=error")
    with pytest.raises(FailpointError):
        await desk.ledger.handle([delivery(filing)])
    await desk.ledger.handle([delivery(filing)])
    (row,) = await desk.rows("filed")
    assert (row["duration"], row["frames"]) == (1.0, 8)
    assert desk.lying() == sorted([row["key"], row["thumbnail_key"]])


async def test_the_next_attempt_gets_another_key_after_a_failure(desk: Desk) -> None:
    data = picture()
    first = filing_of(job(), [staged(data)])
    await desk.ledger.handle([delivery(first)])
    again = filing_of(first.job.model_copy(update={"attempt_id": uuid7(), "version": 9}), [staged(data)])
    await desk.stage(again, data)
    await desk.ledger.handle([delivery(again)])
    (row,) = await desk.rows("filed")
    assert row["key"] == f"sky/2026-03-14/image/{first.job.code}_00-2.png"


async def test_files_nobody_knows_of_are_not_overwritten(desk: Desk) -> None:
    data, foreign = picture(), b"somebody's file"
    filing = filing_of(job(), [staged(data)])
    await desk.artifacts.put(f"sky/2026-03-14/image/{filing.job.code}_00.png", foreign)
    await desk.stage(filing, data)
    await desk.ledger.handle([delivery(filing)])
    (row,) = await desk.rows("filed")
    assert row["key"] == f"sky/2026-03-14/image/{filing.job.code}_00-2.png"
    assert await desk.artifacts.get(f"sky/2026-03-14/image/{filing.job.code}_00.png") == foreign


async def test_equal_names_in_one_batch_do_not_collide(desk: Desk) -> None:
    data = picture()
    filings = [filing_of(job(code="samecode"), [staged(data)]) for _ in range(3)]
    for filing in filings:
        await desk.stage(filing, data)
    await desk.ledger.handle([delivery(filing) for filing in filings])
    keys = {row["key"] for row in await desk.rows("filed")}
    assert keys == {f"sky/2026-03-14/image/samecode_00{suffix}.png" for suffix in ("", "-2", "-3")}


async def test_two_instances_with_the_same_message_file_once(desk: Desk) -> None:
    data = picture()
    filings = [filing_of(job(), [staged(data)]) for _ in range(8)]
    for filing in filings:
        await desk.stage(filing, data)
    batch = [delivery(filing) for filing in filings]
    await asyncio.gather(desk.ledger.handle(batch), desk.ledger.handle(batch[::-1]))
    assert len(await desk.said()) == 8
    assert desk.lying() == sorted(row["key"] for row in await desk.rows())


async def test_a_copy_that_comes_after_a_deletion_is_removed_again(desk: Desk, tmp_path: Path) -> None:
    """A process that was frozen before it copied wakes up when the file has been filed by another, and deleted."""
    data = picture()
    filing = filing_of(job(), [staged(data)])
    await desk.stage(filing, data)
    (held := tmp_path / "held").touch()
    failpoints.configure(f"files.after_reserve=hold:{held}", record := tmp_path / "hits")
    late = asyncio.create_task(desk.ledger.handle([delivery(filing)]))
    await eventually(record.exists)
    await desk.ledger.handle([delivery(filing)])
    (row,) = await desk.rows("filed")
    await desk.library.delete(FileRef(id=row["id"]))
    await desk.sweeper.sweep()
    assert desk.lying() == []
    held.unlink()
    await late
    assert desk.lying() == [row["key"]]
    await desk.sweeper.sweep()
    assert desk.lying() == []
    assert [type(message) for message in await desk.said()] == [Filed, FileDeleted]


async def test_a_store_that_is_away_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture()
    filing = filing_of(job(), [staged(data)])
    await desk.stage(filing, data)

    async def away(*_: object) -> int:
        raise Unavailable("the artifact store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Artifacts, "copy", away)
        with pytest.raises(Unavailable):
            await desk.ledger.handle([delivery(filing)])
    assert await desk.said() == []
    await desk.ledger.handle([delivery(filing)])
    assert [type(message) for message in await desk.said()] == [Filed]


async def test_a_listing_that_cannot_be_filed_is_refused_and_does_not_hold_up_the_others(desk: Desk) -> None:
    data = picture()
    bad = filing_of(job(), [staged(data), staged(data)])
    good = filing_of(job(), [staged(data)])
    await desk.stage(good, data)
    await desk.ledger.handle([delivery(bad), delivery(good)])
    refused, filed = await desk.said()
    assert isinstance(refused, FilingFailed)
    assert refused.code == "bad_listing"
    assert isinstance(filed, Filed)


class TestClearing:
    """What an ended job left in staging goes; what a newer attempt of it needs stays."""

    @pytest.mark.parametrize(
        ("event", "state"),
        [
            (JobCompleted, JobState.COMPLETED),
            (JobFailed, JobState.FAILED),
            (JobCancelled, JobState.CANCELLED),
        ],
    )
    async def test_every_end_clears(self, desk: Desk, event: type[JobEvent], state: JobState) -> None:
        filing = await desk.filed()
        await desk.ledger.handle([delivery(event(job=filing.job.model_copy(update={"state": state, "version": 6})))])
        assert not (desk.root / staging_prefix(filing.job.id)).exists()
        assert len(desk.lying()) == 1

    async def test_a_late_end_spares_the_next_attempt(self, desk: Desk) -> None:
        old, newer = uuid7(NOW), uuid7(NOW + timedelta(minutes=1))
        ended = job(JobState.FAILED, attempt_id=old)
        for attempt in (old, newer):
            await desk.artifacts.put(staging_key(ended.id, attempt, 0, "image/png"), b"x")
        await desk.ledger.handle([delivery(JobFailed(job=ended))])
        assert await desk.artifacts.list(staging_prefix(ended.id)) == [staging_key(ended.id, newer, 0, "image/png")]

    async def test_an_end_without_any_staging_is_fine(self, desk: Desk) -> None:
        await desk.ledger.handle([delivery(JobCancelled(job=job(JobState.CANCELLED, attempt_id=None)))])

    async def test_a_nudge_after_the_end_is_still_answered(self, desk: Desk) -> None:
        filing = await desk.filed()
        await desk.ledger.handle([delivery(JobCompleted(job=filing.job))])
        await desk.ledger.handle([delivery(filing.model_copy(update={"repeat": 3}))])
        assert [type(message) for message in await desk.said()] == [Filed, Filed]
